"""Data selection: Eq. 1-3 by hand and in simulation, the rows that rounds draw, and a run cut in their middle."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from omnimol_hf.analysis.training_plots import plot_selection
from omnimol_hf.collation import TrainingCollator, encode_rows
from omnimol_hf.metrics.normalised import label_scales, normalised_score
from omnimol_hf.run import RunArguments, parse_run
from omnimol_hf.sampling import SelectionSampler
from omnimol_hf.selection import RowSelection, SelectionSettings, allocate, reweight
from omnimol_hf.training import ROUNDS, OmniMolTrainer
from tests import tiny

POOL = ["a"] * 500 + ["b"] * 300 + ["c"] * 400


def selection(tasks=POOL, seed=0, **settings) -> RowSelection:
    return RowSelection(tasks, SelectionSettings(**({"kind": "active", "budget": 600, "rounds": 4} | settings)), seed)


def rate(one: RowSelection, rho_of_task) -> None:
    """End the round with rho of each task, or with what a function gives for its number of rows."""
    names = [str(one.tasks[task]) for task in one.of_row[one.rows_to_score()]]
    made = {name: rho_of_task[name] for name in names}
    one.rate([made[name](1)[0] if callable(made[name]) else made[name] for name in names])


def drawn_rows(one: RowSelection) -> list[int]:
    return np.concatenate(one.rows(1, one.round)).tolist()


# --- Eq. 1-3 ---------------------------------------------------------------------------------------------------------


def test_three_rounds_worked_out_by_hand():
    one = selection(["a"] * 6 + ["b"] * 6 + ["c"] * 6, budget=18, rounds=3)
    one.draw()
    assert one.history[0]["pi"] == {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    assert one.history[0]["drawn"] == {"a": 2, "b": 2, "c": 2}
    # nu = 0, 0.5 | 1, 1 | 0.5, 1: mu = 1/4, 1, 3/4; mu / 2 * 1/3 = 1/24, 4/24, 3/24, which is pi = 1/8, 4/8, 3/8
    one.rate([1.0, 0.5, 0.0, 0.0, 0.5, 0.0])
    assert one.history[0]["mu"] == {"a": 0.25, "b": 1.0, "c": 0.75}
    one.draw()
    assert list(one.history[1]["pi"].values()) == pytest.approx([1 / 8, 4 / 8, 3 / 8], abs=1e-15)
    assert one.history[1]["drawn"] == {"a": 1, "b": 3, "c": 2}  # of 0.75, 3 and 2.25
    # mu = 1/2, 1/4, 1/2 times pi = 1/16, 2/16, 3/16, which is 1/6, 2/6, 3/6
    one.rate([0.5, 1.0, 0.5, 0.75, 0.5, 0.5])
    one.draw()
    assert list(one.history[2]["pi"].values()) == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=1e-15)
    # 1, 2 and 3 rows are asked for, but b has 1 left and c 2: a gives the others
    assert one.history[2]["drawn"] == {"a": 3, "b": 1, "c": 2}


def test_ratings_follow_known_difficulty():
    """With constant ratings pi of round j is mu^(j-1), normalised; with noisy scores it is near that."""
    rho = {"a": 0.9, "b": 0.6, "c": 0.2}
    tasks = [name for name in "abc" for _ in range(3000)]
    exact, noisy = (selection(tasks, rounds=4, budget=1200) for _ in range(2))
    generator = np.random.default_rng(0)
    answers = {name: lambda n, p=p: generator.random(n) < p for name, p in rho.items()}
    for round_ in range(4):
        expected = (1 - np.array(list(rho.values()))) ** round_
        for one in (exact, noisy):
            one.draw()
        assert list(exact.history[-1]["pi"].values()) == pytest.approx(expected / expected.sum(), rel=1e-12)
        assert list(noisy.history[-1]["pi"].values()) == pytest.approx(expected / expected.sum(), abs=0.15)
        rate(exact, rho)
        rate(noisy, answers)
    pi = np.full(3, 1 / 3)
    for _ in range(60):
        pi = reweight(pi, np.array([0.1, 0.4, 0.8]))
    assert pi == pytest.approx([0, 0, 1], abs=1e-12)  # without smoothing the hardest task takes all


def test_learning_evens_the_tasks_out():
    """Ratings that fall with the rows trained on: each task's share of rows tends to what its difficulty asks for."""
    hardness = {"a": 10.0, "b": 20.0, "c": 40.0}
    one = selection(["a"] * 4000 + ["b"] * 4000 + ["c"] * 4000, budget=6000, rounds=60)
    for _ in range(60):
        one.draw()
        used = {name: len(rows) for name, rows in zip("abc", one.rows(1, one.round), strict=True)}
        rate(one, {name: 1 - hardness[name] / (hardness[name] + used[name]) for name in "abc"})
    mu = np.array(list(one.history[-1]["mu"].values()))
    assert mu.max() / mu.min() < 1.3  # at the start 4: equal ratings leave pi where it is
    assert used["a"] < used["b"] < used["c"]


def test_smoothing_keeps_every_task_alive():
    pi = np.full(4, 0.25)
    for _ in range(50):
        pi = reweight(pi, np.array([0.9, 0.5, 0.1, 0.0]), smoothing=0.2)
        assert pi.sum() == pytest.approx(1)
    assert pi.min() == pytest.approx(0.05)
    assert reweight(pi, np.array([0.9, 0.5, 0.1, 0.0]), smoothing=1.0) == pytest.approx(np.full(4, 0.25))


def test_ratings_that_say_nothing():
    pi = np.array([0.5, 0.3, 0.2])
    assert reweight(pi, np.zeros(3)).tolist() == pi.tolist()  # all perfect
    assert reweight(pi, np.full(3, np.nan)).tolist() == pi.tolist()  # nothing scored
    kept = reweight(pi, np.array([0.2, np.nan, 0.8]))
    assert kept[1] == pytest.approx(0.3)
    assert kept[0] / kept[2] == pytest.approx(0.5 * 0.2 / (0.2 * 0.8))


def test_rows_that_cannot_be_scored_are_left_out():
    one = selection(budget=30, rounds=3)
    one.draw()
    rho = np.full(len(one.rows_to_score()), 0.25)
    rho[0] = np.nan
    rho[one.of_row[one.rows_to_score()] == 2] = np.nan
    one.rate(rho)
    drawn = one.history[0]["drawn"]
    assert one.history[0]["scored"] == {"a": drawn["a"] - 1, "b": drawn["b"], "c": 0}
    assert one.history[0]["mu"] == {"a": 0.75, "b": 0.75, "c": None}
    assert one.next_pi() == pytest.approx(np.full(3, 1 / 3))


# --- the rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["active", "random"])
def test_no_row_is_drawn_twice_and_the_budget_is_met(kind):
    one = selection(kind=kind, budget=1198, rounds=7)
    generator = np.random.default_rng(1)
    for _ in range(7):
        one.draw()
        if kind == "active":
            rate(one, dict(zip("abc", generator.random(3), strict=True)))
    rows = drawn_rows(one)
    assert len(rows) == len(set(rows)) == 1198
    assert [sum(entry["drawn"].values()) for entry in one.history] == [171, 171, 171, 171, 171, 171, 172]
    assert all(
        POOL[row] == name
        for round_ in range(1, 8)
        for name, part in zip("abc", one.rows(round_, round_), strict=True)
        for row in part
    )
    with pytest.raises(ValueError, match="all 7 rounds are drawn"):
        one.draw()


def test_the_seed_decides_the_rows():
    first, again, other = selection(), selection(), selection(seed=1)
    for one in (first, again, other):
        one.draw()
    assert drawn_rows(first) == drawn_rows(again) != drawn_rows(other)
    assert drawn_rows(first) != sorted(drawn_rows(first))


def test_random_selection_keeps_the_proportions():
    one = selection(kind="random", budget=600, rounds=5)
    for _ in range(5):
        one.draw()
    assert Counter(POOL[row] for row in drawn_rows(one)) == {"a": 250, "b": 150, "c": 200}
    assert len(one.rows_to_score()) == 0


def test_an_exhausted_task_passes_its_share_on():
    one = selection(["a"] * 10 + ["b"] * 300 + ["c"] * 300, budget=300, rounds=3)
    one.draw()
    assert one.history[0]["drawn"] == {"a": 10, "b": 45, "c": 45}
    rate(one, {"a": 0.0, "b": 0.8, "c": 0.4})
    one.draw()  # a has the largest share and no row; b and c get rows as 1 : 3
    assert one.history[1]["pi"]["a"] == pytest.approx(1 / 1.8)
    assert one.history[1]["drawn"] == {"a": 0, "b": 25, "c": 75}
    rate(one, {"b": 0.5, "c": 0.5})
    assert one.history[1]["mu"]["a"] is None
    assert one.next_pi() == pytest.approx([1 / 1.8, 0.2 / 1.8, 0.6 / 1.8])


def test_shares_are_rounded_exactly():
    generator = np.random.default_rng(0)
    for _ in range(500):
        shares = generator.random(5) * (generator.random(5) < 0.8)
        available = generator.integers(0, 30, 5)
        total = int(generator.integers(0, available.sum() + 1))
        counts = allocate(total, shares, available)
        assert counts.sum() == total
        assert (counts >= 0).all()
        assert (counts <= available).all()
    assert allocate(10, np.array([1 / 3, 1 / 3, 1 / 3]), np.array([99, 99, 99])).tolist() == [4, 3, 3]
    assert allocate(10, np.array([0.0, 1.0, 0.0]), np.array([6, 4, 3])).tolist() == [4, 4, 2]  # b is exhausted
    assert allocate(6, np.array([0.5, 0.25, 0.25]), np.array([1, 9, 9])).tolist() == [1, 3, 2]


def test_at_most_so_many_rows_are_scored():
    one = selection(scored_rows=20)
    one.draw()
    assert Counter(POOL[row] for row in one.rows_to_score()) == {"a": 20, "b": 20, "c": 20}
    assert set(one.rows_to_score()) <= set(drawn_rows(one))


# --- the order of training -------------------------------------------------------------------------------------------


def test_a_round_passes_over_all_rows_drawn_so_far():
    one = selection(budget=90, rounds=3, epochs=2)
    assert (one.unit_steps(8), one.units) == (4, 12)
    assert [one.round_of(unit) for unit in range(12)] == [1] * 2 + [2] * 4 + [3] * 6
    sampler = SelectionSampler(one, [10] * len(POOL), batch_size=8)
    assert len(sampler) == 32
    unit = 0
    for round_ in (1, 2, 3):
        one.draw()
        seen = Counter()
        for _ in range(2 * round_):
            sampler.set_epoch(unit)
            seen.update(sampler)
            unit += 1
        assert set(seen) == set(drawn_rows(one))
        assert set(seen.values()) <= {2, 3}  # M = 2, and a third time in what fills up the last steps
        rate(one, {"a": 0.9, "b": 0.5, "c": 0.1})
    sampler.set_epoch(1)
    second = list(sampler)
    fresh = SelectionSampler(one, [10] * len(POOL), batch_size=8)
    fresh.set_epoch(1)
    assert list(fresh) == second  # also when later rounds are drawn


# --- misuse ----------------------------------------------------------------------------------------------------------

WRONG = {
    "kind is 'activ'; expected one of active, random, all": {"kind": "activ", "budget": 5},
    "unknown setting 'rouns'; did you mean 'rounds'": {"kind": "active", "rouns": 5},
    "needs a kind": {"budget": 5},
    "budget is None; expected a number of rows": {"kind": "active"},
    "budget is 0;": {"kind": "random", "budget": 0},
    r"budget is 1\.5;": {"kind": "active", "budget": 1.5},
    "budget is '1e3';": {"kind": "active", "budget": "1e3"},
    "6 rounds cannot share a budget of 5 rows": {"kind": "active", "budget": 5, "rounds": 6},
    "rounds is 0; expected a whole number from 1": {"kind": "active", "budget": 5, "rounds": 0},
    r"epochs is 0\.5": {"kind": "active", "budget": 5, "epochs": 0.5},
    "smoothing is 2;": {"kind": "active", "budget": 5, "smoothing": 2},
}


@pytest.mark.parametrize("problem", WRONG)
def test_impossible_settings_are_named(problem):
    with pytest.raises(ValueError, match=problem):
        SelectionSettings.parse(WRONG[problem])
    with pytest.raises(ValueError, match=problem):
        RunArguments(model="x", selection=json.dumps(WRONG[problem]))


def test_a_budget_that_the_rows_cannot_meet():
    with pytest.raises(ValueError, match="budget of 1,201 rows is larger than the 1,200 rows"):
        selection(budget=1201)
    with pytest.raises(ValueError, match="4 rounds cannot share a budget of 1 rows"):
        selection(budget=0.001)
    with pytest.raises(
        ValueError, match=r"a round draws 5 rows \(budget 20, 4 rounds\), fewer than the 8 of one step"
    ):
        selection(budget=20).unit_steps(8)
    assert selection(budget=0.4).budget == 480


def test_settings_that_contradict_a_selection(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: x\nselection: {kind: random, budget: 0.5}\n")
    assert parse_run(["--config", str(path)])[0].selects == SelectionSettings("random", 0.5)
    assert parse_run(["--config", str(path), "--selection", '{"kind": "all"}', "--max_steps", "5"])[0].selects is None
    for wrong in (["--max_steps", "5"], ["--num_train_epochs", "2"]):
        with pytest.raises(SystemExit, match="the steps of a selection follow from"):
            parse_run(["--config", str(path), *wrong])
    with pytest.raises(SystemExit, match="'mixture' or 'selection', not both"):
        parse_run(["--config", str(path), "--mixture", '{"logp": 1}'])
    with pytest.raises(SystemExit, match="selection is 'active'; expected names and values"):
        parse_run(["--config", str(path), "--selection", "active"])


# --- one score for every task ----------------------------------------------------------------------------------------

ROWS = [
    {"task": "homo_lumo", "subset": "gap", "output": text} for text in ("0.1", "0.2", "0.3", "0.5", "0.9")
] + [{"task": "homo_lumo", "subset": "HOMO", "output": "-0.25"}]  # fmt: skip


def test_labels_deviate_by_subset():
    assert label_scales(ROWS) == pytest.approx(
        {("homo_lumo", "gap"): 0.2, ("homo_lumo", "HOMO"): 0.0, ("homo_lumo", ""): 0.2}
    )
    with pytest.raises(ValueError, match="homo_lumo: the training label 'none' is no number"):
        label_scales([ROWS[0] | {"output": "none"}])


@pytest.mark.parametrize(
    ("task", "reference", "answer", "expected"),
    [
        ("homo_lumo", "0.3", "0.3", 1.0),
        ("homo_lumo", "0.3", "0.5", np.exp(-1)),
        ("homo_lumo", "0.3", "about -0.1", np.exp(-2)),
        ("homo_lumo", "0.3", "I do not know", 0.0),
        ("forward_prediction", "[C][C][O]", "[O][C][C]", 1.0),
        ("forward_prediction", "[C][C][O]", "[C][C][N]", 1 / 3),
        ("forward_prediction", "[C][C][O]", "no molecule", 0.0),
        ("forward_prediction", "[C][C][O]", "", 0.0),
        ("forward_prediction", "ethanol", "[C][C][O]", float("nan")),
        ("molecular_captioning", "an alcohol with two carbons", "an alcohol with two carbons<|eot_id|>", 1.0),
        ("molecular_captioning", "an alcohol with two carbons", "an acid with two", 2 * 0.6 * 0.75 / (0.6 + 0.75)),
        ("molecular_captioning", "an alcohol", "", 0.0),
        ("experiment_procedure", "ADD $1$ ; STIR", "ADD $1$ ; STIR", 1.0),
        ("experiment_procedure", "ADD $1$ ; STIR", "ADD $2$ ; STIR", 1 - 1 / 14),
        ("experiment_procedure", "ADD $1$ ; STIR", "", 0.0),
    ],
)  # fmt: skip
def test_normalised_scores(task, reference, answer, expected):
    row = {"task": task, "subset": "gap" if task == "homo_lumo" else "", "output": reference}
    assert normalised_score(row, answer, label_scales(ROWS)) == pytest.approx(expected, nan_ok=True)


def test_numbers_without_spread_are_right_or_wrong():
    row = {"task": "homo_lumo", "subset": "HOMO", "output": "-0.25"}
    assert normalised_score(row, "-0.25", label_scales(ROWS)) == 1.0
    assert normalised_score(row, "-0.26", label_scales(ROWS)) == 0.0
    assert 0 < normalised_score(row | {"subset": "LUMO"}, "-0.26", label_scales(ROWS)) < 1  # of the task as a whole


# --- within the trainer ----------------------------------------------------------------------------------------------

TRAINING_ROWS = [
    {"task": task, "instruction": "How much?", "input": "[C]" * n, "output": f"{n}.5", "graph_smiles": ["C" * n]}
    for n in range(1, 11)
    for task in ("logp", "tpsa")
]


def make_trainer(folder, **settings) -> OmniMolTrainer:
    processor = tiny.processor()
    rows, _ = encode_rows(Dataset.from_list(TRAINING_ROWS), processor)
    assert list(rows["row"]) == list(range(20))
    model = tiny.model()
    args = TrainingArguments(
        str(folder), use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True,
        learning_rate=1e-3, per_device_train_batch_size=1, gradient_accumulation_steps=2, logging_steps=1,
        save_steps=1,
    )  # fmt: skip
    kind = {"kind": "active", "budget": 12, "rounds": 3} | settings

    def score(numbers: np.ndarray) -> np.ndarray:
        """Any change of the weights changes these."""
        weights = sum(float(p.detach().double().sum()) for p in model.parameters() if p.requires_grad)
        return np.array([0.3 + 0.4 * ((weights * 1e4 + number * 0.37) % 1) for number in numbers])

    return OmniMolTrainer(
        model, args, train_dataset=rows, data_collator=TrainingCollator(processor.tokenizer.pad_token_id),
        processing_class=processor, selection=RowSelection(rows["task"], SelectionSettings(**kind)), score=score,
    )  # fmt: skip


def rounds_of(folder) -> list[dict]:
    entries = [json.loads(line) for line in (folder / ROUNDS).read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_trainer(folder)
    trainer.train()
    return folder, trainer


def test_a_run_has_all_its_rounds(whole_run):
    folder, trainer = whole_run
    rounds = rounds_of(folder)
    assert trainer.state.global_step == 12  # 4 rows in 2 steps, 1 + 2 + 3 times
    assert [entry["step"] for entry in rounds] == [0, 2, 6]
    assert [sum(entry["drawn"].values()) for entry in rounds] == [4, 4, 4]
    assert all(set(entry["mu"]) == {"logp", "tpsa"} for entry in rounds)
    assert rounds[0]["pi"]["logp"] == 0.5 != rounds[1]["pi"]["logp"] != rounds[2]["pi"]["logp"]
    assert trainer.model.training


@pytest.mark.parametrize("step", [1, 2, 3, 4, 7, 11, 12])
def test_a_cut_run_goes_on_bit_for_bit(whole_run, tmp_path, step):
    """Within a pass, between two of a round, just before the rating of a round, and when all steps are done."""
    folder, whole = whole_run
    shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    trainer = make_trainer(tmp_path)
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert rounds_of(tmp_path) == rounds_of(folder)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == [entry["loss"] for entry in whole.state.log_history if "loss" in entry]


def test_a_checkpoint_of_other_rows_is_refused(whole_run, tmp_path):
    folder, _ = whole_run
    trainer = make_trainer(tmp_path, budget=16)
    with pytest.raises(ValueError, match="the checkpoint selects from other rows"):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3"))


def test_random_selection_trains_as_many_steps_and_scores_nothing(whole_run, tmp_path):
    trainer = make_trainer(tmp_path, kind="random")
    trainer.train()
    assert trainer.state.global_step == whole_run[1].state.global_step
    assert all("mu" not in entry for entry in rounds_of(tmp_path))
    assert [entry["drawn"] for entry in rounds_of(tmp_path)] == [{"logp": 2, "tpsa": 2}] * 3


def test_rounds_are_drawn_as_a_picture(whole_run, tmp_path):
    rounds = rounds_of(whole_run[0])
    plot_selection(rounds, tmp_path / "plots" / "selection.png")
    plot_selection([{k: v for k, v in entry.items() if k != "mu"} for entry in rounds], tmp_path / "random.png")
    for path in ("plots/selection.png", "random.png"):
        assert (tmp_path / path).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no round was drawn"):
        plot_selection([], tmp_path / "none.png")
