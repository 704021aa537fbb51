"""Retrosynthesis (Appendix J.3): product -> reactants joined by `.`, in one step."""

from omnimol_hf.tasks.base import Task

RETROSYNTHESIS = Task(
    name="retrosynthesis",
    category="reaction",
    prompt="{instruction} The product is: {input}",
    graph_rule="whole",
    answer="molecule",
    record_input="{product}",
    record_output="{reactants}",
    instructions=(
        "Suggest reactants from which this product can be made in one step.",
        "Which starting materials would you choose to prepare the product given here?",
        "Take the product apart and list the reactants it could come from.",
        "Propose a one-step synthesis of this product by naming its reactants.",
        "What reactants could have been combined to obtain this product?",
        "Plan one step backwards: give precursors of the target molecule.",
        "Name the molecules that must react for this product to form.",
        "Identify plausible precursors for the compound below.",
        "If this is what was isolated, what were the reactants?",
        "List suitable reactants for the synthesis of the target.",
    ),
)
