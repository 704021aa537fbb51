"""The table and plots that close a run."""

import json
import math

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from omnimol_hf.analysis import plots, training_plots
from omnimol_hf.analysis.plots import draw_predictions
from omnimol_hf.analysis.report import HEADLINES, is_better, main_metric, results_table, write_results
from omnimol_hf.analysis.training_plots import plot_training
from omnimol_hf.chemistry_omnimol import smiles_to_selfies
from omnimol_hf.metrics import score_task
from omnimol_hf.tasks import TASKS


@pytest.fixture
def results():
    ethanol, ethylamine = smiles_to_selfies("CCO"), smiles_to_selfies("CCN")
    truths = [str(i) for i in range(40)]
    return {
        # good numbers, given out of the tables' order
        "molecular_weight": score_task(TASKS["molecular_weight"], truths, truths, ["20"] * 40),
        "forward_prediction": score_task(
            TASKS["forward_prediction"], [ethanol, "[X]"], [ethanol] * 2, [ethylamine, ethanol]
        ),
        "molecular_captioning": score_task(TASKS["molecular_captioning"], ["an acid", ""], ["a base"] * 2, ["x"] * 2),
    }


def test_table(results):
    lines = results_table(results).splitlines()
    assert lines[0].split()[:3] == ["task", "metric", "score"]
    body = [line.split() for line in lines[2:-3]]
    assert [row[0] for row in body] == [
        "forward_prediction",
        "morgan",
        "molecular_weight",
        "r2",
        "molecular_captioning",
        "bleu-2",
    ]
    weight = body[2]
    assert weight[1:4] == ["mae", "(g/mol)", "0.0000"]
    assert "yes" in weight  # an error of 0 against the baseline's 10
    assert weight[-3:] == ["100", "%", "40"]
    assert body[0][-3:] == ["50", "%", "2"]  # one of two molecules could be read
    assert body[4][-3:] == ["50", "%", "2"]
    assert "~" in body[0]  # two rows prove nothing
    assert "lower is better" in lines[-2]
    verdicts = lines[0].index("better?")
    assert {line[verdicts : verdicts + 3].strip() for line in lines[2:-3]} <= {"yes", "no", "~", "-"}


def test_every_kind_of_answer_has_a_headline():
    assert {task.answer for task in TASKS.values()} == set(HEADLINES)
    assert main_metric("logp") == "mae"


@pytest.mark.parametrize(
    ("metric", "low", "high", "baseline", "expected"),
    [
        ("mae", 1, 2, 3, True),
        ("mae", 4, 5, 3, False),
        ("levenshtein", 1, 2, 3, True),
        ("morgan", 0.4, 0.5, 0.3, True),
        ("morgan", 0.1, 0.2, 0.3, False),
        ("morgan", 0.2, 0.4, 0.3, None),
        ("r2", None, None, 0.0, None),
    ],
)
def test_is_better(metric, low, high, baseline, expected):
    assert is_better(metric, {"low": low, "high": high, "baseline": baseline}) is expected


def test_results_file_is_strict_json_and_whole(results, tmp_path):
    path = tmp_path / "new" / "results.json"
    write_results(results, path)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == results
    # a value that JSON cannot hold leaves the old file as it was, and no draft beside it
    with pytest.raises(ValueError, match="JSON"):
        write_results({"a": {"strict": {"mae": {"value": math.nan}}}}, path)
    assert json.loads(path.read_text()) == results
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def is_drawn(path, least_share=0.002):
    picture = matplotlib.image.imread(path)[..., :3]
    return (picture.min(axis=-1) < 0.9).mean() > least_share


def telemetry(tasks, steps=60):
    """Lines as a run writes them: task i has the loss i, and half of its choices go to expert i modulo 3."""
    lines = []
    for step in range(1, steps + 1):
        line = {"step": step, "loss": 5 / step, "learning_rate": 1e-3 / step, "grad_norm": None if step == 9 else 1.0}
        line |= {f"loss/{task}": float(i) for i, task in enumerate(tasks)}
        line |= {"balance_loss": 1.1, "speed/tokens_per_second": 900.0, "speed/padding_share": 0.1}
        line |= {f"gamma/experts_{name}": value for name, value in (("mean", 8.0), ("min", 7.5), ("max", 9.0))}
        shares = np.full((len(tasks), 2, 3), 0.25)
        shares[range(len(tasks)), :, np.arange(len(tasks)) % 3] = 0.5 if step > 48 else 0.25
        line["expert_load"] = {task: shares[i].tolist() for i, task in enumerate(tasks)}
        lines.append(line)
    return [*lines, {"step": 30, "eval_loss": 1.0}, {"step": steps, "train_runtime": 3.0, "train_loss": 1.0}]


def test_training_plot(tmp_path, monkeypatch):
    drawn = []
    real = training_plots.save_figure
    monkeypatch.setattr(training_plots, "save_figure", lambda figure, path: drawn.append(figure) or real(figure, path))
    plot_training(telemetry(["logp", "tpsa"]), tmp_path / "plots" / "training.png")
    assert is_drawn(tmp_path / "plots" / "training.png")
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes if axes.get_title(loc="left")]
    assert [title.split(" ")[0] for title in titles] == [
        "Loss", "Loss", "Gradient", "Adaptive", "Balance", "Expert", "Speed", "Learning"
    ]  # fmt: skip
    loss = drawn[0].axes[0].lines
    assert loss[0].get_ydata() == pytest.approx([5 / step for step in range(1, 61)])
    assert (loss[2].get_xdata(), loss[2].get_ydata()) == ([30], [1])
    # what a run did not log is left out
    plot_training([{"step": 1, "loss": 2.0, "learning_rate": 0.0}], tmp_path / "short.png")
    assert [axes.get_title(loc="left") for axes in drawn[1].axes if axes.get_visible()] == ["Loss", "Learning rate"]
    with pytest.raises(ValueError, match="no line has the key 'loss'"):
        plot_training(telemetry(["logp"])[-1:], tmp_path / "none.png")


def test_losses_by_task_are_named_in_their_order():
    axes = Figure().subplots()
    training_plots._loss_by_task(axes, telemetry([f"task_{i:02}" for i in range(17)]))
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [f"task {i:02}" for i in range(14, -1, -1)]
    assert [line.get_ydata()[-1] for line in axes.lines] == list(range(14, -1, -1))
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 15


def test_expert_load_is_the_mean_over_the_last_fifth():
    axes = Figure().subplots()
    training_plots._expert_load(axes, telemetry(["tpsa", "logp"]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["logp", "tpsa"]
    gap = np.nan
    expected = [[0.25, 0.5, 0.25, gap, 0.25, 0.5, 0.25], [0.5, 0.25, 0.25, gap, 0.5, 0.25, 0.25]]
    np.testing.assert_allclose(np.ma.filled(axes.images[0].get_array(), np.nan), expected)


def test_running_mean_is_centred():
    line = np.arange(200.0)
    assert training_plots._running_mean(line) == pytest.approx(line)


def row(task, input, output, subset="", graph=()):
    instruction = TASKS[task].instruction(0, subset)
    return {
        "task": task,
        "instruction": instruction,
        "input": input,
        "output": output,
        "subset": subset,
        "graph_smiles": list(graph),
    }


def test_predictions_of_all_kinds_are_drawn(tmp_path, monkeypatch):
    acid, amine, amide = map(smiles_to_selfies, ("OC(=O)c1ccccc1", "CN", "CNC(=O)c1ccccc1"))
    rows = [
        row("forward_prediction", f"{acid}.{amine}", amide),
        row("retrosynthesis", amide, f"{acid}.{amine}"),
        row("solvent_prediction", f"{acid}.{amine}>>{amide}", smiles_to_selfies("ClCCl")),
        row("homo_lumo", amide, "-0.2482", "HOMO"),
        row("molecular_captioning", amide, "The molecule costs $5 and $1$ is its name."),
        row("experiment_procedure", "Reactants:$1$: ...", "ADD $1$ ; STIR", graph=["CCO"]),
        row("logp", "not SELFIES", "The LogP for the input molecule is 1.00."),
    ]
    predictions = [amide, acid, "[X]", "-0.2391", "", "ADD $1$ ; STIR", "who knows"]
    said = []
    real = plots._verdict
    monkeypatch.setattr(plots, "_verdict", lambda *args: said.append(real(*args)[0]) or real(*args))
    draw_predictions(rows, predictions, tmp_path / "examples.png")
    assert is_drawn(tmp_path / "examples.png")
    # the three unreadable answers are judged by nobody
    assert said[0] == "correct"
    assert said[1].startswith("Tanimoto 0.")
    assert said[2:] == ["off by 0.0091 Hartree", "word for word"]


def test_predictions_must_match_rows(tmp_path):
    with pytest.raises(ValueError, match="got 0 rows and 1 predictions"):
        draw_predictions([], ["[C]"], tmp_path / "examples.png")
