"""The scoring recipe's command line: what is misspelt or impossible is told before anything is loaded."""

import pytest

from recipes import score as recipe

GIVEN = ["--model", "a", "b/model", "--dataset", "c"]


def test_arguments():
    options = recipe.parse_arguments([*GIVEN, "--tasks", "logp", "tpsa", "--num_beams", "4", "--candidates", "2"])
    assert (options.model, options.dataset, options.tasks) == (["a", "b/model"], "c", ["logp", "tpsa"])
    assert options.generation.num_beams == 4
    assert options.generation.candidates == 2
    assert recipe.parse_arguments(GIVEN).generation.do_sample is False


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num_beam", "3"], "unknown setting 'num_beam'; did you mean 'num_beams'"),
        (["--candidates", "2"], "greedy search finds one answer"),
        (["--temperature", "0.2"], "give do_sample too"),
        (["--rows", "0"], "rows is 0; expected a whole number from 1"),
        (["--baselines", "some"], "baselines is 'some'"),
        (["--device", "tpu"], "device is 'tpu'"),
    ],
)
def test_impossible_arguments(more, message):
    with pytest.raises(SystemExit, match=message):
        recipe.parse_arguments([*GIVEN, *more])


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["outputs/quickstart/model"], ["quickstart"]),
        (["runs/separate/model", "runs/unified/model"], ["separate", "unified"]),
        (["x/one/adapter", "x/two/adapter"], ["one-adapter", "two-adapter"]),
        (["org/name", "/models/name"], ["org-name", "models-name"]),
        (["model"], ["model"]),
    ],
)
def test_models_have_short_names(sources, names):
    assert recipe.model_names(sources) == names


def test_a_model_cannot_be_compared_with_itself():
    with pytest.raises(SystemExit, match="names one model twice"):
        recipe.model_names(["a/b", "a/b"])
