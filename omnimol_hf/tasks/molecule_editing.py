"""Molecule editing, an extra task of the paper's later version: molecule and what to change -> changed molecule.

A row's instruction says what to change. The wordings here serve rows that come without one.
"""

from omnimol_hf.tasks.base import Task

MOLECULE_EDITING = Task(
    name="molecule_editing",
    category="generation",
    prompt="{instruction} The compound SELFIES sequence is: {input}",
    graph_rule="whole",
    answer="molecule",
    record_input="{molecule}",
    record_output="{edited}",
    instructions=(
        "Modify this molecule at one place and give the result.",
        "Change a functional group of the compound shown.",
        "Suggest a close analogue of this molecule.",
        "Edit the structure with as few changes as possible.",
        "Replace one substituent of the following compound.",
        "Write a derivative of the molecule given.",
        "Make a small structural change to this compound.",
        "What does this molecule become after a single modification?",
        "Vary the compound while keeping its scaffold.",
    ),
)
