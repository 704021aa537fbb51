"""Pictures of a task's answers: how close, how far off, on which rows, and whether the model knew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from omnimol_hf.analysis.report import short_unit
from omnimol_hf.analysis.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, tidy
from omnimol_hf.metrics import read_number
from omnimol_hf.rows import heavy_atoms
from omnimol_hf.tasks import Task

COLORS = (BLUE, ORANGE, GREEN, RED, PURPLE, "#1c9ba0", "#8a6d3b", GREY)
MOST_POINTS = 1500  # of a scatter; more only blacken it
SCORE = {
    "molecule": "Morgan Tanimoto similarity",
    "number": "closeness exp(-|error| / spread)",
    "text": "ROUGE-L",
    "procedure": "edit similarity",
}


class TaskAnswers(NamedTuple):
    """The answers of several models to the rows of one task.

    Attributes:
        rows: the task's held-out rows.
        answers: for each model, the answers with their `logprob`.
        scores: for each model, the normalised score of each row.
    """

    rows: Sequence[Mapping[str, Any]]
    answers: Mapping[str, Sequence[Mapping[str, Any]]]
    scores: Mapping[str, np.ndarray]


class Panel(NamedTuple):
    """A drawn picture: the name of its file, and what it shows, in words."""

    path: Path
    title: str


def draw_panels(task: Task, data: TaskAnswers, folder: Path) -> list[Panel]:
    """Draws all pictures of a task as SVG files, `TASK-NAME.svg` in `folder`.

    Numbers: predicted against true, and the errors. All others: how the scores are spread, and the score by the length
    of the reference. All: the score by the size of the molecules, and by the log-probability of the answer.
    """
    panels = []

    def panel(name: str, title: str, draw: Callable[[Axes], None]) -> None:
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{task.name}-{name}"}):
            figure = Figure(figsize=(4.4, 3.3), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.subplots()
            draw(axes)
            tidy(axes)
            if len(data.answers) > 1:
                axes.legend(frameon=False, fontsize=8)
            path = folder / f"{task.name}-{name}.svg"
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata={"Date": None})
        panels.append(Panel(path, title))

    score = SCORE[task.answer]
    if task.answer == "number":
        panel("parity", "Predicted against true", lambda axes: _parity(axes, task, data))
        panel("errors", "Errors", lambda axes: _errors(axes, task, data))
    else:
        panel("scores", "Spread of the scores", lambda axes: _spread(axes, score, data))
        length, unit = _reference_lengths(task, data.rows)
        panel("length", "By length", lambda axes: _by(axes, score, data, length, f"reference, {unit}"))
    sizes = np.array([heavy_atoms(row["graph_smiles"]) for row in data.rows])
    if sizes.any():
        panel("size", "By molecule size", lambda axes: _by(axes, score, data, sizes, "heavy atoms"))
    panel("calibration", "Calibration", lambda axes: _calibration(axes, score, data))
    return panels


def _colored(data: TaskAnswers) -> list[tuple[str, str]]:
    return [(name, COLORS[i % len(COLORS)]) for i, name in enumerate(data.answers)]


def _some(count: int) -> np.ndarray:
    """Places of at most `MOST_POINTS` of so many points, always the same ones."""
    return np.random.default_rng(0).permutation(count)[:MOST_POINTS]


def _numbers(texts: Sequence[str]) -> np.ndarray:
    values = np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        try:
            values[i] = read_number(text)
        except ValueError:
            continue
    return values


def _with_unit(task: Task, text: str) -> str:
    unit = short_unit(task)
    return f"{text} ({unit})" if unit else text


def _limits(values: np.ndarray) -> tuple[float, float]:
    """What to show of numbers of which a few may be absurd."""
    low, high = np.percentile(values, (0.5, 99.5))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _parity(axes: Axes, task: Task, data: TaskAnswers) -> None:
    truths = _numbers([row["output"] for row in data.rows])
    low, high = _limits(truths)
    axes.plot((low, high), (low, high), color=GREY, linewidth=1, linestyle="--")
    for name, color in _colored(data):
        values = _numbers([one["answer"] for one in data.answers[name]])
        shown = [i for i in _some(len(values)) if np.isfinite(values[i])]
        clipped = np.clip(values[shown], low, high)  # those beyond stand on the edge
        axes.scatter(truths[shown], clipped, s=12, color=color, alpha=0.5, linewidths=0, label=name)
    axes.set(xlim=(low, high), ylim=(low, high))
    axes.set_xlabel(_with_unit(task, "true"), color=INK)
    axes.set_ylabel(_with_unit(task, "predicted"), color=INK)


def _errors(axes: Axes, task: Task, data: TaskAnswers) -> None:
    truths = _numbers([row["output"] for row in data.rows])
    errors = {name: _numbers([one["answer"] for one in data.answers[name]]) - truths for name in data.answers}
    errors = {name: values[np.isfinite(values)] for name, values in errors.items()}
    everything = np.concatenate(list(errors.values()))
    low, high = _limits(everything) if len(everything) else (-1.0, 1.0)
    bins = np.linspace(low, high, 31)
    for name, color in _colored(data):
        label = f"{name}: {len(truths) - len(errors[name])} unreadable"
        axes.hist(np.clip(errors[name], low, high), bins, color=color, alpha=0.6, label=label)
    axes.axvline(0, color=GREY, linewidth=1, linestyle="--")
    axes.set_xlabel(_with_unit(task, "predicted - true"), color=INK)
    axes.set_ylabel("rows", color=INK)


def _spread(axes: Axes, score: str, data: TaskAnswers) -> None:
    for name, color in _colored(data):
        axes.hist(data.scores[name], np.linspace(0, 1, 21), color=color, alpha=0.6, label=name)
    axes.set_xlabel(score, color=INK)
    axes.set_ylabel("rows", color=INK)


def _reference_lengths(task: Task, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, str]:
    outputs = [row["output"] for row in rows]
    if task.answer == "molecule":
        return np.array([text.count("[") for text in outputs]), "SELFIES symbols"
    if task.answer == "procedure":
        return np.array([text.count(";") + 1 for text in outputs]), "actions"
    return np.array([len(text.split()) for text in outputs]), "words"


def equal_bins(values: np.ndarray, most: int = 8, least_rows: int = 15) -> list[np.ndarray]:
    """Places of values in up to `most` bins of about as many rows each; equal values share a bin."""
    order = np.argsort(values, kind="stable")
    count = int(np.clip(len(values) // least_rows, 1, most))
    cuts = np.array_split(values[order], count)
    lower = np.unique([cut[0] for cut in cuts])
    bins = np.searchsorted(lower, values, side="right") - 1
    return [np.flatnonzero(bins == i) for i in range(len(lower))]


def _binned_means(axes: Axes, x: np.ndarray, y: np.ndarray, color: str, label: str) -> None:
    """Means with 95 % intervals of y over bins of x."""
    bins = equal_bins(x)
    means = [y[one].mean() for one in bins]
    errors = [1.96 * y[one].std(ddof=1) / np.sqrt(len(one)) if len(one) > 1 else 0.0 for one in bins]
    places = [np.mean(x[one]) for one in bins]
    axes.errorbar(places, means, errors, color=color, marker="o", markersize=4, linewidth=1.6, capsize=2, label=label)


def _by(axes: Axes, score: str, data: TaskAnswers, x: np.ndarray, what: str) -> None:
    for name, color in _colored(data):
        known = np.isfinite(data.scores[name])
        _binned_means(axes, x[known], data.scores[name][known], color, name)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(what, color=INK)
    axes.set_ylabel(score, color=INK)


def _ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest; equal values share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> str:
    """Spearman's rank correlation, in words; there is none where all values are equal."""
    ranks = _ranks(x), _ranks(y)
    if min(np.ptp(one) for one in ranks) == 0:
        return "no rank correlation"
    return f"rank correlation {np.corrcoef(*ranks)[0, 1]:.2f}"


def _calibration(axes: Axes, score: str, data: TaskAnswers) -> None:
    for name, color in _colored(data):
        logprobs = np.array([one["logprob"] for one in data.answers[name]], dtype=float)  # None becomes NaN
        scores = data.scores[name]
        known = np.flatnonzero(np.isfinite(logprobs) & np.isfinite(scores))
        if not len(known):
            continue
        shown = known[_some(len(known))]
        axes.scatter(logprobs[shown], scores[shown], s=9, color=color, alpha=0.25, linewidths=0)
        rank = _rank_correlation(logprobs[known], scores[known])
        _binned_means(axes, logprobs[known], scores[known], color, f"{name}: {rank}")
        if len(data.answers) == 1:
            axes.set_title(rank, loc="right", fontsize=8.5, color=GREY)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("log-probability of the answer (nats)", color=INK)
    axes.set_ylabel(score, color=INK)
