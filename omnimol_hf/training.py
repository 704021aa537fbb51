"""The Trainer of all recipes: its own row order, whole checkpoints only, and the loss's denominator."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from omnimol_hf.checkpoints import STAGING, WholeCheckpoints, global_batch, last_checkpoint, stops_plainly
from omnimol_hf.llama_licence import copy_legal_files
from omnimol_hf.packing import PackedCollator, prepare_attention
from omnimol_hf.sampling import MixtureSampler, SelectionSampler
from omnimol_hf.selection import RowSelection
from omnimol_hf.tasks import ALL_TASKS
from omnimol_hf.telemetry import Telemetry, labels_by_sequence

ROUNDS = "selection.jsonl"


class OmniMolTrainer(WholeCheckpoints):
    """`transformers.Trainer` on encoded rows (`omnimol_hf.collation.encode_rows`).

    Args:
        mixture: task -> weight in the training order; None: all rows as they are. See `MixtureSampler`.
        selection: draws the rows in rounds instead, which also decide `max_steps`.
        score: rho of the rows with these numbers, in [0, 1], by the model that is trained; all processes call it and
            may share the work. An active selection needs it.
        balance_tasks: every task of an optimiser step counts alike, whatever its share of the tokens: the loss is the
            mean over those tasks of each one's own mean (over its tokens, or its sequences for `"sum_per_sample"`),
            exact over micro-batches and processes. The balance loss stays as it is. The authors' `use_task_loss`
            means something else: it divides each task's mean in a micro-batch by its own detached value, so that only
            the directions of the tasks' gradients count and how the rows were dealt out changes the result.
        packing: the rows of a micro-batch are packed into one row to train on; see `PackedCollator`.
        kwargs: those of `Trainer`.
    """

    def __init__(
        self,
        *args: Any,
        mixture: dict[str, float] | None = None,
        selection: RowSelection | None = None,
        score: Callable[[np.ndarray], np.ndarray] | None = None,
        balance_tasks: bool = False,
        packing: bool = False,
        **kwargs: Any,
    ) -> None:
        self.mixture = mixture
        self.selection = selection
        self.balance_tasks = balance_tasks
        self.packing = packing
        super().__init__(*args, **kwargs)
        if balance_tasks and self.args.world_size > 1 and not self.counts_everywhere:
            raise ValueError("balance_tasks with several processes needs average_tokens_across_devices=True")
        if packing:
            prepare_attention(self.accelerator.unwrap_model(self.model))
        # It would hide a loss that is not finite, and wait for the device in each step to see it.
        self.args.logging_nan_inf_filter = False
        self.telemetry = Telemetry(self)
        self.add_callback(self.telemetry)
        self.add_callback(EpochCallback(self))
        if selection is not None:
            if score is None and selection.settings.kind == "active":
                raise ValueError("an active selection needs a score: without it no task can be rated")
            self.args.max_steps = selection.steps(self.global_batch)
            self.add_callback(SelectionCallback(selection, score))

    @property
    def global_batch(self) -> int:
        """Rows of one optimiser step over all processes and micro-batches."""
        return global_batch(self.args)

    @property
    def counts_everywhere(self) -> bool:
        """Whether the loss is divided by what all processes have together; Trainer then multiplies it by them."""
        return self.args.average_tokens_across_devices and self.args.world_size > 1

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        rows = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if self.selection is None:
            self.sampler = MixtureSampler(list(rows["task"]), rows["length"], self.global_batch, self.mixture, seed)
        else:
            self.sampler = SelectionSampler(self.selection, rows["length"], self.global_batch, seed)
        return self.sampler

    def get_train_dataloader(self) -> DataLoader:
        """Batches to train on; only those are packed, for Trainer's evaluation counts rows."""
        collator = self.data_collator
        if self.packing:
            self.data_collator = PackedCollator(collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collator

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """Labelled tokens of the whole optimiser step, or its sequences when the loss averages over those (Eq. 4)."""
        by_tokens = self.accelerator.unwrap_model(self.model).config.loss_reduction == "token_mean"
        items = torch.zeros(len(ALL_TASKS), dtype=torch.int64, device=device)
        for batch in batch_samples:
            task_ids = batch["task_ids"]
            each = labels_by_sequence(batch) if by_tokens else torch.ones_like(task_ids)
            items.index_add_(0, task_ids.to(device), each.to(device))
        self.task_items = self.accelerator.reduce(items, "sum") if self.counts_everywhere else items
        return self.task_items.sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The loss of a micro-batch as Trainer has it, with `balance_tasks`; what it consists of goes to telemetry."""
        inputs = dict(inputs)
        task_ids = inputs.pop("task_ids")
        if self.balance_tasks and model.training:
            tasks = self.task_items.count_nonzero()
            shares = num_items_in_batch / (tasks * self.task_items.clamp(min=1))
            inputs["sequence_weights"] = shares[task_ids]
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self.telemetry.add(task_ids, inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with all that telemetry has to tell; stops a run whose loss is not finite (`Telemetry.check`)."""
        table = {}
        if "loss" in logs:
            self.telemetry.check(logs)
            scalars, table = self.telemetry.read()
            logs.update(scalars)
        elif "train_loss" in logs:  # the end of training
            self.telemetry.check(weights=True)
        super().log(logs, start_time)
        self.telemetry.write(self.state.log_history[-1] | table)

    def last_checkpoint(self) -> str | None:
        """The newest whole checkpoint of this run, or None."""
        return last_checkpoint(self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.telemetry.check(weights=True)
        super()._save_checkpoint(model, trial)

    def save_whole_model(self, folder: Path, legal_from: Path | None = None) -> None:
        """Save model, processor and `training_log.json` as a folder that is there whole or not at all; no pickles.

        Args:
            legal_from: the checkpoint that training started from, whose licence and notice files go along.
        """
        aside = folder.with_name(folder.name + STAGING)
        with stops_plainly(f"the {folder.name}", aside):
            self.save_model(str(aside), _internal_call=True)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                (aside / "training_args.bin").unlink(missing_ok=True)
                (aside / "training_log.json").write_text(json.dumps(self.state.log_history, indent=1))
                if legal_from is not None:
                    copy_legal_files(legal_from, aside, version=None)
                aside.rename(folder)
        self.accelerator.wait_for_everyone()


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file that a run wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def train_or_continue(trainer: OmniMolTrainer) -> None:
    """Train from the last whole checkpoint in the trainer's folder, or from the beginning if there is none.

    Raises:
        SystemExit: if the loss or a weight is no longer finite; see `Telemetry.check`.
    """
    checkpoint = trainer.last_checkpoint()
    start = f"continuing from {checkpoint}" if checkpoint else f"training on {len(trainer.train_dataset):,} rows"
    trainer.accelerator.print(start)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except FloatingPointError as error:
        raise SystemExit(str(error)) from error


class EpochCallback(TrainerCallback):
    """Tells the trainer's sampler its epoch: several processes that resume in the middle of one are not told it."""

    def __init__(self, trainer: OmniMolTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.sampler.set_epoch(int(state.epoch or 0))


class StopEpochCallback(TrainerCallback):
    """Ends training after an epoch, in the middle of the learning rate's schedule (Table 4: 10 of 15).

    Args:
        epoch: The last one, counted from 1.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if (state.epoch or 0) >= self.epoch:  # a run that went on from its last checkpoint
            control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if round(state.epoch or 0) >= self.epoch:
            control.should_training_stop = True


class PatientCallback(EarlyStoppingCallback):
    """`EarlyStoppingCallback` that a continued run takes up with the evaluations counted so far."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        # Trainer's own way of restoring makes new callbacks, which a selection's cannot be.
        if state.global_step and type(self).__name__ in state.stateful_callbacks:
            saved = state.stateful_callbacks[type(self).__name__]["attributes"]
            self.early_stopping_patience_counter = saved["early_stopping_patience_counter"]
            if self.early_stopping_patience_counter >= self.early_stopping_patience:
                control.should_training_stop = True


def run_callbacks(stop_epoch: int | None, patience: int | None) -> list[TrainerCallback]:
    """What ends a run early: an epoch, or evaluations that bring no better validation loss."""
    ends: list[TrainerCallback] = [] if stop_epoch is None else [StopEpochCallback(stop_epoch)]
    return ends if patience is None else [*ends, PatientCallback(patience)]


class SelectionCallback(TrainerCallback, ExportableState):
    """The rounds of a selection in one run of the trainer, whose epochs are the selection's units.

    When a round's units are trained its rows are scored, the tasks rated and the next round drawn. That happens before
    the next unit begins, so a checkpoint holds the rounds drawn so far and a continued run does what is still due.
    Every process holds the same ratings, those of the first one. `selection.jsonl` in the run's folder has one line a
    round: `RowSelection.history`, and the step at which the round began.

    Args:
        selection, score: see `OmniMolTrainer`.
    """

    def __init__(self, selection: RowSelection, score: Callable[[np.ndarray], np.ndarray] | None) -> None:
        self.selection = selection
        self.score = score

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the selection, in `trainer_state.json`."""
        return {"args": {}, "attributes": self.selection.state()}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self.selection.history.clear()
            return
        if type(self).__name__ not in state.stateful_callbacks:
            raise ValueError("the checkpoint is of a run without selection; a selection cannot begin in its middle")
        self.selection.restore(state.stateful_callbacks[type(self).__name__]["attributes"])

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.selection.round < self.selection.round_of(int(state.epoch or 0)):
            self._rate()
            self.selection.draw()
            self.selection.history[-1]["step"] = state.global_step
        self._log(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._rate()
        self._log(args, state)

    def _rate(self) -> None:
        rows = self.selection.rows_to_score() if self.selection.round else ()
        if len(rows) and "mu" not in self.selection.history[-1]:
            start = time.perf_counter()
            rho = self.score(rows)
            self.selection.rate(*broadcast_object_list([rho, time.perf_counter() - start]))

    def _log(self, args: TrainingArguments, state: TrainerState) -> None:
        if state.is_world_process_zero:
            aside = Path(args.output_dir) / (ROUNDS + STAGING)
            aside.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text("".join(json.dumps(entry) + "\n" for entry in self.selection.history), encoding="utf-8")
            aside.rename(aside.with_name(ROUNDS))


def select_trainable(model: nn.Module, parts: list[str] | None) -> dict[str, int]:
    """Freeze all but the named parts of the model.

    Args:
        model: an `OmniMolForCausalLM`.
        parts: pieces of parameter names, such as `"projector"`, `"router"`, `"experts"`; None: everything but the
            graph encoder, which never trains.

    Returns:
        What trains: the part and its number of parameters, with `"frozen"` as the last entry.

    Raises:
        ValueError: for a part that no parameter name has.
    """
    counts = dict.fromkeys(parts or ["all but the graph encoder"], 0) | {"frozen": 0}
    for name, parameter in model.named_parameters():
        found = [part for part in parts if part in name.split(".")] if parts else ["all but the graph encoder"]
        trains = bool(found) and "graph_encoder" not in name
        parameter.requires_grad_(trains)
        if trains:
            # In bf16 a step of 1e-4 changes nothing: what trains is kept in fp32, and forward casts it.
            parameter.data = parameter.data.float()
        counts[found[0] if trains else "frozen"] += parameter.numel()
    counts["frozen"] += sum(weight.numel() for weight in model.model.graph_encoder.buffers())
    if missing := [part for part in parts or [] if not counts[part]]:
        raise ValueError(f"no trainable parameter is named {missing}; names are made of {sorted(_name_parts(model))}")
    return counts


def _name_parts(model: nn.Module) -> set[str]:
    return {part for name, _ in model.named_parameters() for part in name.split(".") if not part.isdigit()}
