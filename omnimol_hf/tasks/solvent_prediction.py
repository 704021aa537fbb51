"""Solvent prediction (Appendix J.8): `reactants>>product` -> solvents joined by `.`."""

from omnimol_hf.tasks.base import Task

SOLVENT_PREDICTION = Task(
    name="solvent_prediction",
    category="reaction",
    prompt="{instruction} The reaction is {input}.",
    graph_rule="reactants",
    answer="molecule",
    record_input="{reactants}>>{product}",
    record_output="{solvents}",
    instructions=(
        "In which solvent would you run this reaction?",
        "Suggest a solvent, or a mixture of solvents, for the reaction given.",
        "Choose a suitable reaction medium for this transformation.",
        "What solvents were probably used for this conversion?",
        "Name solvents in which these reactants could be turned into the product.",
        "Pick the solvent that fits the chemistry shown.",
        "Which solvent system supports this reaction best?",
        "Recommend solvents for carrying out the following step.",
        "The procedure omits the solvent. Which one is likely?",
        "Tell me what the reactants should be dissolved in.",
    ),
)
