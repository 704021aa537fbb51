"""The publisher's files are not at hand: these tests write small ones in its two layouts."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from dataset_builders.schema import Drop
from dataset_builders.sources.presto import SOURCE, read

ASKED = "<molecule_2d>.<molecule_2d>>><molecule_2d> Please propose potential solvents that might have been utilized."
PIECES = ["C1=COCCC1", "OCCBr", "BrCCOC1CCCCO1"]


def conversation(answer, user=ASKED, smiles=tuple(PIECES), truth=None):
    turns = [("system", "You are a chemist. reactant1>>product"), ("user", user)]
    turns += [("assistant", answer)] if answer is not None else []
    return {
        "id": 0,
        "molecules": {"selfies": ["[C]"] * len(smiles), "smiles": list(smiles)},
        "messages": [{"content": content, "role": role} for role, content in turns],
        "ground_truth": truth,
    }


def parquet(folder, task, file, *rows):
    path = folder / SOURCE.name / task / file
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def text(folder, file, content):
    path = folder / SOURCE.name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    ("said", "solvents"),
    [
        ("Sure. A potential answer could be: CCCCCC .", "CCCCCC"),
        ("A probable solvent could be O=S(=O)(O)O .", "O=S(=O)(O)O"),
        ("CO .", "CO"),
        ("The solvent can be ClCCl.CO .", "ClCCl.CO"),
    ],
)
def test_a_training_conversation_is_taken_apart(tmp_path, said, solvents):
    path = parquet(tmp_path, "solvent_prediction", "train-00000-of-00001.parquet", conversation(said))
    (record,) = read(path)
    assert SOURCE.present(tmp_path) == [path]
    assert (record.task, record.split, record.instruction) == ("solvent_prediction", "train", "")
    assert record.molecules == {"reactants": "C1=COCCC1.OCCBr", "product": "BrCCOC1CCCCO1", "solvents": solvents}


def test_a_test_conversation_answers_in_ground_truth(tmp_path):
    rows = [conversation(None, truth="[Pd]"), conversation(None, user=f"Suggest, {ASKED}", truth="Cl[Ni]Cl")]
    path = parquet(tmp_path, "catalyst_prediction", "test-00000-of-00001.parquet", *rows)
    records = list(read(path))
    assert [record.molecules["catalysts"] for record in records] == ["[Pd]", "Cl[Ni]Cl"]
    assert {(record.task, record.split) for record in records} == {("catalyst_prediction", "test")}
    assert [record.place for record in records] == ["1", "2"]


def test_yields_are_fractions(tmp_path):
    rows = [conversation("0.7031"), conversation("70.31"), conversation("much")]
    path = parquet(tmp_path, "yield_regression", "train-00000-of-00001.parquet", *rows)
    record, large, unread = read(path)
    assert (record.value, record.subset, record.label_source) == (0.7031, "", "measured")
    assert record.molecules == {"reactants": "C1=COCCC1.OCCBr", "product": "BrCCOC1CCCCO1"}
    assert large == Drop("yield_regression", "2", "the yield is not between 0 and 1")
    assert unread == Drop("yield_regression", "3", "the answer is not a number")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (conversation("CO .", smiles=PIECES[:2]), "not one molecule for each <molecule_2d>"),
        (conversation("CO .", smiles=[*PIECES[:2], ""]), "not one molecule for each <molecule_2d>"),
        (conversation("CO .", user="Which solvents?"), "no <molecule_2d>>><molecule_2d> in the user's message"),
        (conversation(" ."), "the answer is missing, blank or not text"),
        (conversation(None), "the answer is missing, blank or not text"),
    ],
)
def test_conversations_that_cannot_be_used_are_dropped(tmp_path, row, reason):
    path = parquet(tmp_path, "solvent_prediction", "train-0.parquet", row, conversation("CO ."))
    dropped, kept = read(path)
    assert dropped == Drop("solvent_prediction", "1", reason)
    assert kept.molecules["solvents"] == "CO"


def test_rows_are_numbered_across_batches(tmp_path):
    path = parquet(tmp_path, "solvent_prediction", "train-0.parquet", *[conversation("CO .")] * 2500)
    assert [int(record.place) for record in read(path)] == list(range(1, 2501))


@pytest.mark.parametrize("as_lines", [True, False])
def test_the_json_behind_the_conversations(tmp_path, as_lines):
    rows = [
        {"canonical_rxn": "CC.O>>CCO", "solvent": "CO", "catalyst": "[Pd]"},
        {"canonical_rxn": "CC", "solvent": "O"},
    ]
    content = "\n".join(map(json.dumps, rows)) if as_lines else json.dumps(rows)
    record, dropped = read(text(tmp_path, "train/solvent.json", content))
    assert record.molecules == {"reactants": "CC.O", "product": "CCO", "solvents": "CO"}
    assert (record.task, record.split) == ("solvent_prediction", "train")
    assert dropped == Drop("solvent_prediction", "2", "not a reaction reactants>>product")
    record, missing = read(text(tmp_path, "test/catalyst.json", content))
    assert (record.molecules["catalysts"], record.split) == ("[Pd]", "test")
    assert missing.task == "catalyst_prediction"


@pytest.mark.parametrize(("folder", "subset"), [("Buchwald-Hartwig", "B-H"), ("Suzuki-Miyaura", "S-M")])
def test_the_folder_of_a_yield_tells_its_subset(tmp_path, folder, subset):
    content = json.dumps([{"rxn": "CC.O>>CCO", "y": 0.25}, {"rxn": "CC.O>>CCO"}])
    for file, split in (("train", "train"), ("test_100", "test")):
        record, dropped = read(text(tmp_path, f"{folder}/{file}.json", content))
        assert (record.task, record.subset, record.split, record.value) == ("yield_regression", subset, split, 0.25)
        assert dropped == Drop("yield_regression", "2", "the answer is not a number")
    assert len(SOURCE.present(tmp_path)) == 2


def test_dev_is_validation_unless_another_split_is_absent(tmp_path):
    row = conversation(None, truth="CO")
    dev = parquet(tmp_path, "solvent_prediction", "dev-00000-of-00001.parquet", row)
    assert next(read(dev)).split == ""
    parquet(tmp_path, "solvent_prediction", "train-00000-of-00001.parquet", row)
    assert next(read(dev)).split == "test"
    parquet(tmp_path, "solvent_prediction", "test-00000-of-00001.parquet", row)
    assert next(read(dev)).split == "validation"
    content = json.dumps([{"canonical_rxn": "CC>>CO", "solvent": "O"}])
    plain = text(tmp_path, "dev/solvent.json", content)
    text(tmp_path, "test/solvent.json", content)
    assert next(read(plain)).split == "train"


def test_broken_files_are_named(tmp_path):
    path = parquet(tmp_path, "solvent_prediction", "train-0.parquet", conversation("CO ."))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-0\.parquet: not a whole Parquet file, it breaks after row 0"):
        list(read(path))
    path = parquet(tmp_path, "solvent_prediction", "train-0.parquet", {"id": 1})
    with pytest.raises(ValueError, match=r"train-0\.parquet has no column molecules, messages; it has \['id'\]"):
        list(read(path))
    with pytest.raises(ValueError, match="expected the name and folder of one of PRESTO's files"):
        list(read(parquet(tmp_path, "solvents", "train-0.parquet", conversation("CO ."))))
    with pytest.raises(ValueError, match=r"solvent\.json is empty"):
        list(read(text(tmp_path, "train/solvent.json", "")))
