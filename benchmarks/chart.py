"""The picture of all ratios."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnimol_hf.analysis.style import BLUE, GREY, INK, ORANGE, new_figure, save_figure, spoken, tidy


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """How many times better the product is, a bar each, its spread over the rounds, and a mark where the goal is."""
    figure = new_figure(8.5, 0.8 + 0.42 * len(results))
    axes = figure.subplots()
    tidy(axes, "x")
    axes.set_xscale("log")
    for place, result in enumerate(reversed(results)):
        low, middle, high = (result[f"ratio_{name}"] for name in ("min", "median", "max"))
        goal = result["goal"]
        if result["less_is_better"]:
            low, middle, high, goal = 1 / high, 1 / middle, 1 / low, goal and 1 / goal
        reached = goal is None or middle >= goal
        axes.barh(place, middle, height=0.6, color=BLUE if reached else ORANGE)
        axes.errorbar(middle, place, xerr=[[middle - low], [high - middle]], color=INK, capsize=3, linewidth=1)
        if goal is not None:
            axes.plot([goal, goal], [place - 0.38, place + 0.38], color=INK, linewidth=2)
        label = f"{middle:.0f}×" if middle >= 100 else f"{middle:.2g}×"
        axes.annotate(
            label, (max(high, goal or 0), place), (5, 0), textcoords="offset points", va="center", fontsize=9
        )
    names = [f"{spoken(result['name'])}, {result['size']}" for result in reversed(results)]
    axes.set_yticks(range(len(results)), names)
    axes.axvline(1, color=GREY, linewidth=1)
    axes.margins(x=0.15)
    axes.set_xlabel("times better than the baseline (black mark: the goal; orange: not reached)", fontsize=9)
    save_figure(figure, path)
