"""Yield regression (Appendix J.9): `reactants>>product` -> yield as a fraction between 0 and 1.

The left side holds everything in the well: for the two high-throughput sets (subsets `B-H`, Buchwald-Hartwig, and
`S-M`, Suzuki-Miyaura) that includes ligand, base and additive. R2 is reported for each subset.
"""

from omnimol_hf.tasks.base import Task

YIELD_REGRESSION = Task(
    name="yield_regression",
    category="regression",
    prompt="{instruction} The reaction is {input}.",
    graph_rule="reactants",
    answer="number",
    record_input="{reactants}>>{product}",
    record_output="{value}",
    unit="fraction of the theoretical yield, 0 to 1",
    answer_format="{:.4f}",
    instructions=(
        "Estimate the yield of this reaction as a fraction of one.",
        "What fraction of the theoretical yield does this reaction give?",
        "Predict how well this reaction works, as a yield between 0 and 1.",
        "How much product, relative to the maximum, should be expected here?",
        "Give the yield ratio of the reaction shown.",
        "Under these conditions, what yield would be measured? Answer between 0 and 1.",
        "Assess the efficiency of this coupling by its yield, from 0 to 1.",
        "Put a number between 0 and 1 on the yield of the following reaction.",
        "Report the expected yield of this experiment as a ratio.",
    ),
)
