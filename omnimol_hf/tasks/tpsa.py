"""Topological polar surface area (Appendix J.13): molecule -> TPSA in square angstroms."""

from omnimol_hf.tasks.base import Task

TPSA = Task(
    name="tpsa",
    category="regression",
    prompt="{instruction} The compound SELFIES sequence is: {input}",
    graph_rule="first",
    answer="number",
    record_input="{molecule}",
    record_output="{value}",
    unit="Å²",
    answer_format="The Topological Polar Surface Area for the input molecule is {:.2f} Å².",
    instructions=(
        "What is the topological polar surface area of this molecule?",
        "Estimate the TPSA of the compound.",
        "How much polar surface does this molecule have? Give its TPSA.",
        "Predict the topological polar surface area (TPSA) for the structure given.",
        "Add up the polar surface contributions of this compound.",
        "State the TPSA of the following molecule in square angstroms.",
        "Give the polar surface area of this structure, computed from its topology.",
        "I need this compound's topological polar surface area.",
        "Report the TPSA value that belongs to this molecule.",
    ),
)
