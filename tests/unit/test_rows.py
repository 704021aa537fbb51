"""Rows of the user's own, and the choice of rows for a run."""

import json

import pytest
from datasets import Dataset

from omnimol_hf.rows import by_task, choose_rows, heavy_atoms, load_rows

ROW = {"task": "logp", "instruction": "How lipophilic is it?", "input": "[C][C][O].[C]", "output": "-0.18"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_file_without_graphs_gets_them_by_the_task_rule(tmp_path):
    first = {**ROW, "task": "tpsa"}
    splits = load_rows(write(tmp_path / "rows.jsonl", [ROW, first] * 10))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 18, "test": 2}
    graphs = {row["task"]: row["graph_smiles"] for row in splits["train"]}
    assert graphs == {"logp": ["CCO", "C"], "tpsa": ["CCO"]}  # the whole input; its first molecule
    assert not {row["id"] for row in splits["train"]} & {row["id"] for row in splits["test"]}


def test_csv(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("task,instruction,input,output\n" + "logp,How?,[C][O],1.0\n" * 10)
    assert load_rows(str(path))["test"][0]["graph_smiles"] == ["CO"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "log_p"}, r"rows\.jsonl, row 1: unknown task 'log_p'"),
        ({"input": "hello"}, r"rows\.jsonl, row 1 \(task logp\): .*hello"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_rows(write(tmp_path / "rows.jsonl", [ROW, {**ROW, **change}]))


def test_missing_column(tmp_path):
    rows = [{k: v for k, v in ROW.items() if k != "output"}]
    with pytest.raises(ValueError, match=r"rows\.jsonl has no column \['output'\]"):
        load_rows(write(tmp_path / "rows.jsonl", rows))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl"):
        load_rows(str(tmp_path / "gone.jsonl"))


def test_choose_rows():
    rows = Dataset.from_list(
        [{"task": task, "graph_smiles": ["C" * n], "n": n} for task in ("logp", "tpsa") for n in range(1, 21)]
    )
    chosen = by_task(choose_rows(rows, 0, {"logp": 3, "tpsa": 100}, max_heavy_atoms=10))
    assert list(chosen) == ["logp", "tpsa"]
    assert len(chosen["logp"]) == 3
    assert sorted(chosen["tpsa"]["n"]) == list(range(1, 11))
    assert choose_rows(rows, 0, 3)["n"] != choose_rows(rows, 1, 3)["n"]


def test_heavy_atoms():
    assert heavy_atoms(["[H]OC", "CCC"]) == 3
    assert heavy_atoms([]) == 0
