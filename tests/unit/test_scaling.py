"""Runs read from their folders, y = a log x + b, and the pictures over them."""

import importlib.util
import json

import numpy as np
import pytest
import yaml
from scipy import optimize, stats

from omnimol_hf.analysis import scaling_plots
from omnimol_hf.analysis.scaling import Run, Score, average, common_tasks, fit_log, read_run
from omnimol_hf.analysis.scaling_plots import plot_composition, plot_scaling, plot_variants, short_number
from tests import tiny
from tests.conftest import ROOT

# --- the fit ---------------------------------------------------------------------------------------------------------


def test_fit_finds_the_coefficients():
    x = np.array([0.2, 0.4, 0.6, 1.0])
    fit = fit_log(x, 0.07 * np.log(x) + 0.41)
    assert (fit.a, fit.b, fit.r2) == pytest.approx((0.07, 0.41, 1.0))
    assert fit.half_width(x) == pytest.approx(np.zeros(4), abs=1e-9)
    assert fit(np.e) == pytest.approx(0.48)


def test_fit_agrees_with_scipy():
    rng = np.random.default_rng(0)
    x = np.array([1, 2, 4, 8, 15])
    y = 0.05 * np.log(x) + 0.3 + rng.normal(0, 0.02, 5)
    fit = fit_log(x, y)
    line = stats.linregress(np.log(x), y)
    assert (fit.a, fit.b, fit.r2) == pytest.approx((line.slope, line.intercept, line.rvalue**2))
    assert fit.a_error == pytest.approx(stats.t.ppf(0.975, 3) * line.stderr)
    # The band by propagating the covariance of the coefficients.
    _, covariance = optimize.curve_fit(lambda x, a, b: a * np.log(x) + b, x, y)
    for at in (1.0, 3.0, 40.0):
        gradient = np.array([np.log(at), 1.0])
        expected = stats.t.ppf(0.975, 3) * np.sqrt(gradient @ covariance @ gradient)
        assert fit.half_width(at) == pytest.approx(expected, rel=1e-5)


def test_two_points_have_no_band():
    fit = fit_log([1, 3], [0.2, 0.4])
    assert fit.a == pytest.approx(0.2 / np.log(3))
    assert np.isnan(fit.a_error)
    assert np.isnan(fit.half_width(2.0))


@pytest.mark.parametrize(("x", "y"), [([1, 1], [0, 1]), ([0, 1], [0, 1]), ([1, 2], [0.5]), ([], [])])
def test_what_cannot_be_fitted(x, y):
    with pytest.raises(ValueError, match="at least two different x above 0"):
        fit_log(x, y)


# --- runs ------------------------------------------------------------------------------------------------------------


def write_run(folder, settings=None, answers=(), results=None, about=None):
    folder.mkdir(parents=True)
    if settings is not None:
        (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    lines = [{"task": task, "output": out, "answer": said, "subset": ""} for task, out, said in answers]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    if about is not None:
        (folder / "about.json").write_text(json.dumps(about))
    return folder


ANSWERS = [
    # logp: labels 1, 2, 3, 7 have the median 2.5 and the median absolute deviation 1
    ("logp", "1", "1"),
    ("logp", "2", "4"),
    ("logp", "3", "nothing"),
    ("logp", "7", "8"),
    ("forward_prediction", "[C][C][O]", "[C][C][O]"),
    ("forward_prediction", "[C][C][O]", "[C][C][O]"),
]


def test_normalised_scores_of_a_run(tmp_path):
    run = read_run(write_run(tmp_path / "one", {"proportion": 0.4, "tasks": "logp:1/forward:0.5"}, ANSWERS))
    assert list(run.scores) == ["forward_prediction", "logp"]  # as in the paper's tables
    assert run.scores["logp"].value == pytest.approx((1 + np.exp(-2) + 0 + np.exp(-1)) / 4)
    assert run.scores["logp"].low < run.scores["logp"].value < run.scores["logp"].high
    assert run.scores["forward_prediction"] == Score(1.0, 1.0, 1.0)
    assert (run.name, run.data_share, run.parameters, run.tasks) == ("one", 0.4, None, 2)
    scaled = read_run(tmp_path / "one", scales={("logp", ""): 2.0})
    assert scaled.scores["logp"].value == pytest.approx((1 + np.exp(-1) + 0 + np.exp(-0.5)) / 4)


def test_metric_of_a_run(tmp_path):
    fields = {"value": 0.5, "low": 0.4, "high": 0.6}
    none = {"value": 0.7, "low": None, "high": None}
    results = {
        "logp": {"strict": {"mae": fields}, "paper": {"mae": none}},
        "forward_prediction": {"strict": {"exact_match": fields}, "paper": {}},
    }
    folder = write_run(tmp_path / "run", results=results, about={"name": "Ours", "parameters": 5})
    run = read_run(folder, "mae")
    assert run == Run("Ours", None, 5, 1, {"logp": Score(0.5, 0.4, 0.6)})
    assert read_run(folder, "mae", "paper").scores == {"logp": Score(0.7, 0.7, 0.7)}
    with pytest.raises(ValueError, match="no task has a score 'bleu-2'"):
        read_run(folder, "bleu-2")


@pytest.mark.parametrize(
    ("settings", "share", "tasks"),
    [
        ({}, 1.0, 2),
        ({"selection": {"kind": "active", "budget": 0.4}}, 0.4, 2),
        ({"selection": {"kind": "random", "budget": 0.5}, "proportion": 0.6}, 0.3, 2),
        ({"selection": {"kind": "active", "budget": 4000}}, None, 2),  # a number of rows is no share
        ({"selection": {"kind": "all"}}, 1.0, 2),
        ({"mixture": {"logp": 0.5, "tpsa": 0.2, "complexity": 0.3}}, 1.0, 3),
        ({"tasks": "forward:1/reagent:0/yield_BH:1/yield_SM:1"}, 1.0, 2),
    ],
)
def test_where_a_run_stands(tmp_path, settings, share, tasks):
    run = read_run(write_run(tmp_path / "run", settings, ANSWERS))
    assert run.data_share == (share if share is None else pytest.approx(share))
    assert run.tasks == tasks


def test_parameters_of_a_run(tmp_path):
    folder = write_run(tmp_path / "run", {}, ANSWERS)
    model = tiny.model()
    model.save_pretrained(folder / "model")
    graph = sum(weight.numel() for weight in model.model.graph_encoder.state_dict().values())
    assert read_run(folder).parameters == sum(p.numel() for p in model.parameters()) + graph


def test_folders_that_are_no_runs(tmp_path):
    with pytest.raises(ValueError, match=r"predictions\.jsonl cannot be read: No such file.*the folder of a run"):
        read_run(tmp_path / "nothing")
    folder = write_run(tmp_path / "run", {}, ANSWERS, about={"params": 3})
    with pytest.raises(ValueError, match=r"unknown keys \['params'\]; expected some of name, data_share"):
        read_run(folder)


def test_average():
    mean = average({"a": Score(0.4, 0.1, 0.5), "b": Score(0.6, 0.2, 0.6)})
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.5, 0.5 - 0.25, 0.5 + 0.05))
    assert common_tasks([{"a": 0, "b": 0}, {"b": 0, "c": 0}]) == ["b"]
    with pytest.raises(ValueError, match="no task was scored in all runs"):
        common_tasks([{"a": 0}, {"b": 0}])


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def figures(monkeypatch):
    seen = []
    monkeypatch.setattr(scaling_plots, "save_figure", lambda figure, path: seen.append(figure))
    return seen


def run(name: str, share: float, *values: float) -> Run:
    tasks = ("forward_prediction", "logp", "molecular_captioning")
    scores = {task: Score(value, value - 0.1, value + 0.1) for task, value in zip(tasks, values, strict=False)}
    return Run(name, share, None, 3, scores)


def test_scaling_picture(figures):
    runs = [run("b", 1.0, 0.6, 0.5, 0.4), run("a", 0.2, 0.3, 0.2, 0.1), run("c", 0.4, 0.3, 0.4, 0.2)]
    fits = plot_scaling({"Omni-Mol": runs}, "data_share", "unused.png")
    line = stats.linregress(np.log([1.0, 0.2, 0.4]), [0.5, 0.2, 0.3])
    assert (fits["Omni-Mol"].a, fits["Omni-Mol"].b) == pytest.approx((line.slope, line.intercept))
    left, right = figures[0].axes
    assert left.lines[0].get_xdata() == pytest.approx([0.2, 0.4, 1.0])
    assert left.lines[0].get_ydata() == pytest.approx([0.2, 0.3, 0.5])
    assert left.get_xscale() == "log"
    assert any(f"{line.slope:.3f} ±" in text.get_text() for text in left.get_legend().get_texts())
    rings = {ring.get_label(): list(ring.get_ydata()) for ring in right.lines}
    assert rings["0.2"] == [0.3, 0.2, 0.1, 0.3]  # closed
    assert list(rings) == ["0.2", "0.4", "1"]


def test_scaling_over_one_task_and_what_is_missing(figures):
    runs = [run("a", 0.2, 0.3), run("b", 0.4, 0.5)]
    plot_scaling({"one": runs, "other": runs}, "data_share", "unused.png", task="forward_prediction")
    assert len(figures[0].axes) == 1  # no radar
    assert "forward prediction" in figures[0].axes[0].get_ylabel()
    with pytest.raises(ValueError, match=r"the run a does not say its parameters: write it into about\.json"):
        plot_scaling({"one": runs}, "parameters", "unused.png")
    with pytest.raises(ValueError, match="the runs a, b have no score of tpsa"):
        plot_scaling({"one": runs}, "data_share", "unused.png", task="tpsa")


def test_variants_picture(figures):
    variants = {"full": run("a", 1, 0.6, 0.5).scores, "without": run("b", 1, 0.4, 0.4, 0.3).scores}
    plot_variants(variants, "unused.png", notes={"full": "40 % of the data"})
    axes = figures[0].axes[0]
    labels = [label.get_text().replace("\n", " ") for label in axes.get_xticklabels()]
    assert labels == ["forward prediction", "logp", "molecular captioning", "average"]
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")]
    assert heights[0] == pytest.approx([0.6, 0.5, 0.55])  # no caption; the average is over what both have
    assert heights[1] == pytest.approx([0.4, 0.4, 0.3, 0.4])
    assert figures[0].legends[0].get_texts()[0].get_text() == "full (40 % of the data)"


def test_composition_picture(figures):
    counts = {"logp": {"train": 60, "test": 20}, "forward_prediction": {"train": 20}, "tpsa": {}}
    plot_composition(counts, "unused.png")
    left, right = figures[0].axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["reaction 20%", "regression 80%"]
    angles = [wedge.theta2 - wedge.theta1 for wedge in left.patches[:2]]
    assert [abs(angle) / 360 for angle in angles] == pytest.approx([0.2, 0.8])
    assert [text.get_text().strip() for text in right.texts] == ["train 20", "train 60", "test 20"]
    with pytest.raises(ValueError, match="no task has rows"):
        plot_composition({"logp": {}}, "unused.png")


def test_short_numbers():
    assert [short_number(value) for value in (1.7e9, 350e6, 12_345, 15, 0.4)] == ["1.7B", "350M", "12.3k", "15", "0.4"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe():
    spec = importlib.util.spec_from_file_location("scaling_recipe", ROOT / "recipes" / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command(tmp_path, monkeypatch, recipe):
    folders = [write_run(tmp_path / str(share), {"proportion": share}, ANSWERS) for share in (0.2, 1.0)]
    out = tmp_path / "out"
    series = ["--series", "ours", *map(str, folders)]
    monkeypatch.setattr("sys.argv", ["scaling.py", "data_share", *series, "--output_dir", str(out)])
    recipe.main()
    result = json.loads((out / "data_share.json").read_text())["ours"]
    assert [one["data_share"] for one in result["runs"]] == [0.2, 1.0]
    assert result["fit"]["a"] == pytest.approx(0)
    assert result["fit"]["a_error"] is None
    monkeypatch.setattr("sys.argv", ["scaling.py", "variants", *series, "--output_dir", str(out)])
    with pytest.raises(SystemExit, match="ours: several runs have scores of forward_prediction, logp"):
        recipe.main()
    monkeypatch.setattr("sys.argv", ["scaling.py", "parameters", *series, "--output_dir", str(out)])
    with pytest.raises(SystemExit, match="does not say its parameters"):
        recipe.main()
