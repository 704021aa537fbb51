"""Similarity of representations (Eq. 12-16), against a direct evaluation of the equations."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from omnimol_hf.analysis import convergence
from omnimol_hf.analysis.convergence import (
    best_layer_pair,
    chance_level,
    layer_features,
    mean_over_tokens,
    mutual_knn,
    nearest_neighbours,
    plot_convergence,
    random_model_features,
    similarity_matrices,
)
from omnimol_hf.analysis.efficiency import extra_memory
from omnimol_hf.chemistry_omnimol import smiles_to_selfies
from tests import tiny
from tests.conftest import ROOT


def features(seed: int, rows: int = 9, layers: int = 3, width: int = 5) -> torch.Tensor:
    return torch.randn(rows, layers, width, generator=torch.Generator().manual_seed(seed))


def naive_mutual_knn(one, other, k: int) -> float:
    """Eq. 13-16 as they stand: N x N indicator matrices, filled point by point."""
    indicators = []
    for points in (one.reshape(-1, one.shape[-1]), other.reshape(-1, other.shape[-1])):
        points = points.double().numpy()
        n = len(points)
        matrix = np.zeros((n, n))
        for i in range(n):
            cosine = [
                -np.inf if i == j else points[i] @ points[j] / np.linalg.norm(points[i]) / np.linalg.norm(points[j])
                for j in range(n)
            ]
            matrix[i, np.argsort(cosine)[-k:]] = 1
        indicators.append(matrix)
    accuracy = (indicators[0] * indicators[1]).sum(1) / k
    return accuracy.mean()


@pytest.mark.parametrize("k", [1, 4, 26])
def test_equals_the_equations(k):
    one, other = features(0), features(1, width=7)  # widths may differ
    other[..., :5] += one
    assert mutual_knn(one, other, k) == pytest.approx(naive_mutual_knn(one, other, k), abs=1e-12)


def test_same_model_and_random_features():
    one = features(0, rows=100, layers=4, width=16)
    assert mutual_knn(one, one, 10) == 1.0
    assert mutual_knn(one, 3 * one, 10) == 1.0  # a direction is what counts
    score = mutual_knn(one, features(1, rows=100, layers=4, width=16), 10)
    assert score == pytest.approx(chance_level(400, 10), abs=0.006)
    assert chance_level(400, 10) == 10 / 399


def test_block_size_does_not_matter():
    one, other = features(0, rows=50), features(1, rows=50)
    scores = {mutual_knn(one, other, 7, block_size) for block_size in (None, 1, 7, 64, 150, 1000)}
    assert len(scores) == 1


def test_memory_stays_bounded():
    points = features(0, rows=16_000, layers=1, width=8)[:, 0]
    with extra_memory(torch.device("cpu")) as extra:
        neighbours = nearest_neighbours(points, 10)
    assert neighbours.shape == (16_000, 10)
    if extra() is None:
        pytest.skip("this kernel does not count peak memory")
    assert extra() < 400e6  # all similarities at once would be 1,024 MB


def test_mean_leaves_out_padding_on_either_side():
    states = torch.arange(24.0).reshape(1, 2, 4, 3)  # layers, rows, positions, width
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert mean_over_tokens(list(states), mask).tolist() == [[[7.5, 8.5, 9.5]], [[15.0, 16.0, 17.0]]]
    with pytest.raises(ValueError, match="row 1 of the batch has no token"):
        mean_over_tokens(list(states), mask * torch.tensor([[1], [0]]))


@pytest.fixture
def rows():
    molecules = ["CCO", "c1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "CCCCCCN", "O=C=O"]
    return [
        {"task": "logp", "instruction": "What is the LogP?", "input": smiles_to_selfies(one), "graph_smiles": [one]}
        for one in molecules
    ]


def test_features_are_the_means_of_each_layer_whatever_the_batch(rows):
    model, processor = tiny.model(), tiny.processor()
    outputs = []
    hooks = [
        layer.register_forward_hook(lambda *args: outputs.append(args[2]))
        for layer in model.model.language_model.layers
    ]
    norm = model.model.language_model.norm
    with torch.no_grad():
        for row in rows:
            chat = processor.row_messages(row, with_answer=False)
            inputs = processor.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
            model(**inputs)
        for hook in hooks:
            hook.remove()
        outputs = [one[0] if isinstance(one, tuple) else one for one in outputs]
        by_row = [outputs[i : i + 4] for i in range(0, len(outputs), 4)]
        expected = torch.stack(
            [torch.stack([*(o.mean(1)[0] for o in row[:3]), norm(row[3]).mean(1)[0]]) for row in by_row]
        )
    for batch_size in (1, 2, 5):
        torch.testing.assert_close(layer_features(model, processor, rows, batch_size), expected, rtol=1e-4, atol=1e-5)


def test_random_models_are_above_chance(rows):
    """Layers of one row are each other's neighbours in any model: what Figure 7 has to be read against."""
    model, processor = tiny.model(), tiny.processor()
    state = torch.get_rng_state()
    one, other = (random_model_features(model, processor, rows, 5, seed) for seed in (1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(one, other)
    assert mutual_knn(one, other, 3) > 2 * chance_level(20, 3)


def test_best_layer_pair():
    one, other = features(0, rows=40, layers=3), features(1, rows=40, layers=2)
    other[:, 1] = one[:, 2] * 0.5
    score, pair = best_layer_pair(one, other, 5, clip_quantile=1)
    assert (score, pair) == (1.0, (2, 1))
    # Clipped at the mean over rows of each row's quantile, then layer against layer.
    bounds = [np.quantile(np.abs(f.numpy().reshape(40, -1)), 0.8, axis=1).mean() for f in (one, other)]
    clipped = [f.clamp(-bound, bound) for f, bound in zip((one, other), bounds, strict=True)]
    naive = {
        (i, j): naive_mutual_knn(clipped[0][:, i : i + 1], clipped[1][:, j : j + 1], 5)
        for i in range(3)
        for j in range(2)
    }
    score, pair = best_layer_pair(one, other, 5, clip_quantile=0.8)
    assert pair == max(naive, key=naive.__getitem__)
    assert score == pytest.approx(naive[pair], abs=1e-12)


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="of the same rows"):
        mutual_knn(features(0, rows=3), features(0, rows=4))
    with pytest.raises(ValueError, match="3 and 2 layers; best_layer_pair"):
        mutual_knn(features(0), features(0, layers=2))
    with pytest.raises(ValueError, match="k is 10: each of 6 points has between 1 and 5"):
        mutual_knn(features(0, rows=2), features(0, rows=2))
    with pytest.raises(ValueError, match="different numbers of layers"):
        similarity_matrices([features(0), features(0, layers=2)])


def test_picture_shows_the_numbers(monkeypatch):
    figures = []
    monkeypatch.setattr(convergence, "save_figure", lambda figure, path: figures.append(figure))
    matrix = [[1.0, 0.61, 0.5], [0.61, 1.0, 0.73], [0.5, 0.73, 1.0]]
    series = {name: {"labels": ["1", "2", "4"], "mutual_knn": matrix} for name in ("Omni-Mol", "other")}
    for number, one in enumerate(series.values()):
        one |= {"random_models": 0.4567 - 0.1 * number, "random_features": 0.01}
    plot_convergence({"task": "logp", "rows": 8, "k": 3, "series": series}, "unused.png")
    figure = figures[0]
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in maps] == ["Omni-Mol", "other"]
    assert [text.get_text() for text in maps[0].texts] == [f"{value:.2f}" for row in matrix for value in row]
    curves = next(axes for axes in figure.axes if axes.get_legend())
    assert list(curves.lines[0].get_ydata()) == [0.61, 0.73]
    legend = [text.get_text() for text in curves.get_legend().get_texts()]
    floors = ["Omni-Mol, random models: 0.457", "other, random models: 0.357", "random features: 0.010"]
    assert legend == ["Omni-Mol", floors[0], "other", *floors[1:]]


def test_script(tmp_path, monkeypatch, rows):
    """Two models and a data file in, matrices and floors out."""
    for seed in (0, 1):
        folder = tmp_path / f"run-{seed}" / "model"
        tiny.model(seed).save_pretrained(folder)
        tiny.processor().save_pretrained(folder)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row | {"output": "1", "id": str(i)}) + "\n" for i, row in enumerate(rows * 20)))
    spec = importlib.util.spec_from_file_location("convergence_recipe", ROOT / "recipes" / "convergence.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    series = ["--series", "tiny", str(tmp_path / "run-0"), str(tmp_path / "run-1")]
    out = tmp_path / "out"
    command = [*series, "--dataset", str(data), "--task", "logp", "--rows", "10", "--k", "3", "--output_dir", str(out)]
    monkeypatch.setattr("sys.argv", ["convergence.py", *command])
    recipe.main()
    result = json.loads((out / "convergence.json").read_text())
    assert result["rows"] == 10
    assert result["series"]["tiny"]["random_features"] == 3 / 39
    assert 3 / 39 < result["series"]["tiny"]["random_models"] < 1
    matrix = result["series"]["tiny"]["mutual_knn"]
    assert matrix[0][0] == matrix[1][1] == 1
    assert matrix[0][1] == matrix[1][0] < 1
    with pytest.raises(SystemExit):
        recipe.parse(["--series", "alone", "one-model"])
