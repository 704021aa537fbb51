"""Catalyst prediction (Appendix J.7): `reactants>>product` -> catalysts joined by `.`."""

from omnimol_hf.tasks.base import Task

CATALYST_PREDICTION = Task(
    name="catalyst_prediction",
    category="reaction",
    prompt="{instruction} The reaction is {input}.",
    graph_rule="reactants",
    answer="molecule",
    record_input="{reactants}>>{product}",
    record_output="{catalysts}",
    instructions=(
        "Which catalyst could drive this reaction?",
        "Suggest a catalyst for the transformation given.",
        "Name the catalyst that was probably used here.",
        "What catalyst would you add to convert these reactants into the product?",
        "Propose a catalytic system for the following step.",
        "Select a catalyst that makes this conversion feasible.",
        "The reaction below is catalysed. By what?",
        "Recommend a catalyst for carrying out this synthesis.",
        "Work out which catalyst this reaction calls for.",
        "Identify a suitable catalyst for the reaction shown.",
    ),
)
