"""How all pictures look: colours, bare axes, and saving without a display."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE = "#2a6fbb", "#d9822b", "#2e8b57", "#c0392b", "#7d4e9e"
INK, GREY, PALE = "#222222", "#777777", "#e3e6ea"
SERIES = (BLUE, ORANGE, GREEN, RED, PURPLE, "#4b9aa8", "#a8763e", "#6b7280")  # one a model or variant
DPI = 130  # dots an inch


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, grid: str = "y") -> None:
    """Two spines and a pale grid behind the data, along `"x"`, `"y"` or `"both"`."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(axis=grid, color=PALE, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_axisbelow(True)


def bare(axes: Axes) -> None:
    """No spines and no tick marks: for heat maps, whose labels stay."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=9)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a PNG, and the folders that it needs."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, facecolor="white")


def spoken(name: str) -> str:
    """A task's or setting's name as it stands in a picture."""
    return name.replace("_", " ")
