"""SCF energy (Appendix J.10): molecule -> total electronic energy.

Computed labels and QM9's are in Hartree. PubChemQC rows keep the form in which they were published (units of
10^5 eV); the card names the unit of every source.
"""

from omnimol_hf.tasks.base import Task

SCF_ENERGY = Task(
    name="scf_energy",
    category="regression",
    prompt="{instruction} The molecule SELFIES sequence is: {input}",
    graph_rule="whole",
    answer="number",
    record_input="{molecule}",
    record_output="{value}",
    unit="Hartree",
    answer_format="The SCF Energy for the input molecule is {:.4f} Hartree.",
    instructions=(
        "What is the SCF energy of this molecule?",
        "Predict the total energy of the compound from a self-consistent field calculation.",
        "Estimate the self-consistent field (SCF) energy of the structure given.",
        "Give the total electronic energy of this molecule.",
        "Which SCF energy would a quantum-chemistry program print for this compound?",
        "Report the SCF energy of the following molecule.",
        "I would like to know the converged SCF energy of this structure.",
        "State the total SCF energy for the given molecule.",
        "How low is the SCF energy of this compound?",
    ),
)
