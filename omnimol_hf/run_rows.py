"""The rows of a run: those it can draw, those kept apart for validation, and those held out for its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState
from datasets import Dataset
from transformers import TrainingArguments

from omnimol_hf.checkpoints import global_batch
from omnimol_hf.collation import encode_rows
from omnimol_hf.encoded_rows import EncodedRows
from omnimol_hf.mixture import load_mixture, parse_mixture
from omnimol_hf.processing_omnimol import OmniMolProcessor
from omnimol_hf.row_encoding import RowEncoder
from omnimol_hf.rows import by_task, choose_rows, load_rows
from omnimol_hf.run import RunArguments
from omnimol_hf.selection import RowSelection


class RunRows(NamedTuple):
    """Rows in the dataset's schema: to train on, to validate by (None without a validation share), and held out."""

    train: Dataset
    validation: Dataset | None
    test: dict[str, list[dict[str, Any]]]


def prepare_rows(run: RunArguments, training: TrainingArguments) -> RunRows:
    """Load, narrow down and divide the rows as the settings say. What is left out is told.

    Raises:
        ValueError: for rows in another schema, unreadable molecules, tasks without rows, and a selection that the
            rows cannot meet; with the file, row and task.
    """
    tell = PartialState().print
    source = run.dataset
    if source == "starter":
        source = run.dataset_dir
        if not Path(source).exists():
            from dataset_builders.build import build_starter  # needs the extra `starter`; other data does not

            build_starter(Path(source))
    splits = load_rows(source, run.tasks and {share.task for share in parse_mixture(run.tasks)})
    if run.tasks or run.proportion < 1:
        splits["train"] = load_mixture(splits["train"], run.tasks, proportion=run.proportion, seed=training.seed)
    for task in sorted(set(splits["train"]["task"]) - set(run.mixture or splits["train"]["task"])):
        tell(f"{task} has rows but no share of the mixture: it is not trained on")
    train = choose_rows(splits["train"], training.seed, _draws(run, training), run.max_heavy_atoms)
    if not len(train):
        raise ValueError(f"no training rows of {source} are within the limits of this run")
    validation = None
    if run.validation:
        validation = load_mixture(train, proportion=run.validation, seed=training.seed + 1)
        apart = set(validation["id"])
        train = train.select([i for i, one in enumerate(train["id"]) if one not in apart])
        if not len(validation):
            raise ValueError(
                f"validation is {run.validation}: of {len(train):,} training rows that is not one row a task"
            )
    if run.selects:
        # What cannot be is told before the rows are encoded.
        RowSelection(train["task"], run.selects).unit_steps(global_batch(training))
    # More than are scored, for some will turn out too long.
    test = choose_rows(splits["test"], training.seed, 3 * run.eval_rows, run.max_heavy_atoms)
    held_out = {task: list(rows) for task, rows in by_task(test).items() if task in set(train["task"])}
    for task in sorted(set(train["task"]) - set(held_out)):
        tell(f"{task} has no held-out rows within the limits: it is not scored")
    return RunRows(train, validation, held_out)


def _draws(run: RunArguments, training: TrainingArguments) -> dict[str, int] | None:
    """Rows of each task that a run of a mixture can come to draw; others need not be encoded."""
    if not run.mixture or training.max_steps <= 0:
        return None
    draws = training.max_steps * global_batch(training)
    total = sum(run.mixture.values())
    return {task: int(1.2 * weight / total * draws) + 50 for task, weight in run.mixture.items()}


def encode_told(rows: Dataset, processor: OmniMolProcessor, run: RunArguments, what: str = "training") -> EncodedRows:
    """Encode rows, and tell how many were left out for which reason.

    Raises:
        ValueError: if none is left.
    """
    encoded, left_out = encode_rows(rows, processor, run.max_length)
    for reason, count in sorted(left_out.items()):
        PartialState().print(f"left out {count:,} {what} rows: {reason}")
    if not len(encoded):
        raise ValueError(f"none of the {len(rows):,} {what} rows could be encoded: {'; '.join(left_out)}")
    for task in sorted(set(rows["task"]) - set(encoded["task"])):
        PartialState().print(f"no {what} row of {task} is left")
    return encoded


def rows_that_fit(rows: list[dict[str, Any]], processor: OmniMolProcessor, run: RunArguments) -> list[dict[str, Any]]:
    """The first held-out rows that are readable and no longer than training rows were."""
    encoded = RowEncoder(processor, run.max_length).encode(rows)
    return [row for row, one in zip(rows, encoded, strict=True) if not one["problem"]][: run.eval_rows]
