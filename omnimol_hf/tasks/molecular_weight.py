"""Molecular weight (Appendix J.12): molecule -> average molecular weight in g/mol."""

from omnimol_hf.tasks.base import Task

MOLECULAR_WEIGHT = Task(
    name="molecular_weight",
    category="regression",
    prompt="{instruction} The molecule SELFIES sequence is: {input}",
    graph_rule="whole",
    answer="number",
    record_input="{molecule}",
    record_output="{value}",
    unit="g/mol",
    answer_format="The Molecular Weight for the input molecule is {:.2f} g/mol.",
    instructions=(
        "What is the molecular weight of this molecule?",
        "Compute the molecular weight of the compound in g/mol.",
        "How much does one mole of this compound weigh?",
        "Predict the molecular weight for the structure given.",
        "Add up the atomic weights of this molecule.",
        "Give the molar mass of the following compound.",
        "State the molecular weight that belongs to this structure.",
        "I need this compound's molecular weight.",
        "Report the weight of the molecule in grams per mole.",
    ),
)
