"""Finished runs side by side: scores, gradient norms and speed in one table, and the paper's Figures 2, 5 and 6."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from omnimol_hf.analysis.scaling import normalised_scores
from omnimol_hf.analysis.style import BLUE, GREY, INK, new_figure, save_figure, spoken, tidy
from omnimol_hf.tasks import ALL_TASKS


@dataclass(frozen=True)
class RunSummary:
    """What a finished run came to.

    Attributes:
        name: Its folder's.
        performance: Task -> mean normalised score of its held-out rows, in [0, 1].
        steps, gradient_norms: The logged steps and the gradient norm at each, before clipping.
        losses: The training loss at each of these steps.
        samples_per_second: Training speed.
        seconds: Training time.
    """

    name: str
    performance: Mapping[str, float]
    steps: Sequence[int]
    gradient_norms: Sequence[float]
    losses: Sequence[float]
    samples_per_second: float
    seconds: float

    @property
    def average(self) -> float:
        """The average performance: the mean over tasks."""
        return float(np.mean(list(self.performance.values())))

    def late_gradient_norm(self) -> tuple[float, float]:
        """Mean and largest gradient norm over the second half of the run."""
        late = np.asarray(self.gradient_norms)[len(self.gradient_norms) // 2 :]
        return float(late.mean()), float(late.max())


def summarise_run(folder: Path) -> RunSummary:
    """Read what `recipes/unified.py` left in a folder.

    Raises:
        FileNotFoundError: if the run is not finished.
    """
    answers = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    log = json.loads((folder / "model" / "training_log.json").read_text())
    entries = [entry for entry in log if "loss" in entry and "grad_norm" in entry]
    end = next(entry for entry in reversed(log) if "train_runtime" in entry)
    return RunSummary(
        name=folder.name,
        performance={task: score.value for task, score in normalised_scores(answers).items()},
        steps=[entry["step"] for entry in entries],
        gradient_norms=[float(entry["grad_norm"]) for entry in entries],
        losses=[float(entry["loss"]) for entry in entries],
        samples_per_second=end["train_samples_per_second"],
        seconds=end["train_runtime"],
    )


def table(runs: Sequence[RunSummary]) -> list[dict[str, str | float]]:
    """One row a run: average and single performances, gradient norms, loss and speed."""
    rows = []
    for run in runs:
        mean, largest = run.late_gradient_norm()
        rows.append(
            {
                "run": run.name,
                "average performance": round(run.average, 4),
                "last loss": round(float(np.mean(run.losses[-5:])), 4),
                "gradient norm, second half": round(mean, 4),
                "largest, second half": round(largest, 4),
                "rows per second": run.samples_per_second,
                "seconds": round(run.seconds, 1),
                **{task: round(value, 4) for task, value in run.performance.items()},
            }
        )
    return rows


def write_tables(runs: Sequence[RunSummary], folder: Path) -> str:
    """Write `ablations.csv` and `ablations.md`; returns the Markdown, without the columns of single tasks."""
    rows = table(runs)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (folder / "ablations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)

    def lines(names: Sequence[str]) -> list[str]:
        head = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        return head + [f"| {' | '.join(str(row.get(name, '')) for name in names)} |" for row in rows]

    tasks = [name for name in columns if name in ALL_TASKS]
    short = "\n".join(lines([name for name in columns if name not in tasks]))
    text = f"{short}\n\nPerformance by task, in [0, 1]:\n\n" + "\n".join(lines(["run", *tasks])) + "\n"
    (folder / "ablations.md").write_text(text, encoding="utf-8")
    return short


def _colors(number: int) -> np.ndarray:
    return matplotlib.colormaps["tab20"](np.linspace(0, 1, 20))[[(2 * i + i // 10) % 20 for i in range(number)]]


def plot_gradient_norms(runs: Sequence[RunSummary], path: Path) -> None:
    """Draws gradient norm and loss over the steps of each run (Figure 2, left), as a PNG."""
    figure = new_figure(10, 6.5)
    top, bottom = figure.subplots(2, 1, sharex=True)
    for run, color in zip(runs, _colors(len(runs)), strict=True):
        top.plot(run.steps, run.gradient_norms, color=color, linewidth=1.4, label=run.name)
        bottom.plot(run.steps, run.losses, color=color, linewidth=1.4)
    top.set_yscale("log")
    top.set_ylabel("gradient norm", color=INK)
    top.set_title("Gradient norms of the runs", loc="left", fontsize=12, color=INK)
    bottom.set_ylabel("training loss (nats per token)", color=INK)
    bottom.set_xlabel("step", color=INK)
    for axes in (top, bottom):
        tidy(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    save_figure(figure, path)


def plot_performance(runs: Sequence[RunSummary], path: Path) -> None:
    """Draws the average performance of each run, and each task's difference from the first run (Figures 5 and 6)."""
    tasks = list(runs[0].performance)
    gaps = np.array(
        [[run.performance.get(task, np.nan) - runs[0].performance[task] for task in tasks] for run in runs]
    )
    figure = new_figure(4.5 + 0.62 * len(tasks), 2.2 + 0.4 * len(runs))
    left, right = figure.subplots(1, 2, width_ratios=(4, 0.6 * len(tasks) + 2))
    places = np.arange(len(runs))
    averages = [run.average for run in runs]
    left.barh(places, averages, color=[BLUE] + [GREY] * (len(runs) - 1), height=0.65)
    for place, average in zip(places, averages, strict=True):
        left.text(average, place, f" {average:.3f}", va="center", fontsize=8.5, color=INK)
    left.set_yticks(places, [run.name for run in runs], fontsize=9)
    left.set_xlim(0, 1.2 * max(averages))
    left.invert_yaxis()
    left.set_title("average performance", loc="left", fontsize=10.5, color=INK)
    bound = max(0.05, float(np.nanmax(np.abs(gaps))))
    picture = right.imshow(gaps, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    for (row, column), gap in np.ndenumerate(gaps):
        if row and np.isfinite(gap):
            strong = abs(gap) > 0.6 * bound
            right.text(
                column, row, f"{gap:+.2f}", ha="center", va="center", fontsize=7.5, color="white" if strong else INK
            )
    right.set_xticks(range(len(tasks)), [spoken(task) for task in tasks], rotation=40, ha="right", fontsize=8.5)
    right.set_yticks([])
    right.set_title(f"by task, difference from {runs[0].name}", loc="left", fontsize=10.5, color=INK)
    figure.colorbar(picture, ax=right, shrink=0.8)
    left.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
