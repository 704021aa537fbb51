"""Complexity (Appendix J.14): molecule -> an index of structural complexity, without a unit.

Published rows carry PubChem's value; computed rows say in `label_source` which index they hold.
"""

from omnimol_hf.tasks.base import Task

COMPLEXITY = Task(
    name="complexity",
    category="regression",
    prompt="{instruction} The compound SELFIES sequence is: {input}",
    graph_rule="first",
    answer="number",
    record_input="{molecule}",
    record_output="{value}",
    answer_format="The Complexity for the input molecule is {:.2f}.",
    instructions=(
        "What is the structural complexity of this molecule?",
        "Rate how complex the compound is, as a complexity value.",
        "Predict the complexity index of the structure given.",
        "How intricate is this molecule? Answer with its complexity.",
        "Estimate the molecular complexity of the following compound.",
        "Give the complexity score that belongs to this structure.",
        "State the complexity of the molecule as a number.",
        "I need an estimate of this compound's structural complexity.",
        "Report the complexity value for this molecule.",
    ),
)
