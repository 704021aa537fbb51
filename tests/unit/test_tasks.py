"""The tasks' prompts are literal: a changed space or dot silently changes what a trained model reads."""

import json
import string

import pytest

from omnimol_hf.tasks import TASKS, task_prompts

# instruction "I.", input "X": the strings of the authors' data; captioning as the paper prints it
USER_TEXTS = {
    "forward_prediction": "I. X",
    "retrosynthesis": "I. The product is: X",
    "reagent_prediction": "I. The reaction is X",
    "solvent_prediction": "I. The reaction is X.",
    "catalyst_prediction": "I. The reaction is X.",
    "yield_regression": "I. The reaction is X.",
    "homo_lumo": "I. The compound SELFIES sequence is: X",
    "scf_energy": "I. The molecule SELFIES sequence is: X",
    "logp": "I. The molecule SELFIES sequence is: X",
    "tpsa": "I. The compound SELFIES sequence is: X",
    "complexity": "I. The compound SELFIES sequence is: X",
    "molecular_weight": "I. The molecule SELFIES sequence is: X",
    "molecular_captioning": "I. The compound SELFIES sequence is: X",
    "description_qa": "I. The compound SELFIES sequence is: X",
    "experiment_procedure": "I.X. The Action Sequence: ",
}
GRAPH_RULES = {
    "first": {"forward_prediction", "description_qa", "tpsa", "complexity"},
    "whole": {"retrosynthesis", "homo_lumo", "molecular_captioning", "logp", "molecular_weight", "scf_energy"},
    "reactants": {"reagent_prediction", "solvent_prediction", "catalyst_prediction", "yield_regression"},
    "placeholders": {"experiment_procedure"},
}


def test_order_is_that_of_the_tables():
    assert list(TASKS) == list(USER_TEXTS)
    assert all(name == task.name for name, task in TASKS.items())


@pytest.mark.parametrize("name", TASKS)
def test_user_text(name):
    assert TASKS[name].user_text("I.", "X") == USER_TEXTS[name]


def test_braces_in_an_input_are_kept():
    assert TASKS["logp"].user_text("{a}", "{b}") == "{a} The molecule SELFIES sequence is: {b}"


def test_graph_rules():
    rules = {rule: {name for name, task in TASKS.items() if task.graph_rule == rule} for rule in GRAPH_RULES}
    assert rules == GRAPH_RULES


@pytest.mark.parametrize("name", TASKS)
def test_instructions(name):
    task = TASKS[name]
    assert len(set(task.instructions)) == len(task.instructions) >= 8
    fields = {field for text in task.instructions for _, field, _, _ in string.Formatter().parse(text) if field}
    assert fields == ({"property"} if task.properties else set())
    assert all(text == text.strip() and text[-1] in ".?" for text in task.instructions)


def test_no_two_tasks_share_a_wording():
    wordings = [text for task in TASKS.values() for text in task.instructions]
    assert len(set(wordings)) == len(wordings)


def test_homo_lumo_names_its_property():
    task = TASKS["homo_lumo"]
    for number in range(len(task.instructions)):
        # the authors' evaluation tells the three apart by these words in the prompt
        assert "HOMO" in task.instruction(number, "HOMO")
        assert "LUMO" not in task.instruction(number, "HOMO")
        assert "LUMO" in task.instruction(number, "LUMO")
        assert "HOMO" not in task.instruction(number, "LUMO")
        assert {"HOMO", "LUMO"} <= set(task.instruction(number, "gap").replace("-", " ").split())
    with pytest.raises(ValueError, match=r"'dipole'.*HOMO, LUMO, gap"):
        task.instruction(0, "dipole")


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        ("logp", -1.2, "The LogP for the input molecule is -1.20."),
        ("molecular_weight", 180.159, "The Molecular Weight for the input molecule is 180.16 g/mol."),
        ("tpsa", 63.6, "The Topological Polar Surface Area for the input molecule is 63.60 Å²."),
        ("complexity", 212, "The Complexity for the input molecule is 212.00."),
        ("homo_lumo", -0.24824, "-0.2482"),
        ("forward_prediction", "[C][O]", "[C][O]"),
    ],
)
def test_answer_text(name, value, answer):
    assert TASKS[name].answer_text(value) == answer


def test_task_prompts_survive_json():
    prompts = task_prompts()
    assert json.loads(json.dumps(prompts)) == prompts
    assert list(prompts) == list(TASKS)
    assert all(set(fields) == {"prompt", "graph_rule", "instruction"} for fields in prompts.values())
    assert not any("{" in fields["instruction"] for fields in prompts.values())
