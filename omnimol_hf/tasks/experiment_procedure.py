"""Experimental procedure prediction (Appendix J.16): components by role -> action sequence.

The input maps names to molecules, role by role, e.g.
`Reactants:$1$: [START_SELFIES][C][C][O][END_SELFIES] Product:$-1$: [START_SELFIES]...[END_SELFIES] Solvents:...`;
the answer uses those names: `ADD $1$ (57.2 g) ; STIR ; YIELD $-1$ (20.8 g)`.
"""

from omnimol_hf.tasks.base import Task

EXPERIMENT_PROCEDURE = Task(
    name="experiment_procedure",
    category="action",
    prompt="{instruction}{input}. The Action Sequence: ",  # no space before the input, one after the colon
    graph_rule="placeholders",
    answer="procedure",
    record_input="{components}",
    record_output="{text}",
    instructions=(
        "Write the experimental procedure that leads from these components to the product.",
        "Turn the listed components into a sequence of laboratory actions.",
        "How is this reaction carried out in the laboratory? Give the actions in order.",
        "Plan the experiment step by step, from the first addition to the isolated product.",
        "List the operations a chemist would perform with these components.",
        "Work out a protocol for this synthesis.",
        "Describe the work at the bench as a series of actions.",
        "Given the components and their roles, produce the action sequence.",
        "Compose a procedure that a synthesis robot could follow.",
    ),
)
