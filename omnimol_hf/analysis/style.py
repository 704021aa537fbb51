"""How all plots look."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE = "#2a6fbb", "#d9822b", "#2e8b57", "#c0392b", "#7d4e9e"
INK, GREY, PALE = "#222222", "#777777", "#e3e6ea"
DPI = 130


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure on white, in a folder that need not exist yet."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, facecolor="white")


def tidy(axes: Axes) -> None:
    """No frame but the two axes, and pale lines to read values at."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_axisbelow(True)
