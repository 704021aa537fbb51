"""A run's answers, drawn beside what they should have been."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from rdkit import Chem
from rdkit.Chem import rdChemReactions
from rdkit.Chem.Draw import rdMolDraw2D

from omnimol_hf.analysis.report import short_unit
from omnimol_hf.analysis.style import DPI, GREEN, GREY, INK, ORANGE, PALE, RED, save_figure
from omnimol_hf.chemistry_omnimol import mol_from_selfies, mol_from_smiles, selfies_to_smiles
from omnimol_hf.metrics import read_number
from omnimol_hf.metrics.molecules import compare
from omnimol_hf.metrics.text import without_control_tokens
from omnimol_hf.tasks import ALL_TASKS, Task

_WIDTH, _ROW_HEIGHT = 13.0, 2.75  # inches
_FINER = 1.6  # pixels of a drawn molecule for each pixel of the page


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
    figure = Figure(figsize=(width, _ROW_HEIGHT * len(rows)), dpi=DPI)
    FigureCanvasAgg(figure)
    cases = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for i, (case, row) in enumerate(zip(cases, rows, strict=True)):
        answers = {name: several[i] for name, several in models.items()}
        _draw_case(case, row, answers, titles[i] if titles else "")
    save_figure(figure, path)
