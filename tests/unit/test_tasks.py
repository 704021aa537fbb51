"""The tasks' prompts are literal: a changed space or dot silently changes what a trained model reads."""

import json
import string

import pytest

from omnimol_hf.tasks import ALL_TASKS, EXTRA_TASKS, TASKS, task_prompts
from tests import tiny

# One row a task: (instruction, input) and the user's whole text after the graph. The fixed words, dots and spaces are
# those of the authors' data, in which instructions end in a dot or a question mark; captioning as the paper prints it.
COMPONENTS = "Reactants:$1$:[START_SELFIES][C][O][END_SELFIES] Product:$-1$:[START_SELFIES][C][=O][END_SELFIES]"
GOLDEN = {
    "forward_prediction": ("What forms?", "[C][O].[Na+1]", "What forms? [C][O].[Na+1]"),
    "retrosynthesis": ("From what?", "[C][Cl]", "From what? The product is: [C][Cl]"),
    "reagent_prediction": ("With what?", "[C][O]>>[C][Cl]", "With what? The reaction is [C][O]>>[C][Cl]"),
    "solvent_prediction": ("In what?", "[C][O]>>[C][Cl]", "In what? The reaction is [C][O]>>[C][Cl]."),
    "catalyst_prediction": ("By what?", "[C][O]>>[C][Cl]", "By what? The reaction is [C][O]>>[C][Cl]."),
    "yield_regression": ("How much?", "[C][O].[Pd]>>[C][Cl]", "How much? The reaction is [C][O].[Pd]>>[C][Cl]."),
    "homo_lumo": ("The gap?", "[C][O]", "The gap? The compound SELFIES sequence is: [C][O]"),
    "scf_energy": ("The energy?", "[C][O]", "The energy? The molecule SELFIES sequence is: [C][O]"),
    "logp": ("LogP?", "[C][O]", "LogP? The molecule SELFIES sequence is: [C][O]"),
    "tpsa": ("TPSA?", "[C][O]", "TPSA? The compound SELFIES sequence is: [C][O]"),
    "complexity": ("How complex?", "[C][O]", "How complex? The compound SELFIES sequence is: [C][O]"),
    "molecular_weight": ("Weight?", "[C][O]", "Weight? The molecule SELFIES sequence is: [C][O]"),
    "molecular_captioning": ("Describe it.", "[C][O]", "Describe it. The compound sequence is: [C][O]"),
    "description_qa": ("Is it toxic?", "[C][O]", "Is it toxic? The compound SELFIES sequence is: [C][O]"),
    "experiment_procedure": ("How is it made?", COMPONENTS, f"How is it made?{COMPONENTS}. The Action Sequence: "),
    "iupac_to_selfies": ("Translate.", "methanol", "Translate. The IUPAC name is: methanol"),
    "text_guided_generation": ("Find it.", "An alcohol.", "Find it. The description is: An alcohol."),
    "molecule_editing": ("Add a methyl.", "[C][O]", "Add a methyl. The compound SELFIES sequence is: [C][O]"),
    "alignment": ("What is it?", "[C][O]", "What is it?"),
}
GRAPH_RULES = {
    "first": {"forward_prediction", "description_qa", "tpsa", "complexity"},
    "whole": {"retrosynthesis", "homo_lumo", "molecular_captioning", "logp", "molecular_weight", "scf_energy"}
    | {"molecule_editing", "alignment"},
    "reactants": {"reagent_prediction", "solvent_prediction", "catalyst_prediction", "yield_regression"},
    "placeholders": {"experiment_procedure"},
    "none": {"iupac_to_selfies", "text_guided_generation"},
}


def test_order_is_that_of_the_tables():
    assert [*TASKS, *EXTRA_TASKS] == list(ALL_TASKS) == list(GOLDEN)
    assert len(TASKS) == 15
    assert all(name == task.name for name, task in ALL_TASKS.items())


@pytest.mark.parametrize("name", ALL_TASKS)
def test_golden_prompt(name):
    instruction, row_input, text = GOLDEN[name]
    assert ALL_TASKS[name].user_text(instruction, row_input) == text
    row = {"task": name, "instruction": instruction, "input": row_input, "graph_smiles": []}
    (message,) = tiny.processor().row_messages(row, with_answer=False)
    assert message["content"] == [{"type": "text", "text": text}], "the processor says the same"


def test_alignment_shows_the_graph_alone():
    row = {"task": "alignment", "instruction": "What is it?", "input": "[C][O]", "graph_smiles": ["CO"]}
    for multi_graph in (False, True):
        (message,) = tiny.processor(multi_graph=multi_graph).row_messages(row, with_answer=False)
        assert message["content"] == [{"type": "molecule", "smiles": "CO"}, {"type": "text", "text": "What is it?"}]


def test_braces_in_an_input_are_kept():
    assert TASKS["logp"].user_text("{a}", "{b}") == "{a} The molecule SELFIES sequence is: {b}"


def test_graph_rules():
    rules = {rule: {name for name, task in ALL_TASKS.items() if task.graph_rule == rule} for rule in GRAPH_RULES}
    assert rules == GRAPH_RULES


@pytest.mark.parametrize("name", ALL_TASKS)
def test_instructions(name):
    task = ALL_TASKS[name]
    assert len(set(task.instructions)) == len(task.instructions) >= 8
    fields = {field for text in task.instructions for _, field, _, _ in string.Formatter().parse(text) if field}
    assert fields == ({"property"} if task.properties else set())
    assert all(text == text.strip() and text[-1] in ".?" for text in task.instructions)


def test_no_two_tasks_share_a_wording():
    wordings = [text for task in ALL_TASKS.values() for text in task.instructions]
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
        ("yield_regression", 0.7041045, "0.7041"),
        ("scf_energy", -40.47893, "The SCF Energy for the input molecule is -40.4789 Hartree."),
        ("forward_prediction", "[C][O]", "[C][O]"),
    ],
)
def test_answer_text(name, value, answer):
    assert TASKS[name].answer_text(value) == answer


# the roles in which sources may give molecules
ROLES = {"molecule", "edited", "reactants", "product", "reagents", "solvents", "catalysts"}


@pytest.mark.parametrize("name", ALL_TASKS)
def test_a_record_becomes_input_and_output(name):
    task = ALL_TASKS[name]
    asked, answered = (
        {field for _, field, _, _ in string.Formatter().parse(template) if field}
        for template in (task.record_input, task.record_output)
    )
    assert asked
    assert asked <= ROLES | {"components", "text"}
    assert not asked & answered
    if task.answer == "molecule":
        assert answered <= ROLES
    else:
        assert answered == {{"number": "value", "text": "text", "procedure": "text"}[task.answer]}
    assert (">>" in task.record_input) == (task.graph_rule == "reactants")


def test_task_prompts_survive_json():
    prompts = task_prompts()
    assert json.loads(json.dumps(prompts)) == prompts
    assert list(prompts) == list(ALL_TASKS)
    assert all(set(fields) == {"prompt", "graph_rule", "instruction"} for fields in prompts.values())
    assert not any("{" in fields["instruction"] for fields in prompts.values())
