"""Which rows are held out, and that several tasks are scored as each one alone."""

import json

import pytest
import torch
from datasets import load_dataset

from omnimol_hf.metrics import score_task
from omnimol_hf.scoring import (
    held_out_rows,
    places_by_task,
    row_scores,
    score_all_baselines,
    score_answers,
)
from omnimol_hf.tasks import TASKS


def make_dataset(folder, splits=("train", "test")):
    """30 rows of two tasks and a split in a folder of JSON files, one a split."""
    folder.mkdir()
    for split in splits:
        lines = [
            {"task": task, "id": f"{split}-{i}", "instruction": "?", "input": "[C]" * (i % 5 + 1) + "[O]",
             "output": output.format(i=i), "subset": "", "graph_smiles": []}
            for i in range(30)
            for task, output in (("logp", "{i}"), ("forward_prediction", "[C][O]"))
        ]  # fmt: skip
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_all_held_out_rows_in_the_order_of_dataset_and_tables(tmp_path):
    held = held_out_rows(make_dataset(tmp_path / "data"))
    assert [row["task"] for row in held.rows] == ["forward_prediction"] * 30 + ["logp"] * 30
    assert [row["id"] for row in held.rows[30:]] == [f"test-{i}" for i in range(30)]
    assert held.about["rows"] == 60
    assert set(held.train["id"]) == {f"train-{i}" for i in range(30)}


def test_some_rows_of_some_tasks(tmp_path):
    source = make_dataset(tmp_path / "data")
    few = held_out_rows(source, ["logp"], per_task=7)
    assert set(few.train["task"]) == {"logp"}
    numbers = [int(row["output"]) for row in few.rows]
    assert len(numbers) == 7
    assert numbers == sorted(numbers)
    assert held_out_rows(source, ["logp"], per_task=7).rows == few.rows
    assert [int(row["output"]) for row in held_out_rows(source, ["logp"], per_task=7, seed=1).rows] != numbers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["logpp"]}, "unknown task 'logpp'; did you mean 'logp'"),
        ({"tasks": ["tpsa"]}, "has no test rows of tpsa; it has forward_prediction, logp"),
        ({"split": "validation"}, "has no split 'validation'; it has train, test"),
    ],
)
def test_rows_that_are_not_there(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        held_out_rows(make_dataset(tmp_path / "data"), **options)


def test_revision_of_a_hub_dataset_is_read_from_its_files(tmp_path, monkeypatch):
    import omnimol_hf.scoring as scoring

    source = make_dataset(tmp_path / "data")
    assert held_out_rows(source).about["revision"] is None
    rows = load_dataset(source)["test"]
    rows.info.download_checksums = {f"hf://datasets/org/name@{'0a' * 20}/test.parquet": {}}
    assert scoring._revision(rows) == "0a" * 20


def test_scores_are_those_of_each_task_alone(tmp_path):
    held = held_out_rows(make_dataset(tmp_path / "data"))
    answers = ["[C][O]"] * 20 + ["[N]"] * 10 + [str(i + 2) for i in range(29)] + ["none"]
    results = score_answers(held.rows, answers, held.train, list)
    assert list(results) == list(places_by_task(held.rows)) == ["forward_prediction", "logp"]
    expected = score_task(
        TASKS["logp"], answers[30:], [str(i) for i in range(30)], ["The LogP for the input molecule is 14.50."] * 30,
        subsets=[""] * 30, tokenize=list,
    )  # fmt: skip
    assert results["logp"] == expected
    assert results["forward_prediction"]["strict"]["exact_match"]["value"] == pytest.approx(20 / 30)
    assert results["forward_prediction"]["strict"]["exact_match"]["baseline"] == 1
    without = score_answers(held.rows, answers, None, list)
    assert without["forward_prediction"]["strict"]["exact_match"]["baseline"] is None

    # by hand: the labels 0..29 have a median absolute deviation of 7.5
    scores = row_scores(held.rows, answers, held.train)
    assert scores[:20] == [1.0] * 20
    assert scores[30:59] == pytest.approx([torch.tensor(-2 / 7.5).exp().item()] * 29)
    assert scores[59] == 0
    assert row_scores(held.rows, answers, None) == scores


def test_every_baseline_is_scored_as_a_model_with_its_answers(tmp_path):
    held = held_out_rows(make_dataset(tmp_path / "data"))
    scores = score_all_baselines(held.rows, held.train, list)
    assert list(scores["logp"]) == ["training median", "training mean", "nearest neighbour", "RDKit Crippen LogP"]
    train = {row["input"]: row["output"] for row in reversed(list(held.train)) if row["task"] == "logp"}
    nearest = [train[row["input"]] for row in held.rows if row["task"] == "logp"]  # the first with the same molecule
    results = score_answers(held.rows, ["[C][O]"] * 30 + nearest, held.train, list)
    for protocol in ("strict", "paper"):
        found = scores["logp"]["nearest neighbour"][protocol]
        assert found == {metric: fields["value"] for metric, fields in results["logp"][protocol].items()}
        constant = scores["logp"]["training median"][protocol]
        assert constant == {metric: fields["baseline"] for metric, fields in results["logp"][protocol].items()}
    assert score_all_baselines(held.rows, None, list) == {}
