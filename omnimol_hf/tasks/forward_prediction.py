"""Forward reaction prediction (Appendix J.2): reactants and reagents joined by `.` -> product."""

from omnimol_hf.tasks.base import Task

FORWARD_PREDICTION = Task(
    name="forward_prediction",
    category="reaction",
    prompt="{instruction} {input}",
    graph_rule="first",
    answer="molecule",
    record_input="{reactants}",
    record_output="{product}",
    instructions=(
        "Predict the main product of the reaction between these reactants and reagents.",
        "Which product is formed when the following reactants and reagents are combined?",
        "Here are the reactants and reagents of a reaction. What does it give?",
        "Work out the product that these starting materials and reagents lead to.",
        "Given the species in the flask, name the molecule that the reaction yields.",
        "Complete this reaction by giving its product.",
        "What would you expect to isolate after these reactants and reagents have reacted?",
        "From the listed reactants and reagents, derive the most likely product.",
        "These compounds are allowed to react. Write down the resulting product.",
        "Tell me the outcome of the reaction of the molecules listed here.",
    ),
)
