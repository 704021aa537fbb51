"""Name to structure, an extra task of the paper's later version: IUPAC name -> SELFIES. There is no graph."""

from omnimol_hf.tasks.base import Task

IUPAC_TO_SELFIES = Task(
    name="iupac_to_selfies",
    category="generation",
    prompt="{instruction} The IUPAC name is: {input}",
    graph_rule="none",
    answer="molecule",
    record_input="{text}",
    record_output="{molecule}",
    instructions=(
        "Which structure does this IUPAC name stand for?",
        "Translate the systematic name into SELFIES.",
        "Write the molecule that carries the following name.",
        "Turn a compound's name into its structure.",
        "Derive the structure from the name by the rules of nomenclature.",
        "Spell out in SELFIES the compound that is named here.",
        "A chemist wrote down a name only. Reconstruct the molecule.",
        "Resolve the IUPAC name to a structure.",
        "Give the SELFIES that belong to the name.",
    ),
)
