"""Do models trained on more and more tasks come to represent the same rows alike? (Sections 3.6 and 4.7, App. C.5)

Two scores, named apart:

- `mutual_knn`, the paper's (Eq. 12-16): all decoder layers of all rows are one set of B*L points. The layers of one
  row are each other's neighbours in any model, so two unrelated random models score 0.5 to 0.7: that floor has to be
  measured (`random_model_features`), k/(N-1) is the floor of random points alone.
- `best_layer_pair`, that of Huh et al. (2024), from whom the paper takes the name: every layer of one model against
  every layer of the other, the best pair counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from torch import Tensor

from omnimol_hf.analysis.style import GREY, INK, SERIES, bare, new_figure, save_figure, spoken, tidy
from omnimol_hf.modeling_omnimol import OmniMolForCausalLM
from omnimol_hf.processing_omnimol import OmniMolProcessor

_SIMILARITIES = 1 << 24  # held at a time, 64 MiB in fp32


def mean_over_tokens(hidden_states: Sequence[Tensor], attention_mask: Tensor) -> Tensor:
    """Eq. 12: the mean of each layer's vectors over the positions that are not padding, on whichever side that is.

    Args:
        hidden_states: L tensors `(B, T, d)`.
        attention_mask: `(B, T)`, nonzero for tokens.

    Returns:
        `(B, L, d)` in fp32.

    Raises:
        ValueError: if a row is nothing but padding.
    """
    mask = (attention_mask != 0).float()
    lengths = mask.sum(1, keepdim=True)
    if not lengths.all():
        raise ValueError(f"row {int((lengths == 0).nonzero()[0, 0])} of the batch has no token: its mean is undefined")
    return torch.stack([torch.einsum("btd,bt->bd", layer.float(), mask) / lengths for layer in hidden_states], dim=1)


@torch.inference_mode()
def layer_features(
    model: OmniMolForCausalLM, processor: OmniMolProcessor, rows: Sequence[Mapping[str, Any]], batch_size: int = 16
) -> Tensor:
    """R' of Eq. 12 for the prompts of dataset rows, answers left out.

    The layers are the outputs of all decoder layers, the last one after the final norm, as transformers gives them.

    Returns:
        `(B, L, d)` in fp32 on the CPU: B rows, L decoder layers.
    """
    features = []
    for start in range(0, len(rows), batch_size):
        inputs = processor.apply_chat_template(
            [processor.row_messages(dict(row), with_answer=False) for row in rows[start : start + batch_size]],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(model.device)
        hidden_states = model(**inputs, output_hidden_states=True, use_cache=False, logits_to_keep=1).hidden_states
        features.append(mean_over_tokens(hidden_states[1:], inputs["attention_mask"]).cpu())  # the first: embeddings
    return torch.cat(features)


def random_model_features(
    like: OmniMolForCausalLM,
    processor: OmniMolProcessor,
    rows: Sequence[Mapping[str, Any]],
    batch_size: int,
    seed: int,
) -> Tensor:
    """The features of a model of the same sizes that has learnt nothing: two give the floor of `mutual_knn`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = OmniMolForCausalLM(like.config).to(like.device, like.dtype).eval()
    return layer_features(model, processor, rows, batch_size)


def nearest_neighbours(points: Tensor, k: int, block_size: int | None = None) -> Tensor:
    """Eq. 13: the k nearest neighbours of each point by cosine similarity, itself left out.

    Args:
        points: `(N, d)`.
        block_size: points compared with all others at a time; None: as many as keep the similarities within 64 MiB.

    Returns:
        `(N, k)` int64, in no particular order.

    Raises:
        ValueError: if k is not between 1 and N - 1.
    """
    n = len(points)
    if not 1 <= k < n:
        raise ValueError(f"k is {k}: each of {n} points has between 1 and {n - 1} neighbours; give more rows")
    unit = F.normalize(points.float(), dim=-1)
    block_size = block_size or max(1, _SIMILARITIES // n)
    neighbours = []
    for start in range(0, n, block_size):
        similarities = unit[start : start + block_size] @ unit.T
        itself = torch.arange(len(similarities), device=unit.device)
        similarities[itself, itself + start] = -torch.inf
        neighbours.append(similarities.topk(k, dim=1, sorted=False).indices)
    return torch.cat(neighbours)


def shared_neighbours(one: Tensor, other: Tensor) -> float:
    """Eq. 14-16: the mean share of a point's neighbours `(N, k)` that it has in both models."""
    shared = torch.stack([(other == column.unsqueeze(1)).any(1) for column in one.T])
    return shared.double().mean().item()


def _checked(one: Tensor, other: Tensor) -> None:
    if one.ndim != 3 or other.ndim != 3 or len(one) != len(other):
        raise ValueError(
            f"features are (rows, layers, width), of the same rows; got {tuple(one.shape)} and {tuple(other.shape)}"
        )


def mutual_knn(one: Tensor, other: Tensor, k: int = 10, block_size: int | None = None) -> float:
    """The paper's alignment of two models (Eq. 13-16): 1 for the same neighbours everywhere.

    Args:
        one, other: features of the same rows `(B, L, d)`; L has to agree, d need not.
        k: neighbours; the paper does not say how many, Huh et al. take 10.
        block_size: see `nearest_neighbours`; the result does not depend on it.

    Raises:
        ValueError: for features of different rows or numbers of layers, or too few points for k.
    """
    _checked(one, other)
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            f"Eq. 13 takes layer by layer as one set of points, but the models have {one.shape[1]} and "
            f"{other.shape[1]} layers; best_layer_pair compares any two models"
        )
    return shared_neighbours(*(nearest_neighbours(each.flatten(0, 1), k, block_size) for each in (one, other)))


def best_layer_pair(
    one: Tensor, other: Tensor, k: int = 10, clip_quantile: float = 0.95
) -> tuple[float, tuple[int, int]]:
    """Huh et al.'s alignment of two models: the largest share of common neighbours among all pairs of layers.

    As they do it, values beyond the quantile of absolute values (of each row, averaged over rows) are clipped first.
    A largest one of L*L noisy numbers lies above k/(B-1) by chance too.

    Args:
        one, other: features of the same rows `(B, L, d)`; L and d need not agree.
        clip_quantile: 1 clips nothing.

    Returns:
        The score, and which layers (0-based) reach it.
    """
    _checked(one, other)
    neighbours = []
    for features in (one.float(), other.float()):
        bound = np.quantile(features.abs().flatten(1).cpu().numpy(), clip_quantile, axis=1).mean().item()
        clipped = features.clamp(-bound, bound) if clip_quantile < 1 else features
        neighbours.append([nearest_neighbours(layer, k) for layer in clipped.unbind(1)])
    scores = {
        (i, j): shared_neighbours(a, b) for i, a in enumerate(neighbours[0]) for j, b in enumerate(neighbours[1])
    }
    best = max(scores, key=scores.__getitem__)
    return scores[best], best


def chance_level(points: int, k: int) -> float:
    """The expected share of common neighbours of two sets of random points: k / (N - 1)."""
    return k / (points - 1)


def similarity_matrices(features: Sequence[Tensor], k: int = 10) -> dict[str, list[list[float]]]:
    """`mutual_knn` and `best_layer_pair` of every two of several models, the first as rows, the second as columns."""
    if len({one.shape[1] for one in features}) > 1:
        raise ValueError(f"the models of a series have different numbers of layers: {[f.shape[1] for f in features]}")
    flat = [nearest_neighbours(one.flatten(0, 1), k) for one in features]
    return {
        "mutual_knn": [[shared_neighbours(a, b) for b in flat] for a in flat],
        "best_layer_pair": [[best_layer_pair(a, b, k)[0] for b in features] for a in features],
    }


def plot_convergence(result: Mapping[str, Any], path: str | Path) -> None:
    """Figure 7: a heat map of the similarities of each series of models, and below, how much each model has in common
    with the next one (the paper's black dashed line) beside the floors, as a PNG.

    Args:
        result: what `recipes/convergence.py` writes: `task`, `rows`, `k` and `series`: name -> `labels`, `mutual_knn`,
            and the floors `random_models` and `random_features`.
    """
    series = result["series"]
    figure = new_figure(max(7.5, 4.4 * len(series)), 8.0)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.5, 1))
    cells = top.subplots(1, len(series), squeeze=False)[0]
    values = np.concatenate([_off_diagonal(one["mutual_knn"]) for one in series.values()])
    margin = max(0.02, 0.15 * np.ptp(values))
    low, high = values.min() - margin, min(1.0, values.max() + margin)
    for axes, (name, one) in zip(cells, series.items(), strict=True):
        image = _heat_map(axes, np.array(one["mutual_knn"]), one["labels"], low, high)
        axes.set_title(name, fontsize=11, color=INK)
    top.colorbar(image, ax=list(cells), shrink=0.75, extend="neither" if high == 1 else "max", label="mutual_knn")
    title = f"Representations of {result['rows']} rows of {spoken(result['task'])} (k = {result['k']})"
    top.suptitle(title, fontsize=12, color=INK, x=0.01, ha="left")
    _steps(bottom.subplots(), series)
    save_figure(figure, path)


def _steps(axes: Axes, series: Mapping[str, Mapping[str, Any]]) -> None:
    """The similarity of each model to the next one, and what models and points that share nothing would have."""
    for color, (name, one) in zip(SERIES, series.items(), strict=False):
        steps = np.diagonal(np.array(one["mutual_knn"]), offset=1)
        axes.plot(steps, color=color, marker="o", linewidth=2, label=name)
        floor = one["random_models"]
        axes.axhline(floor, color=color, linestyle=":", linewidth=1.5, label=f"{name}, random models: {floor:.3f}")
    chance = max(one["random_features"] for one in series.values())
    axes.axhline(chance, color=GREY, linestyle="--", linewidth=1.2, label=f"random features: {chance:.3f}")
    labels = max((one["labels"] for one in series.values()), key=len)
    axes.set_xticks(range(len(labels) - 1), [f"{a} → {b}" for a, b in pairwise(labels)])
    axes.set_xlim(-0.4, len(labels) - 1.6)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("mutual_knn with the next", color=INK)
    axes.set_xlabel("trained on", color=INK)
    tidy(axes)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _off_diagonal(matrix: Sequence[Sequence[float]]) -> np.ndarray:
    values = np.array(matrix)
    return values[~np.eye(len(values), dtype=bool)]


def _heat_map(axes: Axes, matrix: np.ndarray, labels: Sequence[str], low: float, high: float) -> AxesImage:
    image = axes.imshow(matrix, cmap="viridis", vmin=low, vmax=high)
    bare(axes)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    for (row, column), value in np.ndenumerate(matrix):
        dark = (value - low) / (high - low) < 0.6
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if dark else INK, fontsize=10)
    return image
