"""Molecular captioning (Appendix J.5): molecule -> a description in prose."""

from omnimol_hf.tasks.base import Task

MOLECULAR_CAPTIONING = Task(
    name="molecular_captioning",
    category="description",
    # The authors' data lack the word SELFIES here, which the paper prints (J.5) and other tasks have: data decide.
    prompt="{instruction} The compound sequence is: {input}",
    graph_rule="whole",
    answer="text",
    record_input="{molecule}",
    record_output="{text}",
    instructions=(
        "Describe this molecule.",
        "Write a short description of the compound.",
        "What can you say about the structure and role of this molecule?",
        "Tell me what kind of compound this is.",
        "Summarise the main features of the molecule shown.",
        "Give an overview of this compound.",
        "Explain to a chemist what this molecule is.",
        "Characterise the following compound in a few sentences.",
        "How would a database entry describe this molecule?",
        "Put this structure into words.",
    ),
)
