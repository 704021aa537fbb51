"""Text-guided generation, an extra task of the paper's later version: description -> SELFIES. There is no graph."""

from omnimol_hf.tasks.base import Task

TEXT_GUIDED_GENERATION = Task(
    name="text_guided_generation",
    category="generation",
    prompt="{instruction} The description is: {input}",
    graph_rule="none",
    answer="molecule",
    record_input="{text}",
    record_output="{molecule}",
    instructions=(
        "Design a molecule to which this description applies.",
        "Which compound is described here? Answer in SELFIES.",
        "Generate a structure that fits the text.",
        "Someone describes a molecule in words. Draw it as SELFIES.",
        "Find the molecule behind this description.",
        "Invent or recall a compound with the properties that the text lists.",
        "Write a molecule that satisfies everything said about it.",
        "Convert this prose into a chemical structure.",
        "Propose a structure that matches what is written.",
    ),
)
