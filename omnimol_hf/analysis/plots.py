"""Plots of a run: its loss curve, and answers drawn beside what they should have been."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from rdkit import Chem
from rdkit.Chem import rdChemReactions
from rdkit.Chem.Draw import rdMolDraw2D

from omnimol_hf.analysis.report import short_unit
from omnimol_hf.chemistry_omnimol import mol_from_selfies, mol_from_smiles, selfies_to_smiles
from omnimol_hf.metrics import read_number
from omnimol_hf.metrics.molecules import compare
from omnimol_hf.metrics.text import without_control_tokens
from omnimol_hf.tasks import ALL_TASKS, Task

BLUE, ORANGE, GREEN, RED, INK, GREY, PALE = "#2a6fbb", "#d9822b", "#2e8b57", "#c0392b", "#222222", "#777777", "#e3e6ea"
_WIDTH, _ROW_HEIGHT, _DPI = 13.0, 2.75, 130  # inches, inches, dots an inch
_FINER = 1.6  # pixels of a drawn molecule for each pixel of the page


def _save(figure: Figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI, facecolor="white")


# --- loss ------------------------------------------------------------------------------------------------------------


def _curve(log_history: Sequence[Mapping[str, float]], key: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
    return (np.array(points, dtype=float).reshape(-1, 2)).T


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a twentieth of the run, narrower towards both ends so that it stays centred."""
    last = len(values) - 1
    halves = [min(len(values) // 40, i, last - i) for i in range(len(values))]
    return np.array([values[i - half : i + half + 1].mean() for i, half in enumerate(halves)])


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_axisbelow(True)


def plot_loss(log_history: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Draws the training loss, held-out loss where there is one, and the learning rate over the steps, as a PNG.

    Args:
        log_history: `trainer.state.log_history`: entries with `step` and `loss`, `eval_loss` or `learning_rate`.

    Raises:
        ValueError: If no entry has a `loss`.
    """
    steps, losses = _curve(log_history, "loss")
    if not len(steps):
        raise ValueError("there is no loss to plot: no entry of log_history has the key 'loss'.")
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))

    top.plot(steps, losses, color=BLUE, alpha=0.3, linewidth=1)
    top.plot(steps, _running_mean(losses), color=BLUE, linewidth=2, label="training (running mean)")
    held_out_steps, held_out = _curve(log_history, "eval_loss")
    if len(held_out):
        top.plot(held_out_steps, held_out, color=ORANGE, linewidth=2, marker="o", markersize=4, label="held out")
    top.set_ylabel("loss (nats per token)", color=INK)
    top.legend(frameon=False, fontsize=9)
    top.set_title(f"Loss over {int(steps[-1])} steps", loc="left", fontsize=12, color=INK)

    bottom.plot(*_curve(log_history, "learning_rate"), color=GREY, linewidth=1.5)
    bottom.set_ylabel("learning rate", color=INK)
    bottom.set_xlabel("step", color=INK)
    bottom.set_ylim(bottom=0)
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes in (top, bottom):
        _tidy(axes)
    _save(figure, path)


# --- data selection --------------------------------------------------------------------------------------------------


def plot_selection(rounds: Sequence[Mapping], path: str | Path) -> None:
    """Draws each task's share pi of the rows that a round draws, and the rating mu that it earned, as a PNG.

    Args:
        rounds: `RowSelection.history`, the lines of `selection.jsonl`. A random selection has no ratings.

    Raises:
        ValueError: If there is no round.
    """
    if not rounds:
        raise ValueError("there is no selection to plot: no round was drawn.")
    tasks = list(rounds[0]["pi"])
    colors = matplotlib.colormaps["tab20"](np.linspace(0, 1, 20))
    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True)
    numbers = [entry["round"] for entry in rounds]
    for i, task in enumerate(tasks):
        style = {"color": colors[(2 * i + i // 10) % 20], "marker": "o", "markersize": 4, "linewidth": 1.8}
        top.plot(numbers, [entry["pi"][task] for entry in rounds], label=task.replace("_", " "), **style)
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
        _tidy(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    _save(figure, path)


# --- answers ---------------------------------------------------------------------------------------------------------


def _show(axes: Axes, draw: Chem.Mol | rdChemReactions.ChemicalReaction) -> None:
    """Draws the components of a mixture side by side, or a reaction; small molecules keep a normal bond length."""
    cell = axes.get_window_extent()
    width, height = int(_FINER * cell.width), int(_FINER * cell.height)
    components = [] if isinstance(draw, rdChemReactions.ChemicalReaction) else Chem.GetMolFrags(draw, asMols=True)
    columns = math.ceil(math.sqrt(len(components) * width / height / 1.5)) or 1  # panels somewhat wider than high
    panel = width // min(columns, len(components) or 1), height // (math.ceil(len(components) / columns) or 1)
    canvas = rdMolDraw2D.MolDraw2DCairo(width, height, *panel)
    options = canvas.drawOptions()
    options.fixedBondLength, options.bondLineWidth, options.padding = 46, 2.2, 0.04
    if components:
        canvas.DrawMolecules(components)
    else:
        canvas.DrawReaction(draw)
    canvas.FinishDrawing()
    picture = matplotlib.image.imread(BytesIO(canvas.GetDrawingText()))
    axes.imshow(picture, extent=(0, 1, 0, 1), aspect="auto", interpolation="antialiased")


def _show_text(axes: Axes, text: str, color: str = INK, size: float = 9.5, width: int = 50, lines: int = 11) -> None:
    wrapped = textwrap.wrap(" ".join(text.split()), width)
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], wrapped[lines - 1][: width - 2] + " …"]
    axes.text(
        0.5,
        0.5,
        "\n".join(wrapped),
        ha="center",
        va="center",
        fontsize=size,
        color=color,
        linespacing=1.35,
        parse_math=False,
    )


def _show_input(axes: Axes, task: Task, row: Mapping) -> None:
    """The molecules of a row's input: a reaction with its arrow, all named components, or one structure."""
    if task.graph_rule == "placeholders":
        _show(axes, mol_from_smiles(".".join(row["graph_smiles"])))
    elif ">>" in row["input"]:
        sides = (selfies_to_smiles(side) for side in row["input"].split(">>"))
        _show(axes, rdChemReactions.ReactionFromSmarts(">>".join(sides), useSmiles=True))
    else:
        _show(axes, mol_from_selfies(row["input"]))


def _show_answer(axes: Axes, task: Task, answer: str) -> bool:
    """Draws an answer, and says whether it could be read."""
    answer = without_control_tokens(answer)
    try:
        if task.answer == "molecule":
            _show(axes, mol_from_selfies(answer))
        elif task.answer == "number":
            value = f"{read_number(answer):.6g} {short_unit(task)}"
            axes.text(0.5, 0.5, value, ha="center", va="center", fontsize=19, color=INK)
        elif answer:
            _show_text(axes, answer)
        else:
            raise ValueError("empty")
    except ValueError:
        _show_text(axes, answer or "(empty)", color=RED, lines=6)
        return False
    return True


def _verdict(task: Task, answer: str, reference: str) -> tuple[str, str]:
    """How close a readable answer came, in words, and the colour to say it in."""
    if task.answer == "molecule":
        same, similarity = compare(answer, reference)
        return ("correct", GREEN) if same else (f"Tanimoto {similarity:.2f}", ORANGE)
    if task.answer == "number":
        error = abs(read_number(answer) - read_number(reference))
        return ("correct", GREEN) if error == 0 else (f"off by {error:.3g} {short_unit(task)}", ORANGE)
    return ("word for word", GREEN) if without_control_tokens(answer) == reference.strip() else ("", INK)


def _draw_case(figure: SubFigure, row: Mapping, answers: Mapping[str, str], title: str) -> None:
    task = ALL_TASKS[row["task"]]
    name = task.name.replace("_", " ") + (f" ({row['subset']})" if row.get("subset") else "")
    figure.text(0.01, 0.95, title or name, fontsize=11.5, fontweight="bold", color=INK, va="center")
    question = textwrap.shorten(row["instruction"], 120, placeholder=" …")
    figure.text(0.99, 0.95, question, fontsize=9, color=GREY, va="center", ha="right", style="italic")
    edges = {"left": 0.01, "right": 0.99, "bottom": 0.05, "top": 0.82, "wspace": 0.03}
    labels = ("input", "reference", *answers)
    cells = figure.subplots(1, len(labels), width_ratios=(1.3, *[1] * (len(labels) - 1)), gridspec_kw=edges)
    for axes, label in zip(cells, labels, strict=True):
        axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
        for spine in axes.spines.values():
            spine.set_color(PALE)
        axes.set_title(label, loc="left", fontsize=8.5, color=GREY, pad=3)
    try:
        _show_input(cells[0], task, row)
    except ValueError:  # a row of the user's own, with something else than SELFIES in it
        _show_text(cells[0], row["input"])
    _show_answer(cells[1], task, row["output"])
    for axes, answer in zip(cells[2:], answers.values(), strict=True):
        readable = _show_answer(axes, task, answer)
        text, color = _verdict(task, answer, row["output"]) if readable else ("unreadable", RED)
        axes.set_title(text, loc="right", fontsize=9, color=color, pad=3, fontweight="bold")


def draw_predictions(
    rows: Sequence[Mapping],
    predictions: Sequence[str] | Mapping[str, Sequence[str]],
    path: str | Path,
    titles: Sequence[str] | None = None,
) -> None:
    """Draws each row's input, reference and prediction side by side, as a PNG.

    Molecules are drawn as structures, numbers with their unit, text as text; an answer that cannot be read is printed
    in red as it came, and marked as unreadable.

    Args:
        rows: Rows of the dataset, of any tasks; a dozen fill a page.
        predictions: The model's answers, one for each row; or those of several models by name, side by side.
        titles: What stands over each row; None: its task.

    Raises:
        ValueError: If rows and predictions differ in length or are empty.
    """
    models = predictions if isinstance(predictions, Mapping) else {"prediction": predictions}
    counts = [len(answers) for answers in models.values()]
    if not rows or set(counts) != {len(rows)}:
        given = " and ".join(map(str, counts)) or "no"
        raise ValueError(f"one prediction for each row, got {len(rows)} rows and {given} predictions.")
    width = _WIDTH * (1.3 + 1 + len(models)) / 3.3
    figure = Figure(figsize=(width, _ROW_HEIGHT * len(rows)), dpi=_DPI)
    FigureCanvasAgg(figure)
    cases = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for i, (case, row) in enumerate(zip(cases, rows, strict=True)):
        answers = {name: several[i] for name, several in models.items()}
        _draw_case(case, row, answers, titles[i] if titles else "")
    _save(figure, path)
