"""Alignment of graphs with text, stage 1 of training (Appendix C.2): a molecule's graph alone -> its description.

The row's input names the molecule, but the prompt leaves it out: only the graph tells the model what it is.
"""

from omnimol_hf.tasks.base import Task

ALIGNMENT = Task(
    name="alignment",
    category="description",
    prompt="{instruction}",
    graph_rule="whole",
    answer="text",
    record_input="{molecule}",
    record_output="{text}",
    instructions=(
        "What is shown in this molecular graph?",
        "Describe the compound that the graph represents.",
        "Tell me what you see in this structure.",
        "Say in words what molecule this is.",
        "What is known about the compound with this graph?",
        "Read the graph and describe its molecule.",
        "Give an account of the molecule you are looking at.",
        "Caption this molecular graph.",
        "Write down what this graph tells you about the compound.",
    ),
)
