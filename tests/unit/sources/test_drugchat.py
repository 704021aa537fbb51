"""DrugChat: the file against `json`, answers as text, splits, faults."""

import json

import pytest

from dataset_builders.schema import Drop
from dataset_builders.sources.drugchat import SOURCE, read
from omnimol_hf.tasks import TASKS
from tests.unit.sources.broken import check_faults


def test_every_pair_is_read_as_json_reads_it(shared):
    path = shared / "raw/drugchat/ChEMBL_QA_test.json"
    expected = [
        (f"{number}/{position}", smiles, question.strip(), str(answer).strip())
        for number, (smiles, pairs) in enumerate(json.loads(path.read_text()).items(), 1)
        for position, (question, answer) in enumerate(pairs, 1)
    ]
    records = list(read(path))
    assert [
        (record.place, record.molecules["molecule"], record.instruction, record.text) for record in records
    ] == expected
    assert len(records) == 12_976
    assert {record.split for record in records} == {""}, "a test file without its train file is unsplit"


def test_numbers_and_booleans_become_text_and_what_is_no_pair_is_dropped(tmp_path):
    pairs = [["a", 38.5], ["b", 3], ["c", True], ["d", False], ["e", 0], ["f", None], ["g", " "], ["", "x"], ["h"], 7]
    path = tmp_path / "PubChem_QA.json"
    path.write_text(json.dumps({"CCO": pairs, "CC": "no list", "C": [["i", ["x"]]]}))
    records = list(read(path))
    assert [record.text for record in records if not isinstance(record, Drop)] == ["38.5", "3", "Yes", "No", "0"]
    assert [(drop.place, drop.reason) for drop in records if isinstance(drop, Drop)] == [
        ("1/6", "no answer"),
        ("1/7", "no answer"),
        ("1/8", "no question"),
        ("1/9", "not a pair of question and answer"),
        ("1/10", "not a pair of question and answer"),
        ("2", "the molecule has no list of questions and answers"),
        ("3/1", "no answer"),
    ]


def test_the_published_split_holds_where_both_files_lie(tmp_path):
    for name in SOURCE.files:
        (tmp_path / name).write_text('{"CCO": [["What is it?", "ethanol"]]}')
    splits = {name: next(read(tmp_path / name)).split for name in SOURCE.files}
    assert splits == {"ChEMBL_QA_train.json": "train", "ChEMBL_QA_test.json": "test", "PubChem_QA.json": ""}
    (tmp_path / "ChEMBL_QA_test.json").unlink()
    assert next(read(tmp_path / "ChEMBL_QA_train.json")).split == ""


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "ChEMBL_QA_test.json"
    check_faults(read, path, b'{"CCO": [["What is it?", "an alcohol"]]}')
    for content in ('{"CCO": [["What is it?", "etha', '[["What is it?", "ethanol"]]'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"ChEMBL_QA_test.json.*JSON"):
            list(read(path))


def test_what_is_said_of_the_source_fits_the_tasks():
    assert set(SOURCE.tasks) <= set(TASKS)
    assert {download.hub_file for download in SOURCE.downloads} == set(SOURCE.files)
