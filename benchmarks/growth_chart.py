"""The picture of how cost grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator

from omnimol_hf.analysis.style import BLUE, GREY, INK, new_figure, save_figure, tidy


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Small multiples on log-log scales, the exponents of the second half beside each line."""
    columns = 3
    rows = -(-len(results) // columns)
    figure = new_figure(12.5, 3.3 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, result in zip(grid, results, strict=False):
        tidy(axes, "both")
        axes.set_xscale("log", base=2 if result["points"][-1] < 200_000 else 10)
        axes.set_yscale("log")
        scale, unit = (1e3, "ms") if result["unit"] == "seconds" else (1e-6, "MB at the peak")
        for name, values in result["lines"].items():
            color = BLUE if name == "product" else GREY
            slope = result["exponents"][name]["second_half"]
            label = f"{name}, exponent {slope:.2f}"
            axes.plot(result["points"], [scale * one for one in values], "o-", color=color, label=label, markersize=4)
        axes.set_xticks(result["points"], [_short(one) for one in result["points"]])
        axes.minorticks_off()
        decades = math.log10(max(map(max, result["lines"].values())) / min(map(min, result["lines"].values())))
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if decades < 1.6 else (1.0,), numticks=20))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_title(
            f"{result['name']}, {unit}\nshould be {result['expected']}", fontsize=9.5, loc="left", color=INK
        )
        axes.set_xlabel(result["axis"], fontsize=9)
        low, high = axes.get_ylim()
        axes.set_ylim(low / 1.2, high * (high / low) ** 0.4)  # room for the legend
        axes.legend(fontsize=8.5, frameon=False, loc="upper left")
    for axes in grid[len(results) :]:
        axes.set_visible(False)
    save_figure(figure, path)


def _short(number: int) -> str:
    for size, letter in ((1_000_000, "M"), (1024, "k")) if number % 1000 else ((1_000_000, "M"), (1000, "k")):
        if number >= size:
            return f"{number // size}{letter}"
    return str(number)
