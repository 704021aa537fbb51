"""Shares of tasks: which rows a mixture takes, and that it takes them again."""

import importlib.util
import json
from itertools import pairwise

import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets

from omnimol_hf.mixture import AUTHORS_KEYS, PROPORTIONS, TASK_LADDER, load_mixture, parse_mixture
from omnimol_hf.run import parse_run
from omnimol_hf.tasks import ALL_TASKS
from tests.conftest import ROOT


def rows_of(task: str, count: int, subset: str = "") -> list[dict]:
    return [
        {"id": f"x-{task}-{subset}{number}", "task": task, "subset": subset, "instruction": "How?",
         "input": "[C]", "output": str(number), "graph_smiles": ["C"]}
        for number in range(count)
    ]  # fmt: skip


ROWS = Dataset.from_list(
    rows_of("forward_prediction", 101)
    + rows_of("reagent_prediction", 50)
    + rows_of("yield_regression", 30, "B-H")
    + rows_of("yield_regression", 20, "S-M")
)


def ids(rows: Dataset, task: str = "") -> set[str]:
    found = [row["id"] for row in rows if task in row["id"]]
    assert len(set(found)) == len(found)
    return set(found)


def counts(rows: Dataset) -> dict[str, int]:
    names = list(rows["task"])
    return {name: names.count(name) for name in dict.fromkeys(names)}


def test_weights_are_exact_shares_of_each_task():
    taken = load_mixture(ROWS, "forward:1/reagent:0.5")
    assert counts(taken) == {"forward_prediction": 101, "reagent_prediction": 25}
    assert counts(load_mixture(ROWS, "forward_prediction:0.25")) == {"forward_prediction": 25}
    assert counts(load_mixture(ROWS, "reagent/yield_SM:0.1")) == {"reagent_prediction": 50, "yield_regression": 2}
    assert counts(load_mixture(ROWS, "forward:0/reagent")) == {"reagent_prediction": 50}


def test_a_subset_key_takes_its_subset_only():
    assert set(load_mixture(ROWS, "yield_BH")["subset"]) == {"B-H"}
    assert len(load_mixture(ROWS, "yield_BH:0.5/yield_SM")) == 15 + 20


def test_proportions_are_exact_and_nested():
    taken = [load_mixture(ROWS, proportion=proportion) for proportion in PROPORTIONS]
    assert [counts(rows)["forward_prediction"] for rows in taken] == [20, 40, 61, 101]
    assert [counts(rows)["reagent_prediction"] for rows in taken] == [10, 20, 30, 50]
    for smaller, larger in pairwise(taken):
        assert ids(smaller) < ids(larger)
    assert ids(load_mixture(ROWS, "reagent:0.5", proportion=0.4)) == ids(taken[0], "reagent")  # shares multiply


def test_the_choice_is_the_seeds_and_the_ids_alone():
    chosen = ids(load_mixture(ROWS, "reagent:0.4", seed=3))
    assert chosen == ids(load_mixture(ROWS.shuffle(seed=1), "forward:0.1/reagent:0.4", seed=3), "reagent")
    alone = ROWS.filter(lambda row: row["task"] == "reagent_prediction")
    assert chosen == ids(load_mixture(alone, "reagent:0.4", seed=3))
    assert chosen != ids(load_mixture(ROWS, "reagent:0.4", seed=4))


def test_the_choice_is_uniform():
    """Each of 50 rows in 0.4 of 200 seeds: 80 times, standard deviation 7; and no rows of the front are preferred."""
    times = dict.fromkeys(ids(ROWS, "reagent"), 0)
    reagents = ROWS.filter(lambda row: row["task"] == "reagent_prediction")
    for seed in range(200):
        for one in load_mixture(reagents, "reagent:0.4", seed=seed)["id"]:
            times[one] += 1
    assert sum(times.values()) == 200 * 20
    assert min(times.values()) > 80 - 5 * 7
    assert max(times.values()) < 80 + 5 * 7


def test_rows_stay_in_the_sources_order():
    outputs = [int(number) for number in load_mixture(ROWS, "forward:0.3")["output"]]
    assert outputs == sorted(outputs)


def test_the_ladder_of_the_paper():
    assert {number: len(tasks) for number, tasks in TASK_LADDER.items()} == {1: 1, 2: 2, 4: 4, 8: 8}
    for smaller, larger in ((1, 2), (2, 4), (4, 8)):
        assert TASK_LADDER[larger][:smaller] == TASK_LADDER[smaller]
    assert set(TASK_LADDER[8]) <= set(ALL_TASKS)
    rows = Dataset.from_list([row for task in TASK_LADDER[4] for row in rows_of(task, 10)])
    assert counts(load_mixture(rows, TASK_LADDER[4], proportion=0.2)) == dict.fromkeys(TASK_LADDER[4], 2)


def test_the_authors_keys_name_our_tasks():
    assert {task for task, _ in AUTHORS_KEYS.values()} <= set(ALL_TASKS)
    assert parse_mixture("molcap/weight:0.5/logp:1") == [
        ("molecular_captioning", "", 1.0),
        ("molecular_weight", "", 0.5),
        ("logp", "", 1.0),
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("forward:1/reagnet:0.5", r"'reagnet:0.5' names no task; expected task:weight with a task of .*reagent_pred"),
        ("forward:1/", "'' names no task"),
        ("forward:1.5", r"'forward:1.5' has the weight '1.5'; expected a number from 0 to 1"),
        ("forward:half", "'forward:half' has the weight 'half'"),
        ("forward:nan", "'forward:nan' has the weight 'nan'"),
        ("forward:", "'forward:' has the weight ''"),
        ("forward:1/forward_prediction:0.5", "'forward_prediction:0.5' names rows of forward_prediction a second"),
        ("yield/yield_BH", "'yield_BH' names rows of yield_regression a second time"),
        ("yield_BH/yield", "'yield' names rows of yield_regression a second time"),
    ],
)
def test_bad_items_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        parse_mixture(spec)


def test_impossible_wishes_are_named():
    with pytest.raises(ValueError, match="no rows of logp in train; there are of forward_prediction, reagent"):
        load_mixture(ROWS, "forward/logp")
    with pytest.raises(ValueError, match="no split 'dev'; the splits are train, test"):
        load_mixture(DatasetDict(train=ROWS, test=ROWS), "forward", split="dev")
    for proportion in (0, 40, -0.2):
        with pytest.raises(ValueError, match=f"the proportion is {proportion}; expected a number above 0"):
            load_mixture(ROWS, proportion=proportion)
    with pytest.raises(ValueError, match="two rows have the same id"):
        load_mixture(concatenate_datasets([ROWS, ROWS]), "forward")


CARD = """---
configs:
- config_name: unified
  default: true
  data_files: [{split: train, path: "[flr]*/train-*.parquet"}, {split: test, path: "[flr]*/test-*.parquet"}]
- config_name: forward_prediction
  data_files: [{split: train, path: forward_prediction/train-*.parquet}]
- config_name: reagent_prediction
  data_files: [{split: train, path: reagent_prediction/train-*.parquet}, {split: test, path: reagent*/test-*}]
- config_name: alignment
  data_files: [{split: train, path: alignment/train-*.parquet}]
---
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset folder as `build` writes it: `alignment` is none of the fifteen tasks of `unified`."""
    path = tmp_path_factory.mktemp("built")
    for task, split, count in [
        ("forward_prediction", "train", 40), ("reagent_prediction", "train", 20),
        ("reagent_prediction", "test", 10), ("alignment", "train", 30), ("logp", "test", 5),
    ]:  # fmt: skip
        (path / task).mkdir(exist_ok=True)
        Dataset.from_list(rows_of(task, count)).to_parquet(path / task / f"{split}-00000-of-00001.parquet")
    (path / "README.md").write_text(CARD)
    return path


def test_a_folder_and_its_splits(folder):
    assert counts(load_mixture(folder, "forward:0.5/pubchem:0.1")) == {"alignment": 3, "forward_prediction": 20}
    assert counts(load_mixture(str(folder), "reagent", split="test")) == {"reagent_prediction": 10}
    assert counts(load_mixture(folder, proportion=0.2)) == {"forward_prediction": 8, "reagent_prediction": 4}
    with pytest.raises(ValueError, match="no rows of logp in train; there are of forward"):
        load_mixture(folder, "logp")


@pytest.fixture(scope="module")
def unified():
    spec = importlib.util.spec_from_file_location("unified_recipe", ROOT / "recipes" / "unified.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(tmp_path, *options: str):
    config = tmp_path / "run.yaml"
    config.write_text("model: somewhere\n")
    return parse_run(["--config", str(config), "--output_dir", str(tmp_path), *options])


def test_the_recipe_trains_on_the_shares_and_scores_their_tasks(unified, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options = ["--dataset", str(file), "--tasks", "forward:1/reagent:0.5", "--proportion", "0.4"]
    run, training, given = settings(tmp_path, *options)
    train, validation, test = unified.prepare_rows(run, training)
    assert validation is None
    assert counts(train.sort("task")) == {"forward_prediction": 36, "reagent_prediction": 9}  # of 91 and 45: 90 %
    assert set(test) == {"forward_prediction", "reagent_prediction"}
    assert given["tasks"] == "forward:1/reagent:0.5"
    run, training, _ = settings(tmp_path, *options, "--seed", "1")
    assert ids(unified.prepare_rows(run, training).train) != ids(train)


def test_validation_rows_are_a_share_of_every_task_and_not_trained_on(unified, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options = ["--dataset", str(file), "--tasks", "forward:1/reagent:1"]
    whole = unified.prepare_rows(*settings(tmp_path, *options)[:2]).train
    run, training, _ = settings(tmp_path, *options, "--validation", "0.1")
    train, validation, _ = unified.prepare_rows(run, training)
    assert counts(validation.sort("task")) == {
        task: round(0.1 * count) for task, count in counts(whole.sort("task")).items()
    }
    assert not ids(train) & ids(validation)
    assert ids(train) | ids(validation) == ids(whole)


@pytest.mark.parametrize(
    ("option", "message"),
    [(["--tasks", "forwrad:1"], "'forwrad:1' names no task"), (["--proportion", "40"], r"proportion is 40\.0")],
)
def test_a_misspelt_setting_ends_the_run_at_once(tmp_path, option, message):
    with pytest.raises(SystemExit, match=message):
        settings(tmp_path, *option)
