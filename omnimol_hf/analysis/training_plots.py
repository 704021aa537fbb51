"""Plots of a run: how training went, and what a data selection drew."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from omnimol_hf.analysis.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    new_figure,
    save_figure,
    spoken,
    tidy,
)

Lines = Sequence[Mapping[str, Any]]
MOST_TASKS = 15  # more curves in one plot nobody can tell apart
_GAMMAS = {"attention": BLUE, "ffn": GREEN, "experts": ORANGE}


def _curve(lines: Lines, key: str) -> np.ndarray:
    """`(2, points)`: the steps at which a number was logged, and the number; null is not a number."""
    points = [(line["step"], np.nan if line[key] is None else line[key]) for line in lines if key in line]
    return np.array(points, dtype=float).reshape(-1, 2).T


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a twentieth of the run, narrower towards both ends so that it stays centred."""
    last = len(values) - 1
    halves = [min(len(values) // 40, i, last - i) for i in range(len(values))]
    return np.array([values[i - half : i + half + 1].mean() for i, half in enumerate(halves)])


def _task_styles(tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Ten colours, and after them the same ones dashed."""
    dashes = ["-", (0, (4, 1.5))]
    return {task: {"color": f"C{i % 10}", "linestyle": dashes[i // 10 % 2]} for i, task in enumerate(tasks)}


def _from_zero(axes: Axes, *values: np.ndarray) -> None:
    axes.set_ylim(0, 1.08 * max(float(np.nanmax(each)) for each in values) or 1)


def _legend_beside(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), labelspacing=0.3)


def _draw(axes: Axes, curve: np.ndarray, color: Any, label: str | None = None) -> None:
    """A number over the steps: pale as it was logged, strong as its running mean."""
    few = {"marker": "o", "markersize": 4} if curve.shape[1] < 3 else {}
    axes.plot(*curve, color=color, alpha=0.25, linewidth=1)
    axes.plot(curve[0], _running_mean(curve[1]), color=color, linewidth=1.8, label=label, **few)


def _loss(axes: Axes, lines: Lines) -> None:
    _draw(axes, _curve(lines, "loss"), BLUE, "training (running mean)")
    held_out = _curve(lines, "eval_loss")
    if held_out.size:
        axes.plot(*held_out, color=ORANGE, linewidth=2, marker="o", markersize=4, label="held out")
    axes.legend(frameon=False, fontsize=9)
    axes.set_ylabel("nats, with balance loss" if _tell(lines, "balance_loss") else "nats")


def _loss_by_task(axes: Axes, lines: Lines) -> None:
    names = sorted({key for line in lines for key in line if key.startswith("loss/")})
    curves = {key.removeprefix("loss/"): _curve(lines, key) for key in names}
    most = sorted(curves, key=lambda task: -curves[task].shape[1])[:MOST_TASKS]
    styles = _task_styles(sorted(most))
    # The names from top to bottom as the curves end.
    for task in sorted(most, key=lambda task: -_late(curves[task][1]).mean()):
        steps, losses = curves[task]
        few = {"marker": "o", "markersize": 4} if len(steps) < 3 else {}
        label = spoken(task)
        axes.plot(steps, _running_mean(losses), linewidth=1.5, label=label, **styles[task], **few)
    _legend_beside(axes)
    axes.set_ylabel("nats per token")
    _from_zero(axes, *(_running_mean(curves[task][1]) for task in most))


def _late(entries: Any) -> Any:
    """The last fifth of something, at least one."""
    return entries[-max(1, len(entries) // 5) :]


def _gradient_norm(axes: Axes, lines: Lines) -> None:
    curve = _curve(lines, "grad_norm")
    _draw(axes, curve, RED)
    positive = curve[1][curve[1] > 0]
    if positive.size and positive.max() > 20 * positive.min():
        axes.set_yscale("log")
    else:
        _from_zero(axes, curve[1])
    axes.set_ylabel("norm before clipping")


def _gamma(axes: Axes, lines: Lines) -> None:
    for part, color in _GAMMAS.items():
        if _tell(lines, f"gamma/{part}_mean"):
            steps, mean = _curve(lines, f"gamma/{part}_mean")
            low, high = (_curve(lines, f"gamma/{part}_{end}")[1] for end in ("min", "max"))
            axes.plot(steps, mean, color=color, linewidth=1.8, label=part)
            axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    _legend_beside(axes)
    axes.set_ylabel("γ")


def _balance_loss(axes: Axes, lines: Lines) -> None:
    _draw(axes, _curve(lines, "balance_loss"), PURPLE)
    axes.axhline(1, color=GREY, linewidth=1, linestyle=":")
    axes.set_ylabel("balance loss (1: even)")


def _expert_load(axes: Axes, lines: Lines) -> None:
    """Task by expert, over the last fifth of the lines; layers side by side."""
    tables = [line["expert_load"] for line in lines if "expert_load" in line]
    last = _late(tables)
    found = {task: [table[task] for table in last if task in table] for table in last for task in table}
    tasks = sorted(found, key=lambda task: -len(found[task]))[:MOST_TASKS]
    load = np.array([np.mean(found[task], axis=0) for task in sorted(tasks)])
    _, layers, experts = load.shape
    flat = np.full((len(tasks), layers * (experts + 1) - 1), np.nan)  # with a gap between layers
    for layer in range(layers):
        flat[:, layer * (experts + 1) : layer * (experts + 1) + experts] = load[:, layer]
    reach = max(1 / experts, float(load.max()) - 1 / experts)
    image = axes.imshow(
        flat, aspect="auto", cmap="RdBu_r", vmin=1 / experts - reach, vmax=1 / experts + reach, interpolation="nearest"
    )
    axes.set_yticks(range(len(tasks)), [spoken(task) for task in sorted(tasks)], fontsize=8)
    middles = np.arange(layers) * (experts + 1) + (experts - 1) / 2
    axes.set_xticks(middles, [str(layer) for layer in range(layers)], fontsize=8)
    axes.set_xlabel(f"MoE layer, {experts} routed experts each", fontsize=9)
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((1.02, 0, 0.015, 1)))
    bar.set_ticks([0, 1 / experts, load.max()], labels=["0", f"1/{experts}", f"{load.max():.2f}"])
    bar.outline.set_visible(False)
    bar.ax.set_ylim(0, load.max())
    axes.grid(visible=False)


def _speed(axes: Axes, lines: Lines) -> None:
    curve = _curve(lines, "speed/tokens_per_second")
    _draw(axes, curve, GREEN)
    _from_zero(axes, curve[1])
    axes.set_ylabel("tokens a second", color=GREEN)
    other = axes.twinx()
    steps, share = _curve(lines, "speed/padding_share")
    other.plot(steps, _running_mean(100 * share), color=GREY, linewidth=1.2, linestyle="--")
    other.set_ylim(0, max(10.0, float(np.nanmax(100 * share)) * 2.5))  # below the speed
    other.set_ylabel("padding, % (dashed)", color=GREY, fontsize=9)
    other.spines[["top", "left", "right", "bottom"]].set_visible(False)
    other.tick_params(colors=GREY, labelsize=9)


def _learning_rate(axes: Axes, lines: Lines) -> None:
    curve = _curve(lines, "learning_rate")
    axes.plot(*curve, color=GREY, linewidth=1.8)
    _from_zero(axes, curve[1])
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))


# What is drawn, in the order of the page, as far as a run logged its key.
_PANELS: tuple[tuple[str, str, Callable[[Axes, Lines], None]], ...] = (
    ("Loss", "loss", _loss),
    ("Loss by task (running means)", "loss/", _loss_by_task),
    ("Gradient norm", "grad_norm", _gradient_norm),
    ("Adaptive coefficients (mean, smallest to largest)", "gamma/", _gamma),
    ("Balance loss", "balance_loss", _balance_loss),
    ("Expert load by task, last fifth of training", "expert_load", _expert_load),
    ("Speed", "speed/tokens_per_second", _speed),
    ("Learning rate", "learning_rate", _learning_rate),
)


def _tell(lines: Lines, key: str) -> bool:
    """Whether a line has the key, or one that begins with it when it ends in a slash."""
    return any(name == key or (key.endswith("/") and name.startswith(key)) for line in lines for name in line)


def plot_training(lines: Lines, path: str | Path) -> None:
    """Draws on one page how training went, as a PNG: losses, gradients, gammas, experts, speed and learning rate.

    Args:
        lines: the lines of `telemetry.jsonl`, or `trainer.state.log_history`, which has no expert load by task. What
            a run did not log is left out.
        path: the PNG.

    Raises:
        ValueError: If no line has a `loss`.
    """
    if not _tell(lines, "loss"):
        raise ValueError("there is no training to plot: no line has the key 'loss'.")
    panels = [(title, draw) for title, key, draw in _PANELS if _tell(lines, key)]
    rows = -(-len(panels) // 2)
    figure = new_figure(14, 3.1 * rows + 0.4)
    cells = figure.subplots(rows, 2, squeeze=False).flatten()
    last = max(line["step"] for line in lines)
    for axes, (title, draw) in zip(cells, panels, strict=False):
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        tidy(axes)
        draw(axes, lines)
        if draw is not _expert_load:
            axes.set_xlabel("step", fontsize=9, color=INK)
            axes.set_xlim(0, last * 1.01)
    for axes in cells[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(f"Training over {last:,} steps", x=0.01, ha="left", fontsize=13, color=INK)
    save_figure(figure, path)


def plot_selection(rounds: Lines, path: str | Path) -> None:
    """Draws each task's share pi of the rows that a round draws, and the rating mu that it earned, as a PNG.

    Args:
        rounds: `RowSelection.history`, the lines of `selection.jsonl`. A random selection has no ratings.

    Raises:
        ValueError: If there is no round.
    """
    if not rounds:
        raise ValueError("there is no selection to plot: no round was drawn.")
    tasks = list(rounds[0]["pi"])
    styles = _task_styles(tasks)
    figure = new_figure(10, 6)
    top, bottom = figure.subplots(2, 1, sharex=True)
    numbers = [entry["round"] for entry in rounds]
    for task in tasks:
        style = {**styles[task], "marker": "o", "markersize": 4, "linewidth": 1.8}
        top.plot(numbers, [entry["pi"][task] for entry in rounds], label=spoken(task), **style)
        ratings = [entry.get("mu", {}).get(task) for entry in rounds]
        bottom.plot(numbers, [np.nan if rating is None else rating for rating in ratings], **style)
    top.set_title(f"Data selection over {len(rounds)} rounds", loc="left", fontsize=12, color=INK)
    top.set_ylabel("share of the rows drawn, π", color=INK)
    top.set_ylim(bottom=0)
    bottom.set_ylabel("rating, μ (1: nothing right)", color=INK)
    bottom.set_ylim(-0.02, 1.02)
    bottom.set_xlabel("round", color=INK)
    bottom.set_xticks(numbers)
    for axes in (top, bottom):
        tidy(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    save_figure(figure, path)
