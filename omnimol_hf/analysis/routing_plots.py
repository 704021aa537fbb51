"""Router scores drawn on molecules, and as heat maps by functional group and by task (Figure 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from omnimol_hf.analysis.routing import RoutedMolecule
from omnimol_hf.analysis.style import INK, bare, new_figure, save_figure, spoken

# Blue below even, red above; without the darkest ends, on which atoms' letters could not be read.
_COLORS = ListedColormap(matplotlib.colormaps["RdBu_r"](np.linspace(0.12, 0.88, 256)))
_PIXELS = 420, 300  # of one drawn molecule
TOKENS = {"graph": "graph tokens", "text": "SELFIES tokens"}


def _around_even(values: np.ndarray, experts: int) -> Normalize:
    """Colours as far to either side of 1/N, the score of a router that prefers nobody."""
    even = 1 / experts
    reach = max(0.01, float(np.nanmax(np.abs(values - even))))
    return Normalize(even - reach, even + reach)


def _color_bar(figure: Figure, norm: Normalize, axes: Sequence[Axes], label: str) -> None:
    scale = ScalarMappable(norm, _COLORS)
    bar = figure.colorbar(scale, ax=list(axes), label=label, shrink=0.8, pad=0.01)
    bar.ax.set_ylim(max(0.0, norm.vmin), min(1.0, norm.vmax))


# --- one molecule ----------------------------------------------------------------------------------------------------


def _draw(axes: Axes, mol: Chem.Mol, scores: np.ndarray, norm: Normalize) -> None:
    canvas = rdMolDraw2D.MolDraw2DCairo(*_PIXELS)
    options = canvas.drawOptions()
    options.useBWAtomPalette()
    options.padding, options.fillHighlights, options.bondLineWidth = 0.08, True, 2
    colors = {atom: _COLORS(norm(score))[:3] for atom, score in enumerate(scores.tolist())}
    canvas.DrawMolecule(
        mol,
        highlightAtoms=list(colors),
        highlightAtomColors=colors,
        highlightBonds=[],
        highlightAtomRadii=dict.fromkeys(colors, 0.42),
    )
    canvas.FinishDrawing()
    axes.imshow(matplotlib.image.imread(BytesIO(canvas.GetDrawingText())), interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    bare(axes)


def draw_routing(
    molecule: RoutedMolecule, moe_layers: Sequence[int], path: str | Path, shown: Sequence[int] | None = None
) -> None:
    """Draws a molecule once for each expert and layer, every atom coloured by its score, as a PNG: graph tokens
    first, SELFIES tokens beside or below.

    Args:
        moe_layers: the numbers of the decoder layers that `molecule`'s scores belong to.
        shown: places in it to draw; None: the first, the middle and the last.
    """
    shown = sorted({0, (len(moe_layers) - 1) // 2, len(moe_layers) - 1} if shown is None else set(shown))
    experts = molecule.graph.shape[-1]
    norm = _around_even(np.concatenate([molecule.graph[shown], molecule.text[shown]]), experts)
    mol = Chem.Mol(molecule.mol)
    rdDepictor.Compute2DCoords(mol)
    width, height = 2.35 * experts + 1.0, 1.75 * len(shown) + 0.8
    rows, columns = (1, 2) if experts <= 3 else (2, 1)
    figure = new_figure(width * columns, height * rows)
    for half, (tokens, title) in zip(figure.subfigures(rows, columns), TOKENS.items(), strict=True):
        half.suptitle(title, fontsize=11, color=INK)
        grid = half.subplots(len(shown), experts, squeeze=False)
        for row, layer in zip(grid, shown, strict=True):
            for expert, axes in enumerate(row):
                _draw(axes, mol, getattr(molecule, tokens)[layer][:, expert], norm)
                if layer == shown[0]:
                    axes.set_title(f"expert {expert}", fontsize=9, color=INK)
            row[0].set_ylabel(f"layer {moe_layers[layer]}", fontsize=9, color=INK)
        _color_bar(half, norm, grid.ravel(), f"router score (even: {1 / experts:.2f})")
    save_figure(figure, path)


# --- heat maps -------------------------------------------------------------------------------------------------------


def _blocks(axes: Axes, values: np.ndarray, labels: Sequence[str], layers: Sequence[int], norm: Normalize) -> None:
    """A heat map of `(rows, layers, N)`, the experts of a layer side by side."""
    rows, _, experts = values.shape
    flat = values.reshape(rows, -1)
    axes.imshow(flat, cmap=_COLORS, norm=norm, aspect="auto")
    bare(axes)
    axes.set_yticks(range(rows), labels)
    axes.set_xticks(range(flat.shape[1]), [str(i % experts) for i in range(flat.shape[1])], fontsize=7.5)
    axes.set_xlabel("expert", color=INK, fontsize=9)
    for block, layer in enumerate(layers):
        axes.axvline(block * experts - 0.5, color="white", linewidth=3)
        axes.text((block + 0.5) * experts - 0.5, -0.62, f"layer {layer}", ha="center", va="bottom", fontsize=8.5)
    if flat.shape[1] <= 18:
        for (row, column), value in np.ndenumerate(flat):
            pale = abs(norm(value) - 0.5) < 0.3
            color = INK if pale else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)


def plot_expert_load(load: Mapping[str, np.ndarray], moe_layers: Sequence[int], path: str | Path) -> None:
    """A heat map of `expert_load`, tasks as rows, the experts of each MoE layer as columns, as a PNG."""
    values = np.stack(list(load.values()))
    experts = values.shape[-1]
    figure = new_figure(max(7.0, 0.42 * values.shape[1] * experts + 3.5), 0.34 * len(load) + 1.9)
    axes = figure.subplots()
    norm = _around_even(values, experts)
    _blocks(axes, values, [spoken(task) for task in load], moe_layers, norm)
    figure.suptitle("Expert load by task", fontsize=12, color=INK, x=0.01, ha="left")
    _color_bar(figure, norm, [axes], f"share of choices\n(even: {1 / experts:.2f})")
    save_figure(figure, path)


def plot_group_scores(
    groups: Mapping[str, Mapping[str, Mapping[str, Any]]],
    moe_layers: Sequence[int],
    path: str | Path,
    at_most: int = 16,
) -> None:
    """Heat maps of `group_scores`, functional groups as rows, the experts of each MoE layer as columns, as a PNG.

    Args:
        groups: what the tokens are (a key of `TOKENS`) -> `group_scores` of the same molecules.
        at_most: groups shown, the most frequent ones.
    """
    names = list(next(iter(groups.values())))[: at_most + 1]
    values = {tokens: np.stack([scores[name]["scores"] for name in names]) for tokens, scores in groups.items()}
    experts = next(iter(values.values())).shape[-1]
    norm = _around_even(np.concatenate(list(values.values())), experts)
    width, height = max(6.0, 0.4 * len(moe_layers) * experts + 0.6), 0.3 * len(names) + 1.2
    beside = len(moe_layers) * experts <= 18
    rows, columns = (1, len(groups)) if beside else (len(groups), 1)
    figure = new_figure(width * columns + 3.2, height * rows + 0.8)
    cells = figure.subplots(rows, columns, squeeze=False, sharey=beside).ravel()
    for axes, (tokens, one) in zip(cells, values.items(), strict=True):
        labels = [f"{name} ({groups[tokens][name]['count']})" for name in names]
        _blocks(axes, one, labels, moe_layers, norm)
        axes.set_title(TOKENS[tokens], fontsize=10, color=INK, pad=20)
    figure.suptitle("Mean router score by functional group (occurrences)", fontsize=12, color=INK, x=0.01, ha="left")
    _color_bar(figure, norm, cells, f"router score (even: {1 / experts:.2f})")
    save_figure(figure, path)
