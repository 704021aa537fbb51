"""A data selection as its user runs it: `accelerate launch` of the recipe, one process and ZeRO-2 with two."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from omnimol_hf.run import parse_run
from omnimol_hf.tasks import TASKS
from tests.conftest import ROOT
from tests.integration.launching import launch as launch_recipe
from tests.integration.launching import losses
from tests.integration.test_unified_recipe import MOLECULES, SIZES

pytestmark = pytest.mark.integration
SETTINGS = {
    "new_model": SIZES,
    "selection": {"kind": "active", "budget": 48, "rounds": 3, "epochs": 4, "scored_rows": 8},
    "learning_rate": 3e-3,
    "per_device_train_batch_size": 4,
    "save_steps": 10,
    "logging_steps": 1,
    "eval_rows": 2,
    "max_new_tokens": 8,
    "eval_batch_size": 4,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("selection")
    rows = []
    for selfies, n in MOLECULES.items():
        # One task asks for what stands in the question's last brackets, the other for a number.
        for task, answer in (("forward_prediction", "[C][" + selfies.rsplit("[", 1)[1]), ("logp", f"{n / 7:.2f}")):
            rows.append({"task": task, "instruction": TASKS[task].instructions[0], "input": selfies, "output": answer})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.yaml").write_text(yaml.safe_dump(SETTINGS | {"dataset": str(folder / "rows.jsonl")}))
    return folder / "run.yaml"


def launch(config: Path, out: Path, *settings: str, accelerate: str | None = None) -> str:
    """Run the recipe; returns what it printed."""
    return launch_recipe(
        "recipes/unified.py", "--config", config, "--output_dir", out, *settings, accelerate=accelerate
    )


def rounds(out: Path) -> list[dict]:
    entries = [json.loads(line) for line in (out / "selection.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory) -> tuple[Path, str]:
    """A whole run in one process, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "one"
    return out, launch(config, out)


def test_run_leaves_its_rounds(finished):
    out, printed = finished
    assert "active selection of 48 from 66 rows in 3 rounds, 96 steps" in printed
    entries = rounds(out)
    assert [entry["step"] for entry in entries] == [0, 16, 48]  # 16 rows are 4 steps; 4 epochs of 1, 2 and 3 portions
    assert [sum(entry["drawn"].values()) for entry in entries] == [16, 16, 16]
    assert all(entry["scored"][task] == min(8, entry["drawn"][task]) for entry in entries for task in entry["mu"])
    assert entries[0]["pi"] == {"forward_prediction": 0.5, "logp": 0.5}
    assert entries[0]["mu"]["forward_prediction"] != entries[0]["mu"]["logp"]
    assert entries[1]["pi"]["logp"] != 0.5
    assert len(losses(out)) == 96
    assert (out / "selection.png").read_bytes().startswith(b"\x89PNG")


def cut_copy(run: Path, cut: Path) -> Path:
    """The run as a kill would have left it in the second of three rounds, within the fourth of its passes."""
    cut.mkdir()
    for name in ("run.yaml", "initial", "checkpoint-30"):
        copy = shutil.copytree if (run / name).is_dir() else shutil.copy
        copy(run / name, cut / name)
    return cut


def assert_same_run(one: Path, other: Path) -> None:
    assert rounds(one) == rounds(other)
    assert losses(one) == losses(other)
    a, b = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_cut_in_the_middle_of_a_round_goes_on_bit_for_bit(config, finished, tmp_path):
    out, _ = finished
    cut = cut_copy(out, tmp_path / "cut")
    assert f"continuing from {cut}/checkpoint-30" in launch(config, cut)
    assert_same_run(cut, out)


def test_two_processes_draw_the_rows_that_one_draws(config, finished, tmp_path):
    """Processes that disagreed about pi would train on other rows, and the losses would tell."""
    out, _ = finished
    two = tmp_path / "two"
    settings = ("--per_device_train_batch_size", "2")
    launch(config, two, *settings, accelerate="recipes/accelerate/zero2_cpu.yaml")
    for ours, theirs in zip(rounds(two), rounds(out), strict=True):
        assert ours["drawn"] == theirs["drawn"]
        assert ours["pi"] == pytest.approx(theirs["pi"], abs=1e-6)
    assert losses(two) == pytest.approx(losses(out), rel=1e-3, abs=1e-3)
    cut = cut_copy(two, tmp_path / "cut")
    launch(config, cut, *settings, accelerate="recipes/accelerate/zero2_cpu.yaml")
    assert_same_run(cut, two)


def test_the_small_configuration_is_read():
    run, training, _ = parse_run(["--config", str(ROOT / "recipes/configs/quickstart_selection.yaml")])
    assert (run.selects.kind, run.selects.budget, training.max_steps) == ("active", 1600, -1)
