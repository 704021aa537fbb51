"""Reagent prediction (Appendix J.4): `reactants>>product` -> reagents joined by `.`."""

from omnimol_hf.tasks.base import Task

REAGENT_PREDICTION = Task(
    name="reagent_prediction",
    category="reaction",
    prompt="{instruction} The reaction is {input}",  # no final dot, unlike the three tasks that follow
    graph_rule="reactants",
    answer="molecule",
    record_input="{reactants}>>{product}",
    record_output="{reagents}",
    instructions=(
        "Which reagents does this transformation need?",
        "Suggest reagents that turn these reactants into this product.",
        "Reactants and product are given. Fill in the reagents.",
        "Name reagents under which the following reaction would run.",
        "What has to be added to the reactants to arrive at the product?",
        "Find a set of reagents for the reaction shown.",
        "Recommend reagents for carrying out this conversion.",
        "The arrow of this reaction lacks its reagents. What belongs above it?",
        "List the reagents that were probably used here.",
        "Given where the reaction starts and ends, deduce its reagents.",
    ),
)
