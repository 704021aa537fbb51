"""MoleculeQA: the rows against `json`, the released layout on a small file, splits, faults."""

import csv
import json

import pytest

from dataset_builders.schema import Drop
from dataset_builders.sources.molecule_qa import SMILES, SOURCE, read
from omnimol_hf.chemistry_omnimol import mol_from_smiles
from omnimol_hf.tasks import TASKS
from tests.unit.sources.broken import check_faults

QUESTION = (
    "Please choose the right answer.\n"
    "Molecule SMILES: C/C=C\\\\C\n"
    "Question about this molecule: Which kind of alkene is it?\n"
    'Option A: It is "trans".\nOption B: It has three bonds.\nOption C: It is cis.\nOption D: It is none.\n'
    "Your answer for this question: "
)


def released(path, rows, header=("CID", "Question", "Answer")):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([header, *rows])
    return path


def test_every_row_is_read_as_json_reads_it(shared):
    path = shared / "raw/molecule_qa/rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    records = list(read(path))
    assert len(records) == len(rows) == 273
    for number, (record, row) in enumerate(zip(records, rows, strict=True), 1):
        assert (record.place, record.publisher_id, record.subset) == (str(number), row["cid"], row["topic"])
        assert record.instruction == row["question"]
        assert record.molecules["molecule"].replace("\\", "\\\\") == row[SMILES]
        mol_from_smiles(record.molecules["molecule"])
        # the wrong options never become answers
        assert record.text not in row.get("wrong_options", []) + row.get("options", [])[1:]
        assert record.text in (row.get("answer"), row.get("options", [None])[0])


def test_released_files_give_the_option_that_the_letter_names(tmp_path):
    path = released(tmp_path / "test.txt", [("7", QUESTION, "C"), ("8", QUESTION, "A")])
    first, second = read(path)
    assert (first.text, second.text) == ("It is cis.", 'It is "trans".')
    assert first.instruction == "Which kind of alkene is it?"
    assert first.molecules == {"molecule": r"C/C=C\C"}
    assert (first.place, second.place, second.publisher_id, second.license) == ("1", "2", "8", "MIT")


def test_rows_with_faults_are_dropped(tmp_path):
    rows = [
        ("7", QUESTION, "E"),
        ("8", QUESTION.replace("Option B", "Choice"), "A"),
        ("9", QUESTION),
        ("10", QUESTION, "B"),
    ]
    records = list(read(released(tmp_path / "test.txt", rows)))
    assert [record.place for record in records if isinstance(record, Drop)] == ["1", "2", "3"]
    path = tmp_path / "rows.jsonl"
    sound = {"cid": "1", "question": "What?", "answer": "This.", SMILES: "CC"}
    faults = [sound | {"answer": ""}, sound | {SMILES: None}, sound | {"question": 3}, ["no object"], sound]
    path.write_text("\n".join(map(json.dumps, faults)))
    assert [isinstance(record, Drop) for record in read(path)] == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("present", "splits"),
    [
        ("train valid test", ["train", "validation", "test"]),
        ("valid test", ["train", "test"]),
        ("train valid", ["train", "test"]),
        ("test", ["test"]),
        ("valid", [""]),
    ],
)
def test_splits(tmp_path, present, splits):
    paths = [released(tmp_path / f"{name}.txt", [("7", QUESTION, "C")]) for name in present.split()]
    assert [next(read(path)).split for path in paths] == splits


def test_broken_files_are_named(tmp_path):
    check_faults(read, tmp_path / "rows.jsonl", b'{"cid": "1", "question": "What?", "answer": "a", "x": "CC"}\n')
    sound = released(tmp_path / "test.txt", [("7", QUESTION, "C")]).read_bytes()
    check_faults(read, tmp_path / "test.txt", sound)
    (tmp_path / "test.txt").write_bytes(sound.rstrip()[:-20])
    with pytest.raises(ValueError, match=r"test.txt, row 1: unexpected end of data"):
        list(read(tmp_path / "test.txt"))
    with pytest.raises(ValueError, match=r"expected the columns CID, Question, Answer; it has .'CID', 'Question'"):
        list(read(released(tmp_path / "test.txt", [], header=("CID", "Question"))))
    with pytest.raises(ValueError, match="header but no rows"):
        list(read(released(tmp_path / "test.txt", [])))


def test_what_is_said_of_the_source_fits_the_tasks():
    assert set(SOURCE.tasks) <= set(TASKS)
