"""The card's figures: lengths, values, rows by source and overlaps between tasks, as PNG files."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from dataset_builders.statistics import TaskStatistics
from omnimol_hf.tasks import ALL_TASKS

LENGTHS, VALUES, SOURCES, OVERLAPS = "lengths.png", "values.png", "sources.png", "overlaps.png"
_INK, _GREY, _PALE = "#222222", "#777777", "#e3e6ea"
_COLORS = ("#2a6fbb", "#d9822b", "#2e8b57", "#8e44ad", "#c0392b", "#16a0a0")
_COLUMNS, _PANEL = 4, (3.3, 2.0)  # panels in a line; inches
_BINS = 60
_DARKEST = 1_000
"""A table whose counts are all far below this one stays pale."""
_TAIL = 0.005
"""Share of values at each end that a histogram leaves out: a few giants would squeeze all others into one bar."""


def draw_figures(folder: Path, statistics: Mapping[str, TaskStatistics], report: Mapping) -> list[str]:
    """Draws into `folder`, which may have older figures in it, and returns the names of the files.

    Args:
        statistics: task -> what its rows hold.
        report: its `rows_by_source` and `overlaps` are drawn.
    """
    folder.mkdir(exist_ok=True)
    figures = {LENGTHS: _lengths(statistics), SOURCES: _sources(report["rows_by_source"])}
    if numbers := {task: found.values() for task, found in statistics.items() if found.values()}:
        figures[VALUES] = _values(numbers)
    if report["overlaps"]["before"]:
        figures[OVERLAPS] = _overlaps(report["overlaps"])
    for old in set(folder.glob("*.png")) - {folder / name for name in figures}:
        old.unlink()
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110, facecolor="white", metadata={"Software": None})
    return sorted(figures)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _words(name: str) -> str:
    return name.replace("_", " ")


def _label(source: str) -> str:
    """The source without the folders of its files."""
    return " + ".join(part.rpartition("/")[2] for part in source.split(" + "))


# --- histograms ------------------------------------------------------------------------------------------------------


def _panels(names: list[str], title: str) -> tuple[Figure, Iterator[Axes]]:
    columns = min(_COLUMNS, len(names))
    lines = math.ceil(len(names) / columns)
    figure = _figure(max(_PANEL[0] * columns, 6), _PANEL[1] * lines + 0.5)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_GREY)
        axes.tick_params(colors=_INK, labelsize=7.5)
        axes.set_yticks([])
    for axes, name in zip(grid, names, strict=False):
        axes.set_title(_words(name), loc="left", fontsize=9, color=_INK)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    return figure, iter(grid)


def _lengths(statistics: Mapping[str, TaskStatistics]) -> Figure:
    """Input and output of every task, in bins that widen by the same factor."""
    figure, panels = _panels(list(statistics), "Characters of input and output (share of rows; logarithmic bins)")
    longest = max(len(found.lengths(f"{side}_characters")) for found in statistics.values() for side in _SIDES)
    edges = np.geomspace(1, max(longest, 10), _BINS + 1)
    for axes, found in zip(panels, statistics.values(), strict=False):
        for side, color in zip(_SIDES, _COLORS, strict=False):
            counts = found.lengths(f"{side}_characters")
            shares, _ = np.histogram(np.arange(len(counts)), edges, weights=counts / max(counts.sum(), 1))
            axes.stairs(shares, edges, fill=True, alpha=0.45, color=color, label=side)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axes.xaxis.set_minor_locator(NullLocator())
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


_SIDES = ("input", "output")


def _values(numbers: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """The numbers that each number task asks for, a colour a subset or source."""
    figure, panels = _panels(list(numbers), "Values (rows; 0.5 % at each end are left out)")
    for axes, (task, kinds) in zip(panels, numbers.items(), strict=False):
        kinds = {kind: values for kind, values in kinds.items() if len(values)}
        together = np.concatenate([*kinds.values(), np.zeros(0)])
        if not len(together):
            continue
        low, high = np.quantile(together, [_TAIL, 1 - _TAIL])
        edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
        shown = sorted(kinds, key=lambda kind: -len(kinds[kind]))[: len(_COLORS)]
        for kind, color in zip(shown, _COLORS, strict=False):
            axes.stairs(
                np.histogram(kinds[kind], edges)[0], edges, fill=True, alpha=0.45, color=color, label=_label(kind)
            )
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(ALL_TASKS[task].unit or "", fontsize=7.5, color=_GREY)
        axes.legend(frameon=False, fontsize=6.5)
    return figure


# --- tables of numbers, coloured -------------------------------------------------------------------------------------


def _heat(axes: Axes, table: np.ndarray, lines: list[str], columns: list[str], highest: int) -> None:
    """A table of counts whose colour is logarithmic; cells without any stay white."""
    shown = np.ma.masked_equal(table, 0)
    norm = LogNorm(1, max(highest, _DARKEST))
    axes.imshow(shown, norm=norm, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(lines)), lines)
    axes.tick_params(length=0, labelsize=8, colors=_INK)
    axes.spines[:].set_color(_PALE)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(lines) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=_PALE, linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    for line, column in zip(*np.nonzero(table), strict=True):
        count = int(table[line, column])
        color = "white" if norm(count) > 0.55 else _INK
        axes.text(column, line, _short(count), ha="center", va="center", fontsize=7, color=color)


def _sources(rows_by_source: list[dict]) -> Figure:
    """Rows of every task and source, all splits together."""
    tasks = [task for task in ALL_TASKS if any(entry["task"] == task for entry in rows_by_source)]
    sources = list(dict.fromkeys(entry["source"] for entry in rows_by_source))
    table = np.zeros((len(tasks), len(sources)), np.int64)
    for entry in rows_by_source:
        table[tasks.index(entry["task"]), sources.index(entry["source"])] += entry["rows"]
    figure = _figure(max(6.0, 3.0 + 0.62 * len(sources)), 1.8 + 0.28 * len(tasks))
    figure.suptitle("Rows by task and source", x=0.01, ha="left", fontsize=11, color=_INK)
    _heat(
        figure.subplots(),
        table,
        [_words(task) for task in tasks],
        [_label(source) for source in sources],
        int(table.max(initial=0)),
    )
    return figure


def _overlaps(overlaps: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Figure:
    """Train rows (lines) that overlap with held-out rows (columns), before and after decontamination."""
    lines = list(overlaps["before"])
    columns = list(dict.fromkeys(task for found in overlaps["before"].values() for task in found))
    tables = [
        np.array([[overlaps[when].get(line, {}).get(column, 0) for column in columns] for line in lines])
        for when in ("before", "after")
    ]
    figure = _figure(4.0 + 0.8 * len(columns), 2.4 + 0.28 * len(lines))
    both = figure.subplots(1, 2, sharey=True)
    for axes, table, when in zip(both, tables, ("before", "after"), strict=True):
        _heat(axes, table, [_words(line) for line in lines], [_words(column) for column in columns], tables[0].max())
        axes.set_title(
            f"{when}: {int(table.sum()):,} (a row counts in each column)", loc="left", fontsize=10, color=_INK
        )
    both[0].set_ylabel("train rows of", fontsize=9, color=_GREY)
    figure.suptitle(
        "Train rows that overlap with test or validation rows (columns), before and after removal",
        x=0.01,
        ha="left",
        fontsize=11,
        color=_INK,
    )
    return figure


def _short(count: float) -> str:
    """At most four characters: 950, 1.2k, 86k, 1.8M."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if count >= unit:
            return (
                f"{count / unit:.1f}".removesuffix(".0") + name if count < 10 * unit else f"{count / unit:.0f}{name}"
            )
    return f"{count:.0f}"
