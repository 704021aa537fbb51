import json
import random
import zipfile

import pytest

from dataset_builders.fields import orbital
from dataset_builders.schema import Drop
from dataset_builders.sources import mol_instructions
from dataset_builders.sources.mol_instructions import SOURCE, read

ROLES = {  # what the three real files hold, told apart from the reader
    "forward_reaction_prediction": ("forward_prediction", "{reactants}", "{product}"),
    "retrosynthesis": ("retrosynthesis", "{product}", "{reactants}"),
    "reagent_prediction": ("reagent_prediction", "{reactants}>>{product}", "{reagents}"),
}


def entry(**changes):
    metadata = {"task": "forward reaction prediction", "split": "train"}
    return {"instruction": "?", "input": "[C].[O]", "output": "[C][O]", "metadata": metadata} | changes


def written(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize("file", ROLES)
def test_every_real_row_is_a_record_with_the_files_own_fields(shared, file):
    path = shared / "raw" / "mol_instructions" / f"{file}.json"
    assert path in SOURCE.present(shared / "raw")
    expected = json.loads(path.read_text())
    records = list(read(path))
    assert len(records) == len(expected) == 3600
    assert [record.split for record in records].count("test") == 600
    task, asked, answered = ROLES[file]
    for record, raw in zip(records, expected, strict=True):
        assert record.task == task
        assert record.notation == "selfies"
        assert record.instruction == ""
        assert asked.format(**record.molecules) == raw["input"]
        assert answered.format(**record.molecules) == raw["output"]
        assert record.split == raw["metadata"]["split"]
    for place in random.Random(0).sample(range(3600), 20):
        assert records[place].place == str(place + 1)


def test_the_three_files_that_only_the_full_release_has(tmp_path):
    energy = entry(instruction="Please provide the HOMO energy value for this molecule.", input="[C]", output=-0.2482)
    (record,) = read(written(tmp_path / "property_prediction.json", [energy]))
    assert (record.task, record.subset, record.value) == ("homo_lumo", "HOMO", -0.2482)
    assert record.molecules == {"molecule": "[C]"}
    described = entry(input="[C]", output="It is methane.")
    (record,) = read(written(tmp_path / "molecular_description_generation.json", [described]))
    assert (record.task, record.molecules, record.text) == ("alignment", {"molecule": "[C]"}, "It is methane.")
    designed = entry(input="It is methane.", output="[C]")
    (record,) = read(written(tmp_path / "description_guided_molecule_design.json", [designed]))
    assert (record.task, record.molecules) == ("text_guided_generation", {"molecule": "[C]"})
    assert record.text == "It is methane."


@pytest.mark.parametrize(
    ("instruction", "subset"),
    [
        ("Please provide the HOMO energy value for this molecule.", "HOMO"),
        ("What is the LUMO level of this molecule?", "LUMO"),
        ("Give the energy of the lowest unoccupied molecular orbital.", "LUMO"),
        ("Give the energy of the highest occupied molecular orbital.", "HOMO"),
        ("Please provide the energy separation between the highest occupied and lowest unoccupied molecular orbitals "
         "(HOMO-LUMO gap) of this molecule.", "gap"),
        ("What is the difference between HOMO and LUMO?", "gap"),
        ("How large is the gap between the frontier orbitals?", "gap"),
    ],
)  # fmt: skip
def test_the_instruction_tells_which_orbital(instruction, subset):
    assert orbital(instruction) == subset


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        ("retrosynthesis", {"input": "  "}, "input is missing, blank or not text"),
        ("retrosynthesis", {"output": None}, "output is missing, blank or not text"),
        ("retrosynthesis", {"output": 3}, "output is missing, blank or not text"),
        ("retrosynthesis", {"metadata": {"split": "Train"}}, "metadata.split is none of train, valid, test"),
        ("retrosynthesis", {"metadata": {"split": ["train"]}}, "metadata.split is none of train, valid, test"),
        ("retrosynthesis", {"metadata": None}, "metadata.split is none of train, valid, test"),
        ("reagent_prediction", {"input": "[C]>>"}, "not a reaction reactants>>product"),
        ("reagent_prediction", {"input": ">>[C]"}, "not a reaction reactants>>product"),
        ("reagent_prediction", {"input": "[C]>[O]>[N]"}, "not a reaction reactants>>product"),
        ("reagent_prediction", {"input": "[C]>>[O]>>[N]"}, "not a reaction reactants>>product"),
        ("property_prediction", {"output": "high", "instruction": "HOMO?"}, "the answer is not a number"),
        ("property_prediction", {"output": True, "instruction": "HOMO?"}, "the answer is not a number"),
        ("property_prediction", {"output": 0.2}, "the instruction names neither HOMO nor LUMO"),
        ("a_new_task", {}, "the file's name is none of the publisher's task files"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_with_its_reason(tmp_path, file, changes, reason):
    sound = entry(instruction="The HOMO?", output=0.1) if file == "property_prediction" else entry(input="[C]>>[O]")
    found = list(read(written(tmp_path / f"{file}.json", [entry(**changes), sound])))
    assert found[0] == Drop(mol_instructions.TASK_OF_FILE.get(file, "all tasks"), "1", reason)
    assert isinstance(found[1], Drop) == (file == "a_new_task")


def test_the_publishers_archive_is_read_member_by_member(tmp_path):
    path = tmp_path / "Molecule-oriented_Instructions.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        folder = "Molecule-oriented_Instructions"
        archive.writestr(f"{folder}/retrosynthesis.json", json.dumps([entry(), "no record"]))
        archive.writestr(f"{folder}/forward_reaction_prediction.json", json.dumps([entry()]))
        archive.writestr(f"__MACOSX/{folder}/._retrosynthesis.json", b"\0\5\26\7")
    forward, retro, dropped = read(path)
    assert (forward.task, forward.place) == ("forward_prediction", "forward_reaction_prediction/1")
    assert (retro.task, retro.place) == ("retrosynthesis", "retrosynthesis/1")
    assert dropped == Drop("retrosynthesis", "retrosynthesis/2", "not a JSON object")
    assert retro.molecules == {"product": "[C].[O]", "reactants": "[C][O]"}


def test_broken_archives_and_files_are_named(tmp_path):
    whole = tmp_path / "whole.zip"
    rows = [entry(input="[C]" * random.Random(seed).randint(1, 300)) for seed in range(3000)]
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("retrosynthesis.json", json.dumps(rows))
    data = bytearray(whole.read_bytes())
    cut = tmp_path / "cut.zip"
    cut.write_bytes(data[: len(data) // 2])
    damaged = []
    for place in (60, len(data) // 2):  # the first is no deflate stream any more, the second has a wrong checksum
        damaged.append(tmp_path / f"damaged_at_{place}.zip")
        damaged[-1].write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
    for path in (cut, *damaged):
        with pytest.raises(ValueError, match=rf"{path.name}: a broken archive, or not JSON, after "):
            list(read(path))
    short = tmp_path / "retrosynthesis.json"
    short.write_text(json.dumps([entry()] * 3)[:-40])
    with pytest.raises(ValueError, match=r"retrosynthesis\.json: not JSON, or cut short, after record 2"):
        list(read(short))
