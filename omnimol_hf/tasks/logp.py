"""LogP (Appendix J.11): molecule -> decadic logarithm of the octanol-water partition coefficient, without a unit."""

from omnimol_hf.tasks.base import Task

LOGP = Task(
    name="logp",
    category="regression",
    prompt="{instruction} The molecule SELFIES sequence is: {input}",
    graph_rule="whole",
    answer="number",
    record_input="{molecule}",
    record_output="{value}",
    answer_format="The LogP for the input molecule is {:.2f}.",
    instructions=(
        "What is the LogP of this molecule?",
        "Estimate the octanol-water partition coefficient (LogP) of the compound.",
        "How lipophilic is this molecule? Answer with its LogP.",
        "Predict LogP for the structure given.",
        "Give the logarithm of the octanol-water partition coefficient of this compound.",
        "Judge how the molecule divides between octanol and water, as a LogP value.",
        "State the LogP value of the following molecule.",
        "I need an estimate of this compound's LogP.",
        "Report the LogP that belongs to this structure.",
    ),
)
