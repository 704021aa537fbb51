"""Frontier orbital energies (Appendix J.6): molecule -> HOMO, LUMO or their gap, in Hartree with four decimals.

One row asks for one of the three (its `subset`); the answer is the bare number, e.g. `-0.2482`.
"""

from omnimol_hf.tasks.base import Task

HOMO_LUMO = Task(
    name="homo_lumo",
    category="regression",
    prompt="{instruction} The compound SELFIES sequence is: {input}",
    graph_rule="whole",
    answer="number",
    record_input="{molecule}",
    record_output="{value}",
    unit="Hartree",
    answer_format="{:.4f}",
    properties={"HOMO": "HOMO energy", "LUMO": "LUMO energy", "gap": "HOMO-LUMO gap"},
    instructions=(
        "What is the {property} of this molecule?",
        "Predict the {property} of the compound, in Hartree.",
        "Give the {property} that a quantum-chemical calculation would find.",
        "How large is the {property} of the molecule shown?",
        "Estimate the {property} from the structure.",
        "State the {property} of this compound as a number in Hartree.",
        "I need the {property} of the following molecule.",
        "Report the {property} for this structure.",
        "Tell me the {property} of the given compound.",
    ),
)
