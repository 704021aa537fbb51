"""Scores under two protocols, always both.

`strict`: every row counts, an unreadable answer is a miss, stereochemistry counts, the empty molecule is invalid.
`paper`: what the authors' code computes, so that its numbers can be compared with the paper's.

The folders `*_metrics` hold the same scores as modules of the library `evaluate`.
"""

from omnimol_hf.metrics.baselines import baseline_answers, baseline_name, baseline_names, baseline_predictions
from omnimol_hf.metrics.numbers import read_number
from omnimol_hf.metrics.protocols import (
    LOWER_IS_BETTER,
    PROTOCOLS,
    protocol_differences,
    score_baselines,
    score_task,
)

__all__ = [
    "LOWER_IS_BETTER",
    "PROTOCOLS",
    "baseline_answers",
    "baseline_name",
    "baseline_names",
    "baseline_predictions",
    "protocol_differences",
    "read_number",
    "score_baselines",
    "score_task",
]
