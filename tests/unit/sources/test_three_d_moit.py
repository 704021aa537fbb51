"""The publisher's files are not at hand: these tests write small ones in its layout."""

import json

import pytest

from dataset_builders.schema import Drop
from dataset_builders.sources.three_d_moit import SOURCE, read

ASKED = "What is the LogP of this molecule? If uncertain, provide an estimate. Respond with the numerical value only."
WEIGHT = "The Molecular Weight for the input molecule is 397.33 g/mol."
SCF = "The SCF Energy for the input molecule is -1.880e+05 eV."


def entry(task, output, input="887", instruction=ASKED):
    return {"instruction": instruction, "input": input, "output": output, "task": task}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / SOURCE.name
    folder.mkdir()
    (folder / "cids.csv").write_text("cid,smiles\n887,CO\n962,O\n")
    return folder


def read_one(folder, *entries, file="pubchem/train/2d_computed_properties.json", splits=("train", "valid", "test")):
    for split in splits:
        path = folder / file.replace("/train/", f"/{split}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entries))
    return list(read(folder / file.replace("/train/", f"/{splits[0]}/")))


@pytest.mark.parametrize(
    ("word", "task", "text"),
    [
        ("Molecular Weight", "molecular_weight", WEIGHT),
        ("LogP", "logp", "The LogP for the input molecule is -2.00."),
        ("Topological Polar Surface Area", "tpsa",
         "The Topological Polar Surface Area for the input molecule is 115.00 Å²."),
        ("Complexity", "complexity", "The Complexity for the input molecule is 117.00."),
    ],
)  # fmt: skip
def test_a_property_keeps_the_publishers_answer_but_not_its_question(folder, word, task, text):
    (record,) = read_one(folder, entry(word, text))
    assert (record.task, record.text, record.instruction) == (task, text, "")
    assert (record.molecules, record.notation) == ({"molecule": "CO"}, "smiles")
    assert (record.split, record.publisher_id, record.place) == ("train", "887", "1")


def test_a_question_on_a_description_is_the_instruction(folder):
    file = "pubchem/train/2d_descriptive_properties.json"
    (record,) = read_one(folder, entry("Description", "Yes.", "962", "Is it wet?"), file=file)
    assert (record.task, record.instruction, record.text) == ("description_qa", "Is it wet?", "Yes.")
    assert record.molecules == {"molecule": "O"}
    assert len(SOURCE.present(folder.parent)) == 3


def test_an_scf_rows_index_is_never_taken_for_a_cid(folder):
    file = "pubchemqc/train/3d_computed_properties_unit.json"
    assert read_one(folder, entry("SCF Energy", SCF), file=file) == [Drop("scf_energy", "1", "index not found")]
    (folder / "pubchemqc" / "indices.csv").write_text("index,smiles\n887,BrCBr\n")
    (record,) = read_one(folder, entry("SCF Energy", SCF), file=file)
    assert (record.task, record.text, record.value) == ("scf_energy", SCF, None)
    assert (record.molecules, record.publisher_id) == ({"molecule": "BrCBr"}, "index 887")


@pytest.mark.parametrize(
    ("raw", "task", "reason"),
    [
        (entry("LogP", "2.00", "5"), "logp", "CID not found"),
        (entry("LogP", "2.00", "[C][O]"), "logp", "the input is no cid"),
        (entry("LogP", "2.00", None), "logp", "input is missing, blank or not text"),
        (entry("LogP", "  "), "logp", "output is missing, blank or not text"),
        (entry("LogP", "unknown"), "logp", "the answer has no number"),
        (entry("Description", "Yes.", instruction=" "), "description_qa", "instruction is missing, blank or not text"),
        (entry("HOMO", "The HOMO for the input molecule is -5.850 eV."), "homo_lumo",
         "HOMO, LUMO and gap are in eV here; homo_lumo takes QM9's, in Hartree"),
        (entry("HOMO-LUMO Gap", "5.1 eV"), "homo_lumo",
         "HOMO, LUMO and gap are in eV here; homo_lumo takes QM9's, in Hartree"),
        (entry("Boiling point", "5"), "all tasks", "`task` is none of 3D-MoIT's"),
        (entry(["LogP"], "5"), "all tasks", "`task` is none of 3D-MoIT's"),
        ("LogP", "all tasks", "the record is not a JSON object"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_dropped_with_the_reason(folder, raw, task, reason):
    dropped, kept = read_one(folder, raw, entry("Molecular Weight", WEIGHT))
    assert dropped == Drop(task, "1", reason)
    assert kept.text == WEIGHT


def test_without_a_table_every_cid_is_unknown(folder):
    (folder / "cids.csv").unlink()
    assert read_one(folder, entry("LogP", "2.00")) == [Drop("logp", "1", "CID not found")]


@pytest.mark.parametrize("row", ["abc,CO", "887,CO,O", ",CO"])
def test_a_broken_table_is_named(folder, row):
    (folder / "cids.csv").write_text(f"cid,smiles\n962,O\n{row}\n")
    with pytest.raises(ValueError, match=r"cids\.csv, row 2: expected cid,smiles with a whole number as cid"):
        read_one(folder, entry("LogP", "2.00"))


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("valid", "train", "test"), "validation"),
        (("valid", "test"), "train"),
        (("valid", "train"), "test"),
        (("valid",), ""),
        (("test",), "test"),
    ],
)
def test_validation_stands_in_for_the_file_that_is_absent(folder, splits, expected):
    (record,) = read_one(folder, entry("Molecular Weight", WEIGHT), splits=splits)
    assert record.split == expected


def test_the_split_must_be_told_by_the_folder(folder):
    with pytest.raises(ValueError, match=r"json: expected a folder train, valid, test around the file"):
        read_one(folder, entry("LogP", "2.00"), splits=("pretrain",))


def test_a_cut_file_is_named(folder):
    read_one(folder, entry("Molecular Weight", WEIGHT))
    path = folder / "pubchem" / "train" / "2d_computed_properties.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"2d_computed_properties\.json: not JSON, or cut short, after record 0"):
        list(read(path))
