"""What every evaluation shares: which rows are held out, how they are answered, and the scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from omnimol_hf.generation import GenerationSettings, answer_batches, length_batches
from omnimol_hf.loading import LoadedModel
from omnimol_hf.metrics import baseline_answers, baseline_predictions, score_baselines, score_task
from omnimol_hf.metrics.normalised import label_scales, normalised_score
from omnimol_hf.predictions import answer_to_file, fingerprint
from omnimol_hf.rows import by_task, load_rows
from omnimol_hf.tasks import ALL_TASKS

# --- rows ------------------------------------------------------------------------------------------------------------


class HeldOut(NamedTuple):
    """Rows to score on.

    Attributes:
        rows: in the dataset's order, tasks in the order of the paper's tables.
        train: the training rows of the same tasks, for baselines; None if there are none.
        about: `dataset`, `revision` (a hub dataset's commit; None for files), `split`, `rows` and `fingerprint`.
    """

    rows: list[dict[str, Any]]
    train: Dataset | None
    about: dict[str, Any]


def held_out_rows(
    source: str,
    tasks: Collection[str] | None = None,
    split: str = "test",
    per_task: int | None = None,
    seed: int = 0,
) -> HeldOut:
    """The rows of a split that a model is scored on.

    Args:
        source: see `omnimol_hf.rows.load_splits`.
        tasks: only these; None: all but `alignment`, which is there for training alone.
        per_task: so many rows of each task, drawn by `seed`; None: all of them.

    Raises:
        ValueError: for an unknown task, or one without rows in the split, or a missing split.
    """
    for task in tasks or ():
        if task not in ALL_TASKS:
            near = get_close_matches(task, ALL_TASKS, n=1)
            raise ValueError(f"unknown task {task!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    splits = load_rows(source, tasks)
    if split not in splits:
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(splits)}")
    parts = by_task(splits[split])
    if lost := [task for task in tasks or () if task not in parts]:
        raise ValueError(f"{source} has no {split} rows of {', '.join(lost)}; it has {', '.join(parts) or 'none'}")
    chosen = [task for task in parts if (task in tasks if tasks else task != "alignment")]
    if not chosen:
        raise ValueError(f"{source} has no {split} rows to score")
    rows = []
    for task in chosen:
        part = parts[task]
        if per_task is not None and per_task < len(part):
            part = part.select(sorted(np.random.default_rng(seed).permutation(len(part))[:per_task]))
        rows += list(part)
    train = splits["train"] if split != "train" and "train" in splits else None
    if train is not None:
        train = train.select(np.flatnonzero(np.isin(train["task"][:], chosen)))
    about = {
        "dataset": source,
        "revision": _revision(splits[split]),
        "split": split,
        "rows": len(rows),
        "fingerprint": fingerprint(rows),
    }
    return HeldOut(rows, train, about)


def _revision(rows: Dataset) -> str | None:
    """The commit of the hub dataset that rows were read from, by the files that they came from."""
    files = " ".join(rows.info.download_checksums or ())
    found = re.search(r"hf://datasets/[^@\s]+@([0-9a-f]{40})/", files)
    return found and found[1]


# --- answers ---------------------------------------------------------------------------------------------------------


def answer_rows(
    path: Path,
    loaded: LoadedModel,
    rows: Sequence[dict[str, Any]],
    about: Mapping[str, Any],
    settings: GenerationSettings,
    batch_size: int,
) -> int:
    """Answer rows into a file, or go on where an earlier run stopped; see `omnimol_hf.predictions.answer_to_file`.

    Args:
        about: of the rows, such as `HeldOut.about`.
        batch_size: rows answered together; drawn answers depend on it, others do not.

    Returns:
        How many rows this call answered.
    """
    facts = {key: value for key, value in loaded.about.items() if key != "parameters"}
    everything = {**about, **facts, "generation": asdict(settings)}
    if settings.do_sample:
        everything["batch_size"] = batch_size

    def answer(batches: Sequence[Sequence[int]]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        return answer_batches(loaded.model, loaded.processor, rows, batches, settings)

    return answer_to_file(path, everything, rows, length_batches(rows, batch_size), answer)


# --- scores ----------------------------------------------------------------------------------------------------------


def score_answers(
    rows: Sequence[Mapping[str, Any]],
    answers: Sequence[str],
    train: Dataset | None,
    tokenize: Callable[[str], list[str]],
) -> dict[str, Any]:
    """task -> protocol -> metric -> value, baseline, interval and misses; what `results.json` holds.

    Args:
        rows: held-out rows, of any tasks.
        answers: one for each row.
        train: rows for the baselines; None, or none of a task: its baselines are None.
        tokenize: the model tokenizer's, for the protocol `paper`.
    """
    train_rows = by_task(train) if train is not None else {}
    results = {}
    for task, places in places_by_task(rows).items():
        mine = [rows[i] for i in places]
        constant = baseline_predictions(ALL_TASKS[task], train_rows[task], mine) if task in train_rows else None
        results[task] = score_task(
            ALL_TASKS[task],
            [answers[i] for i in places],
            [row["output"] for row in mine],
            constant,
            subsets=[row["subset"] for row in mine],
            tokenize=tokenize,
        )
    return results


def score_all_baselines(
    rows: Sequence[Mapping[str, Any]], train: Dataset | None, tokenize: Callable[[str], list[str]]
) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
    """task -> baseline -> protocol -> metric -> value, for all baselines of the tasks that have training rows.

    Args:
        rows, train, tokenize: see `score_answers`.
    """
    train_rows = by_task(train) if train is not None else {}
    scores = {}
    for task, places in places_by_task(rows).items():
        if task in train_rows:
            mine = [rows[i] for i in places]
            scores[task] = score_baselines(
                ALL_TASKS[task],
                baseline_answers(ALL_TASKS[task], train_rows[task], mine),
                [row["output"] for row in mine],
                subsets=[row["subset"] for row in mine],
                tokenize=tokenize,
            )
    return scores


def places_by_task(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Where the rows of each task are, tasks in the order of the paper's tables."""
    places: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        places.setdefault(row["task"], []).append(i)
    return {task: places[task] for task in ALL_TASKS if task in places}


def row_scores(rows: Sequence[Mapping[str, Any]], answers: Sequence[str], train: Dataset | None) -> list[float]:
    """The normalised score in [0, 1] of each answer; numbers are measured by the spread of the training labels.

    Where there are no training labels of a task, the held-out ones stand in.
    """
    columns = ["task", "subset", "output"]
    spread = list(train.select_columns(columns)) if train is not None else []
    trained = {row["task"] for row in spread}
    scales = label_scales([*spread, *(row for row in rows if row["task"] not in trained)])
    return [normalised_score(row, answer, scales) for row, answer in zip(rows, answers, strict=True)]
