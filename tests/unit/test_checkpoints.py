"""Checkpoints: whole or not at all, which one a run goes on from, which ones stay, and the same run after that."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import TrainingArguments

from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters
from omnimol_hf.checkpoints import (
    RECORD,
    STAGING,
    last_checkpoint,
    launch_settings,
    rotate_checkpoints,
    whole_folder,
    write_record,
)
from omnimol_hf.collation import TrainingCollator, encode_rows
from omnimol_hf.telemetry import TELEMETRY
from omnimol_hf.training import OmniMolTrainer, run_callbacks
from tests import tiny
from tests.unit.test_training import ROWS


def make_trainer(model, folder, callbacks=None, **kwargs) -> OmniMolTrainer:
    """A trainer of eight rows, four steps an epoch, that saves at every step."""
    processor = tiny.processor()
    rows, _ = encode_rows(Dataset.from_list(ROWS), processor)
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "logging_steps": 1} | kwargs
    args = TrainingArguments(
        str(folder), use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True,
        per_device_train_batch_size=2, **({"learning_rate": 1e-3} | settings),
    )  # fmt: skip
    collator = TrainingCollator(processor.tokenizer.pad_token_id)
    return OmniMolTrainer(
        model, args, data_collator=collator, train_dataset=rows, eval_dataset=rows, processing_class=processor,
        callbacks=callbacks,
    )  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != TELEMETRY)


def make_checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "global_step").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * step)
    (folder / "global_step" / "rank_1.pt").write_bytes(b"y" * 7)
    write_record(folder)
    return folder


# --- whole or torn ---------------------------------------------------------------------------------------------------


def cut_a_file(folder):
    (folder / "model.safetensors").write_bytes(b"x")
    return "its model.safetensors has 1 bytes, where 20 were written"


def lose_a_file_of_a_process(folder):
    (folder / "global_step" / "rank_1.pt").unlink()
    return "its global_step/rank_1.pt is missing"


def lose_the_record(folder):
    (folder / RECORD).unlink()
    return f"it has no {RECORD}, which is written last"


def cut_the_record(folder):
    (folder / RECORD).write_text('{"files": {"model')
    return f"its {RECORD} is damaged"


def empty_the_record(folder):
    (folder / RECORD).write_text("[]")
    return f"its {RECORD} is damaged"


@pytest.mark.parametrize(
    "damage", [cut_a_file, lose_a_file_of_a_process, lose_the_record, cut_the_record, empty_the_record]
)
def test_a_torn_checkpoint_is_named_and_skipped(damage, tmp_path, caplog):
    for step in (3, 9, 20):
        make_checkpoint(tmp_path, step)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20")
    problem = damage(tmp_path / "checkpoint-20")
    with caplog.at_level("WARNING"):
        assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    assert f"{tmp_path}/checkpoint-20 is torn and is skipped: {problem}" in caplog.text
    assert "checkpoint-9" not in caplog.text


def test_last_checkpoint_of_nothing(tmp_path):
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "gone") is None
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-7").write_text("no folder")
    (tmp_path / STAGING / "checkpoint-7").mkdir(parents=True)
    assert last_checkpoint(tmp_path) is None


def test_record_holds_every_file_and_its_size(tmp_path):
    make_trainer(tiny.model(), tmp_path, max_steps=1).train()
    folder = tmp_path / "checkpoint-1"
    listed = subprocess.run(["find", ".", "-type", "f", "-printf", "%P %s\n"], cwd=folder, stdout=-1, text=True).stdout
    sizes = {name: int(size) for name, size in (line.split() for line in listed.splitlines()) if name != RECORD}
    assert json.loads((folder / RECORD).read_text())["files"] == sizes
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= set(sizes)
    assert names(tmp_path) == ["checkpoint-1"]


# --- rotation --------------------------------------------------------------------------------------------------------


def test_torn_checkpoints_do_not_count_in_rotation(tmp_path):
    for step in (1, 2, 3, 4, 5):
        make_checkpoint(tmp_path, step)
    for step in (3, 4):
        lose_the_record(tmp_path / f"checkpoint-{step}")
    rotate_checkpoints(tmp_path, tmp_path / "checkpoint-5", limit=2)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-5"]


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (1, None, [5]), (1, 2, [2, 5]), (2, 2, [2, 5]), (3, 2, [2, 4, 5]), (3, 5, [3, 4, 5]), (9, 2, [1, 2, 3, 4, 5]),
        (0, 2, [1, 2, 3, 4, 5]), (None, None, [1, 2, 3, 4, 5]),
    ],
)  # fmt: skip
def test_rotation_keeps_the_newest_and_the_best(limit, best, left, tmp_path):
    for step in (1, 2, 3, 4, 5):
        make_checkpoint(tmp_path, step)
    rotate_checkpoints(tmp_path, tmp_path / "checkpoint-5", limit, best and f"elsewhere/checkpoint-{best}")
    assert names(tmp_path) == [f"checkpoint-{step}" for step in left]


def test_what_is_just_written_stays_beside_those_of_a_longer_run(tmp_path):
    for step in (2, 8):
        make_checkpoint(tmp_path, step)
    rotate_checkpoints(tmp_path, tmp_path / "checkpoint-2", limit=1)
    assert names(tmp_path) == ["checkpoint-2"]


# --- saving that fails -----------------------------------------------------------------------------------------------


ERRORS = {
    "python": OSError(28, "No space left on device", "optimizer.pt"),
    "safetensors": SafetensorError("I/O error: No space left on device (os error 28)"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_a_save_that_fails_stops_training_and_leaves_the_last_checkpoint(error, tmp_path, monkeypatch):
    trainer = make_trainer(tiny.model(), tmp_path, save_total_limit=1)
    save = trainer._save_rng_state

    def full_disk(output_dir):
        if trainer.state.global_step == 2:
            raise error
        save(output_dir)

    monkeypatch.setattr(trainer, "_save_rng_state", full_disk)
    with pytest.raises(SystemExit) as end:
        trainer.train()
    message = str(end.value)
    assert message.startswith(f"checkpoint-2 could not be written to {tmp_path}: {error}")
    assert re.search(r"[\d,.]+ MB were free on that disk, and [\d,.]+ MB are now", message)
    assert "checkpoint-1 is whole" in message
    assert names(tmp_path) == ["checkpoint-1"]
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")


def test_a_first_save_that_fails_says_that_there_is_no_checkpoint(tmp_path, monkeypatch):
    trainer = make_trainer(tiny.model(), tmp_path)
    monkeypatch.setattr("omnimol_hf.checkpoints.write_record", lambda _: (_ for _ in ()).throw(ERRORS["python"]))
    with pytest.raises(SystemExit, match="There was no checkpoint yet"):
        trainer.train()
    assert names(tmp_path) == []


def test_other_errors_while_saving_keep_their_traceback(tmp_path, monkeypatch):
    trainer = make_trainer(tiny.model(), tmp_path)
    monkeypatch.setattr(trainer, "_save_rng_state", lambda _: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert names(tmp_path) == []


def test_what_a_kill_left_behind_is_cleaned(tmp_path):
    torn = tmp_path / STAGING / "checkpoint-9"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"torn")
    lose_the_record(make_checkpoint(tmp_path, 2))
    make_trainer(tiny.model(), tmp_path).train()
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_whole_folder(tmp_path):
    def interrupted():
        with whole_folder(tmp_path / "out") as aside:
            (aside / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []
    with whole_folder(tmp_path / "out") as aside:
        (aside / "whole").write_text("x")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["whole"]


# --- going on --------------------------------------------------------------------------------------------------------


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def assert_same_training(run: Path, other: Path, step: int, weights: str) -> None:
    """Weights, the optimiser's moments and the random numbers of two runs are equal bit for bit after a step."""
    a, b = (folder / f"checkpoint-{step}" for folder in (run, other))
    ours, theirs = load_file(a / weights), load_file(b / weights)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (torch.load(folder / "optimizer.pt", weights_only=True)["state"] for folder in (a, b))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n][key], theirs[n][key]) for n in ours for key in ours[n])


def adapted(dtype: torch.dtype):
    torch.manual_seed(1)
    return add_adapters(tiny.model(expert_dropout=0.1).to(dtype), AdaptiveLoraConfig(r=4, lora_dropout=0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_go_on_bit_for_bit_in_the_middle_of_an_epoch(dtype, tmp_path):
    """Dropout is on, so the random numbers have to go on too."""
    whole = make_trainer(adapted(dtype), tmp_path / "whole", max_steps=7, learning_rate=1e-2)
    start = {name: value.clone() for name, value in whole.model.named_parameters()}
    whole.train()
    moved = {name for name, value in whole.model.named_parameters() if not torch.equal(value, start[name])}
    for part in ("lora_B.default", "lora_gamma_alpha", "projector", "router", "gate_B", "gamma_beta"):
        assert any(part in name for name in moved), f"{part} was not trained, so its going on is not tested"
    # step 6 of an epoch of four, with a model that was made from other random numbers
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-6", tmp_path / "cut" / "checkpoint-6")
    model = adapted(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    torch.manual_seed(99)
    cut = make_trainer(model, tmp_path / "cut", max_steps=7, learning_rate=1e-2)
    cut.train(resume_from_checkpoint=last_checkpoint(tmp_path / "cut"))
    assert losses(cut) == losses(whole)
    assert_same_training(tmp_path / "whole", tmp_path / "cut", 7, "adapter_model.safetensors")
    ours, theirs = dict(whole.model.named_parameters()), dict(cut.model.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {ours[name].dtype for name in moved} == {theirs[name].dtype for name in moved} == {torch.float32}
    assert {n for n, p in ours.items() if p.requires_grad} == {n for n, p in theirs.items() if p.requires_grad}


@pytest.mark.parametrize(("settings", "stop_epoch"), [({"max_steps": 2}, None), ({"num_train_epochs": 3}, 1)])
def test_a_run_killed_after_its_last_checkpoint_trains_no_further(settings, stop_epoch, tmp_path):
    """Two steps are half an epoch; an epoch of four steps is a third of the second run's schedule."""
    settings = {"max_steps": -1, **settings}
    whole = make_trainer(tiny.model(), tmp_path, run_callbacks(stop_epoch, None), **settings)
    whole.train()
    cut = make_trainer(tiny.model(), tmp_path, run_callbacks(stop_epoch, None), **settings)
    cut.train(resume_from_checkpoint=last_checkpoint(tmp_path))
    assert cut.state.global_step == whole.state.global_step == (2 if stop_epoch is None else 4)
    assert losses(cut) == losses(whole)
    ours, theirs = whole.model.state_dict(), cut.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- the best checkpoint ---------------------------------------------------------------------------------------------


SCORES = {1: 5.0, 2: 3.0, 3: 4.0, 4: 4.5, 5: 6.0}


def scored_trainer(folder, monkeypatch, **kwargs) -> OmniMolTrainer:
    """A trainer whose validation loss at each step is that of SCORES: the best step is 2."""
    trainer = make_trainer(
        tiny.model(), folder, eval_strategy="steps", eval_steps=1, metric_for_best_model="loss",
        load_best_model_at_end=True, **({"max_steps": 4, "save_total_limit": 1} | kwargs),
    )  # fmt: skip
    evaluate = trainer.evaluation_loop

    def scored(*args, **kwargs):
        output = evaluate(*args, **kwargs)
        output.metrics["eval_loss"] = SCORES[trainer.state.global_step]
        return output

    monkeypatch.setattr(trainer, "evaluation_loop", scored)
    return trainer


def test_the_best_checkpoint_is_named_kept_and_loaded(tmp_path, monkeypatch):
    trainer = scored_trainer(tmp_path, monkeypatch, save_total_limit=2)
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    for step in (2, 4):
        state = json.loads((tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-2")
    best = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    last = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    held = trainer.model.state_dict()
    assert all(torch.equal(held[name], best[name]) for name in best)
    assert not all(torch.equal(last[name], best[name]) for name in best)


def test_the_best_checkpoint_is_known_after_going_on_elsewhere(tmp_path, monkeypatch):
    scored_trainer(tmp_path / "run", monkeypatch, max_steps=3).train()
    assert names(tmp_path / "run") == ["checkpoint-2"]  # Trainer itself deletes all but the best when it ends
    (tmp_path / "run").rename(tmp_path / "moved")
    trainer = scored_trainer(tmp_path / "moved", monkeypatch)
    trainer.train(resume_from_checkpoint=last_checkpoint(tmp_path / "moved"))
    assert trainer.state.best_model_checkpoint == str(tmp_path / "moved" / "checkpoint-2")


def test_training_stops_early_and_ends_with_the_best(tmp_path, monkeypatch):
    trainer = scored_trainer(
        tmp_path, monkeypatch, max_steps=5, save_total_limit=None, callbacks=run_callbacks(None, patience=2)
    )
    trainer.train()
    assert trainer.state.global_step == 4
    assert names(tmp_path) == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]
    best = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(trainer.model.state_dict()[name], best[name]) for name in best)


@pytest.mark.parametrize("cut", [3, 4])
def test_a_continued_run_stops_early_at_the_same_step(cut, tmp_path, monkeypatch):
    """At step 3 one evaluation without a better loss is behind it, step 4 brings the second, and is the last."""
    settings = {"max_steps": 5, "save_total_limit": None}
    scored_trainer(tmp_path, monkeypatch, callbacks=run_callbacks(None, patience=2), **settings).train()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    if cut == 3:
        shutil.rmtree(tmp_path / "checkpoint-4")
    trainer = scored_trainer(tmp_path, monkeypatch, callbacks=run_callbacks(None, patience=2), **settings)
    trainer.train(resume_from_checkpoint=last_checkpoint(tmp_path))
    assert trainer.state.global_step == 4


# --- how a run is launched -------------------------------------------------------------------------------------------


def test_launch_settings_tell_runs_apart(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=3, gradient_accumulation_steps=4)
    assert launch_settings(args) == {"processes": 1, "global_batch": 12, "distributed": "NO"}
