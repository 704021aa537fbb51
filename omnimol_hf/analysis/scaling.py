"""How scores grow with data, model size and number of tasks, and what parts of the method add (Figures 2, 4-6, 10).

A run is a folder as `recipes/unified.py` leaves it: `results.json`, `predictions.jsonl`, `run.yaml` and `model`. What
cannot be read from these (a run scored elsewhere) stands in a file `about.json` beside them, which wins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from omnimol_hf.metrics.bootstrap import mean_metric, summarise
from omnimol_hf.metrics.normalised import Scales, label_scales, normalised_score
from omnimol_hf.mixture import parse_mixture
from omnimol_hf.run import SETTINGS
from omnimol_hf.stored_weights import stored_tensors
from omnimol_hf.tasks import ALL_TASKS

ABOUT = "about.json"
NORMALISED = "normalised"
# What scores are drawn over, and how the axis is called.
AXES = {"data_share": "share of the training data", "parameters": "parameters", "tasks": "tasks trained on together"}


# --- runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """A value with its 95 % interval; without one the limits are the value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Run:
    """One trained and scored model.

    Attributes:
        data_share: of the training rows, above 0 and up to 1.
        parameters: of the whole model; None if its weights are not there.
        tasks: how many it was trained on.
        scores: task -> score, tasks in the order of the paper's tables.
    """

    name: str
    data_share: float | None
    parameters: int | None
    tasks: int
    scores: dict[str, Score]


def normalised_scores(answers: Sequence[Mapping[str, Any]], scales: Scales | None = None) -> dict[str, Score]:
    """The mean rho of each task (`omnimol_hf.metrics.normalised`), with its bootstrap interval.

    Args:
        answers: the lines of `predictions.jsonl`.
        scales: `label_scales` of the training rows; None: the rho that stands beside each answer, which the recipe
            worked out with those of its training rows; where there is none, by the answered rows' own labels.
    """
    by_own_labels = label_scales(answers) if scales is None else scales

    def rho_of(row: Mapping[str, Any]) -> float:
        if scales is None and "rho" in row:
            return np.nan if row["rho"] is None else row["rho"]
        return normalised_score(row, row["answer"], by_own_labels)

    scores = {}
    for task in ALL_TASKS:
        rho = np.array([rho_of(row) for row in answers if row["task"] == task])
        if np.isfinite(rho).any():
            fields = summarise({NORMALISED: mean_metric(np.nan_to_num(rho), np.isfinite(rho))})[NORMALISED]
            scores[task] = _score(fields)
    return scores


def _score(fields: Mapping[str, Any]) -> Score:
    value = fields["value"]
    return Score(value, *(value if fields[end] is None else fields[end] for end in ("low", "high")))


def read_run(
    folder: str | Path, metric: str = NORMALISED, protocol: str = "strict", scales: Scales | None = None
) -> Run:
    """Read a run's folder.

    Args:
        metric: `"normalised"`, in [0, 1] for every task, worked out from `predictions.jsonl`; or a metric of
            `results.json`, such as `"mae"`: then the scores are of those tasks that have it.
        protocol: `"strict"` or `"paper"`, for metrics of `results.json`.
        scales: see `normalised_scores`.

    Raises:
        ValueError: if a file is missing or unreadable, `about.json` has unknown keys, or no task has the metric.
    """
    folder = Path(folder)
    about = json.loads(_text(folder / ABOUT)) if (folder / ABOUT).is_file() else {}
    if unknown := sorted(about.keys() - {"name", *AXES}):
        raise ValueError(f"{folder / ABOUT} has unknown keys {unknown}; expected some of name, {', '.join(AXES)}")
    if metric == NORMALISED:
        answers = [json.loads(line) for line in _text(folder / "predictions.jsonl").splitlines()]
        scores = normalised_scores(answers, scales)
    else:
        results = json.loads(_text(folder / "results.json"))
        found = {task: protocols[protocol].get(metric) for task, protocols in results.items()}
        scores = {task: _score(found[task]) for task in ALL_TASKS if (found.get(task) or {}).get("value") is not None}
    if not scores:
        raise ValueError(f"{folder}: no task has a score {metric!r}")
    settings = yaml.safe_load(_text(folder / SETTINGS)) if (folder / SETTINGS).is_file() else None
    facts = {
        "name": folder.name,
        "data_share": None if settings is None else _data_share(settings),
        "parameters": _parameters(folder / "model"),
        "tasks": len(scores) if settings is None else _trained_tasks(settings, len(scores)),
    }
    return Run(**(facts | about), scores=scores)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}. Is {path.parent} the folder of a run?") from error


def _data_share(settings: Mapping[str, Any]) -> float | None:
    """`proportion`, times the selection's budget where that is a share; None where it is a number of rows."""
    selection = settings.get("selection") or {}
    budget = 1.0 if selection.get("kind", "all") == "all" else selection["budget"]
    return settings.get("proportion", 1.0) * budget if isinstance(budget, float) else None


def _trained_tasks(settings: Mapping[str, Any], scored: int) -> int:
    if settings.get("tasks"):
        return len({share.task for share in parse_mixture(settings["tasks"]) if share.weight > 0})
    return len(settings["mixture"]) if settings.get("mixture") else scored


def _parameters(model: Path) -> int | None:
    if not (model / "config.json").is_file():
        return None
    return sum(int(np.prod(tensor.shape)) for tensor in stored_tensors(model).values())


def average(scores: Mapping[str, Score]) -> Score:
    """The mean over tasks; the tasks' rows are different ones, so half-widths add in quadrature."""
    values = np.array([(one.value, one.value - one.low, one.high - one.value) for one in scores.values()])
    mean = values[:, 0].mean()
    down, up = np.sqrt((values[:, 1:] ** 2).sum(0)) / len(values)
    return Score(float(mean), float(mean - down), float(mean + up))


def common_tasks(runs: Sequence[Mapping[str, Score]]) -> list[str]:
    """The tasks that all of several sets of scores hold: averages over others could not be compared.

    Raises:
        ValueError: if there is none.
    """
    tasks = [task for task in runs[0] if all(task in run for run in runs)]
    if not tasks:
        raise ValueError(f"no task was scored in all runs: {[sorted(run) for run in runs]}")
    return tasks


# --- y = a log x + b ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogFit:
    """Least squares of y = a log(x) + b, natural logarithm.

    Attributes:
        a, b: the coefficients.
        a_error: half the width of the 95 % interval of a; NaN for two points, which any line goes through.
        r2: the share of the variance that it explains.
    """

    a: float
    b: float
    a_error: float
    r2: float
    points: int
    mean_log: float
    spread: float
    residual: float

    def __call__(self, x: np.ndarray | float) -> np.ndarray:
        """The fitted y."""
        return self.a * np.log(x) + self.b

    def half_width(self, x: np.ndarray | float) -> np.ndarray:
        """Half the 95 % confidence band of the line (not of single runs), from Student's t with n - 2 degrees."""
        distance = (np.log(x) - self.mean_log) ** 2
        return _student(self.points) * self.residual * np.sqrt(1 / self.points + distance / self.spread)


def _student(points: int) -> float:
    return float(stats.t.ppf(0.975, points - 2)) if points > 2 else float("nan")


def fit_log(x: Sequence[float], y: Sequence[float]) -> LogFit:
    """Fit y = a log(x) + b.

    Raises:
        ValueError: for lists of different lengths, x that are not positive, or fewer than two different x.
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if xs.shape != ys.shape or (xs <= 0).any() or len(set(xs.tolist())) < 2:
        raise ValueError(f"a line in log(x) needs at least two different x above 0, and a y for each; got {x} and {y}")
    logs = np.log(xs)
    spread = ((logs - logs.mean()) ** 2).sum()
    a = ((logs - logs.mean()) * (ys - ys.mean())).sum() / spread
    b = ys.mean() - a * logs.mean()
    left, n = ys - a * logs - b, len(xs)
    total = ((ys - ys.mean()) ** 2).sum()
    residual = np.sqrt((left**2).sum() / (n - 2)) if n > 2 else float("nan")
    return LogFit(
        a=float(a),
        b=float(b),
        a_error=float(_student(n) * residual / np.sqrt(spread)),
        r2=float(1 - (left**2).sum() / total) if total > 0 else 1.0,
        points=n,
        mean_log=float(logs.mean()),
        spread=float(spread),
        residual=float(residual),
    )
