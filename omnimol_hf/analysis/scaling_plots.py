"""Scores over data, model size and tasks with a fitted line, radars, ablation bars, and a dataset's composition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from omnimol_hf.analysis.scaling import AXES, LogFit, Run, Score, average, common_tasks, fit_log
from omnimol_hf.analysis.style import GREY, INK, SERIES, new_figure, save_figure, spoken, tidy
from omnimol_hf.tasks import ALL_TASKS

_CATEGORY_COLORS = dict(zip(("reaction", "regression", "description", "action", "generation"), SERIES, strict=False))


def short_number(value: float) -> str:
    """1.7B, 350M, 12k, 0.4."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


# --- scaling ---------------------------------------------------------------------------------------------------------


def _place(run: Run, axis: str) -> float:
    value = getattr(run, axis)
    if value is None:
        raise ValueError(f"the run {run.name} does not say its {axis}: write it into about.json in its folder")
    return value


def _fit_label(fit: LogFit) -> str:
    sign = "+" if fit.b >= 0 else "−"
    slope = f"{fit.a:.3f}" if np.isnan(fit.a_error) else f"({fit.a:.3f} ± {fit.a_error:.3f})"
    return f"y = {slope} log x {sign} {abs(fit.b):.3f}"


def _scores_with_fit(
    axes: Axes, places: Sequence[float], scores: Sequence[Score], name: str, color: str, aside: float
) -> LogFit:
    values = np.array([score.value for score in scores])
    ends = np.array([(score.value - score.low, score.high - score.value) for score in scores]).T
    axes.errorbar(
        np.array(places) * aside,
        values,
        yerr=ends,
        color=color,
        fmt="o",
        markersize=6,
        capsize=3,
        linewidth=1.3,
        label=name,
    )
    fit = fit_log(places, values)
    line = np.geomspace(min(places), max(places), 100)
    axes.plot(line, fit(line), color=color, linewidth=1.8, linestyle="--", label=_fit_label(fit))
    if fit.points > 2:
        band = fit.half_width(line)
        axes.fill_between(line, fit(line) - band, fit(line) + band, color=color, alpha=0.15, linewidth=0)
    return fit


def _radar(axes: Axes, runs: Sequence[Run], tasks: Sequence[str], axis: str) -> None:
    """One ring a run, paler to darker; the axes are the tasks' normalised scores from 0 to the best one."""
    angles = np.linspace(0, 2 * np.pi, len(tasks), endpoint=False)
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.15, 0.9, len(runs)))
    for run, shade in zip(runs, shades, strict=True):
        values = [run.scores[task].value for task in tasks]
        around = [*values, values[0]], [*angles, angles[0]]
        axes.plot(around[1], around[0], color=shade, linewidth=1.8, label=short_number(_place(run, axis)))
        axes.fill(around[1], around[0], color=shade, alpha=0.06)
    axes.set_xticks(angles, [spoken(task).replace(" ", "\n") for task in tasks], fontsize=8.5, color=INK)
    axes.tick_params(axis="x", pad=12)
    axes.tick_params(axis="y", labelsize=7, colors=GREY)
    axes.set_ylim(bottom=0)
    axes.set_rlabel_position(180 / len(tasks))
    axes.grid(color=GREY, alpha=0.3, linewidth=0.7)
    axes.spines["polar"].set_color(GREY)
    axes.legend(
        title=AXES[axis], frameon=False, fontsize=8.5, title_fontsize=8.5, loc="upper left", bbox_to_anchor=(1.1, 1)
    )


def plot_scaling(
    series: Mapping[str, Sequence[Run]],
    axis: str,
    path: str | Path,
    metric: str = "normalised",
    task: str | None = None,
) -> dict[str, LogFit]:
    """Draws scores over data share, model size or number of tasks, with y = a log x + b and its band, as a PNG.

    Beside it, for one series with at least three tasks in common, a radar of the tasks' scores, one ring a run.

    Args:
        series: name -> runs, at least two of different places on the axis.
        axis: one of `AXES`.
        task: whose scores; None: the average over the tasks that all runs have.

    Returns:
        name -> the fitted line.

    Raises:
        ValueError: if a run does not say where it stands on the axis, or runs have no task in common.
    """
    runs = [run for one in series.values() for run in one]
    tasks = [task] if task else common_tasks([run.scores for run in runs])
    if missing := [run.name for run in runs if tasks[0] not in run.scores]:
        raise ValueError(f"the runs {', '.join(missing)} have no score of {task}")
    with_radar = len(series) == 1 and len(tasks) > 2
    figure = new_figure(13.5 if with_radar else 7.5, 5.2)
    axes = figure.add_subplot(1, 2, 1) if with_radar else figure.subplots()
    fits = {}
    for number, ((name, one), color) in enumerate(zip(series.items(), SERIES, strict=False)):
        one = sorted(one, key=lambda run: _place(run, axis))
        scores = [average({task: run.scores[task] for task in tasks}) for run in one]
        aside = 1.03**number  # so that intervals at the same place do not hide one another
        fits[name] = _scores_with_fit(axes, [_place(run, axis) for run in one], scores, name, color, aside)
        if with_radar:
            _radar(figure.add_subplot(1, 2, 2, projection="polar"), one, tasks, axis)
    places = sorted({_place(run, axis) for run in runs})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([short_number(place) for place in places])
    axes.set_xlabel(f"{AXES[axis]} (log scale)", color=INK)
    what = spoken(tasks[0]) if len(tasks) == 1 else f"average of {len(tasks)} tasks"
    axes.set_ylabel(f"{metric} score, {what}", color=INK)
    tidy(axes)
    axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)
    return fits


# --- ablations -------------------------------------------------------------------------------------------------------


def plot_variants(
    variants: Mapping[str, Mapping[str, Score]],
    path: str | Path,
    metric: str = "normalised",
    notes: Mapping[str, str] = {},
) -> None:
    """Draws the scores of several variants of the method side by side, a group of bars a task, as a PNG.

    For Figures 5 and 6 (ablations) and 10 (unified against separate tuning, where the separate runs together are one
    variant). The last group is the average over the tasks that all variants have.

    Args:
        variants: name -> task -> score.
        notes: name -> what else the legend says, such as the share of the data.

    Raises:
        ValueError: for more variants than there are colours; `omnimol_hf.analysis.ablations` draws many.
    """
    if len(variants) > len(SERIES):
        raise ValueError(f"{len(variants)} variants are too many for bars side by side; at most {len(SERIES)}")
    tasks = [task for task in ALL_TASKS if any(task in scores for scores in variants.values())]
    shared = common_tasks(list(variants.values()))
    groups = [*tasks, *(["average"] if len(shared) > 1 else [])]
    figure = new_figure(max(7.0, (0.28 * len(variants) + 0.5) * len(groups) + 2), 4.6)
    axes = figure.subplots()
    width = 0.8 / len(variants)
    for number, ((name, scores), color) in enumerate(zip(variants.items(), SERIES, strict=False)):
        bars = dict(scores) | {"average": average({task: scores[task] for task in shared})}
        places = [place for place, group in enumerate(groups) if group in bars]
        shown = [bars[groups[place]] for place in places]
        ends = np.array([(score.value - score.low, score.high - score.value) for score in shown]).T
        axes.bar(
            np.array(places) + (number - (len(variants) - 1) / 2) * width,
            [score.value for score in shown],
            width * 0.92,
            yerr=ends,
            color=color,
            error_kw={"elinewidth": 1, "ecolor": INK, "capsize": 2},
            label=f"{name} ({notes[name]})" if notes.get(name) else name,
        )
    axes.set_xticks(range(len(groups)), [spoken(group).replace(" ", "\n") for group in groups])
    if len(groups) > len(tasks):
        axes.axvline(len(tasks) - 0.5, color=GREY, linewidth=1, linestyle=":")
    axes.set_ylabel(f"{metric} score", color=INK)
    axes.margins(x=0.01)
    tidy(axes)
    axes.tick_params(axis="x", length=0)
    figure.legend(loc="outside upper left", ncols=min(4, len(variants)), frameon=False, fontsize=9.5)
    save_figure(figure, path)


# --- composition -----------------------------------------------------------------------------------------------------


def plot_composition(counts: Mapping[str, Mapping[str, int]], path: str | Path) -> None:
    """Draws what a dataset consists of (Figure 9): shares of categories and tasks, and rows of each split, as a PNG.

    Args:
        counts: task -> split -> rows.

    Raises:
        ValueError: if there are no rows.
    """
    totals = {task: sum(counts[task].values()) for task in ALL_TASKS if sum(counts.get(task, {}).values())}
    if not totals:
        raise ValueError("there is no composition to plot: no task has rows")
    categories = list(dict.fromkeys(ALL_TASKS[task].category for task in totals))
    ordered = [task for category in categories for task in totals if ALL_TASKS[task].category == category]
    figure = new_figure(13.0, max(4.6, 0.36 * len(ordered) + 1.4))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.45))
    _rings(left, categories, ordered, totals)
    _split_bars(right, ordered, counts)
    save_figure(figure, path)


def _shades(categories: Sequence[str], tasks: Sequence[str]) -> list[tuple[float, ...]]:
    """Each task's shade of its category's colour."""
    shades = []
    for category in categories:
        base = np.array(to_rgb(_CATEGORY_COLORS[category]))
        mine = [task for task in tasks if ALL_TASKS[task].category == category]
        shades += [tuple(base + (1 - base) * share) for share in np.linspace(0.15, 0.6, len(mine))]
    return shades


def _rings(axes: Axes, categories: Sequence[str], tasks: Sequence[str], totals: Mapping[str, int]) -> None:
    by_category = [sum(totals[task] for task in tasks if ALL_TASKS[task].category == name) for name in categories]
    edge = {"edgecolor": "white", "linewidth": 1.2}
    labels = [f"{name}\n{rows / sum(by_category):.0%}" for name, rows in zip(categories, by_category, strict=True)]
    start = {"startangle": 90, "counterclock": False}
    axes.pie(
        [totals[task] for task in tasks],
        radius=1.0,
        colors=_shades(categories, tasks),
        wedgeprops={"width": 0.3, **edge},
        **start,
    )
    axes.pie(
        by_category,
        radius=0.68,
        colors=[_CATEGORY_COLORS[name] for name in categories],
        wedgeprops={"width": 0.26, **edge},
        **start,
    )
    handles = [Patch(color=_CATEGORY_COLORS[name]) for name in categories]
    axes.legend(
        handles,
        [label.replace("\n", " ") for label in labels],
        frameon=False,
        fontsize=9,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.02),
        ncols=2,
    )
    axes.text(0, 0, f"{short_number(sum(by_category))}\nrows", ha="center", va="center", fontsize=12, color=INK)


def _split_bars(axes: Axes, tasks: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> None:
    splits = list(dict.fromkeys(split for task in tasks for split in counts[task]))
    height = 0.82 / len(splits)
    for number, split in enumerate(splits):
        places = np.arange(len(tasks)) + (number - (len(splits) - 1) / 2) * height
        rows = [counts[task].get(split, 0) for task in tasks]
        colors = [_CATEGORY_COLORS[ALL_TASKS[task].category] for task in tasks]
        axes.barh(places, rows, height * 0.92, color=colors, alpha=1 - 0.6 * number / len(splits))
        for place, value in zip(places, rows, strict=True):
            if value:
                axes.text(value, place, f" {split} {value:,}", va="center", fontsize=7.5, color=INK)
    axes.set_yticks(range(len(tasks)), [spoken(task) for task in tasks])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.16)
    axes.set_xlabel("rows (log scale)", color=INK)
    tidy(axes, "x")
