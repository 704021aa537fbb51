"""The unified recipe as its user runs it: `accelerate launch`, one process and DeepSpeed ZeRO-2 with two."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omnimol_hf.tasks import TASKS
from tests.integration.launching import launch as launch_recipe
from tests.integration.launching import losses

pytestmark = pytest.mark.integration
MOLECULES = {"[C]" * n + end: n for n in range(1, 13) for end in ("[O]", "[N]", "[C]")}
SIZES = {
    "vocab_size": 320,
    "text_config": {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 512,
    },
    "graph_config": {"hidden_size": 16, "num_layers": 2},
    "expert_rank": 4,
    "expert_dropout": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with path.open("w") as file:
        for selfies, n in MOLECULES.items():
            for task, answer in (("logp", f"{n / 7:.2f}"), ("forward_prediction", selfies)):
                row = {"task": task, "instruction": TASKS[task].instructions[0], "input": selfies, "output": answer}
                file.write(json.dumps(row) + "\n")
    return path


def launch(rows: Path, out: Path, *settings: str, config: str | None = None) -> str:
    """Run the recipe for 8 steps; returns what it printed."""
    return launch_recipe(
        "recipes/unified.py",
        *["--dataset", str(rows), "--output_dir", str(out), "--new_model", json.dumps(SIZES), "--mixture", "null"],
        *["--max_steps", "8", "--save_steps", "3", "--logging_steps", "1", "--learning_rate", "8e-5"],
        *["--per_device_train_batch_size", "4", "--eval_rows", "2", "--max_new_tokens", "8", "--use_cpu", "true"],
        *settings,
        accelerate=config,
    )


@pytest.fixture(scope="module")
def finished(rows, tmp_path_factory) -> tuple[Path, str]:
    """A whole run in one process, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "one"
    return out, launch(rows, out)


def test_run_leaves_model_scores_and_pictures(finished):
    out, printed = finished
    results = json.loads((out / "results.json").read_text())
    assert set(results) == {"logp", "forward_prediction"}
    for protocols in results.values():
        assert set(protocols) == {"strict", "paper"}
        for metrics in protocols.values():
            for cell in metrics.values():
                assert {"value", "baseline", "low", "high", "n", "misses"} <= set(cell)
    assert results["logp"]["strict"]["mae"]["n"] == 2
    answers = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(answers) == 4
    assert all(isinstance(answer["answer"], str) for answer in answers)
    for picture in ("training.png", "examples.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert f'AutoModel.from_pretrained("{out}/model", trust_remote_code=True)' in printed
    assert not list(out.rglob("*.bin")) or all("checkpoint" in str(p) for p in out.rglob("*.bin"))
    assert not list(out.glob("*.unfinished"))


def test_all_cores_are_used(finished):
    _, printed = finished
    assert f"1 process(es), {len(os.sched_getaffinity(0))} threads each" in printed


def test_checkpoints_are_rotated(finished):
    out, _ = finished
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]


def test_finished_run_says_so(rows, finished):
    out, _ = finished
    before = (out / "model" / "model.safetensors").stat().st_mtime_ns
    assert "This run is finished" in launch(rows, out)
    assert (out / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_continued_run_is_the_same_bit_for_bit(rows, finished, tmp_path):
    """As after a kill in the middle of writing the second checkpoint."""
    out, _ = finished
    cut = tmp_path / "cut"
    cut.mkdir()
    for name in ("run.yaml", "initial", "checkpoint-6"):
        copy = shutil.copytree if (out / name).is_dir() else shutil.copy
        copy(out / name, cut / name)
    torn = cut / ".unfinished" / "checkpoint-8"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"torn")
    assert f"continuing from {cut}/checkpoint-6" in launch(rows, cut)
    assert losses(cut) == losses(out)
    a, b = (load_file(run / "model" / "model.safetensors") for run in (out, cut))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_training_goes_on_from_a_checkpoint_with_most_of_it_frozen(rows, finished, tmp_path):
    out, _ = finished
    printed = launch(
        rows, tmp_path / "more", "--model", str(out / "model"), "--new_model", "null",
        "--trainable", "projector", "router", "experts", "--mixture", '{"logp": 1}', "--logging_steps", "25",
    )  # fmt: skip
    assert "forward_prediction has rows but no share of the mixture" in printed
    start, end = (load_file(folder / "model" / "model.safetensors") for folder in (out, tmp_path / "more"))
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved
    assert all({"projector", "router", "experts"} & set(name.split(".")) for name in moved)
    assert set(json.loads((tmp_path / "more" / "results.json").read_text())) == {"logp"}


def test_zero2_with_two_processes_equals_one(rows, finished, tmp_path):
    out, _ = finished
    two = tmp_path / "two"
    printed = launch(rows, two, "--per_device_train_batch_size", "2", config="recipes/accelerate/zero2_cpu.yaml")
    assert re.search(r"2 process\(es\), \d+ threads each", printed)
    assert losses(two) == pytest.approx(losses(out), abs=1e-4)
    start, end = (load_file(two / part / "model.safetensors") for part in ("initial", "model"))
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert not [name for name in moved if "graph_encoder" in name]  # its BatchNorm statistics neither
    assert {"model.projector.weight", "model.language_model.layers.1.mlp.router.weight"} <= moved
