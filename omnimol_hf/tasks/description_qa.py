"""Description question answering (Appendix J.15): molecule and question -> answer in prose.

A row's instruction is its question. The wordings here serve rows that come with an answer but no question.
"""

from omnimol_hf.tasks.base import Task

DESCRIPTION_QA = Task(
    name="description_qa",
    category="description",
    prompt="{instruction} The compound SELFIES sequence is: {input}",
    graph_rule="first",
    answer="text",
    record_input="{molecule}",
    record_output="{text}",
    instructions=(
        "What class of compounds does this molecule belong to?",
        "Which functional groups does this molecule contain?",
        "What is this compound used for?",
        "Where does this compound come from?",
        "What biological role does this molecule play?",
        "From which parent compound is this molecule derived?",
        "What are the physical properties of this compound?",
        "What should be known about the safety of this compound?",
        "How does this molecule act on the body?",
    ),
)
