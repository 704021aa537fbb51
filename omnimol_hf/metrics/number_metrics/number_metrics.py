"""`number_metrics` for the library `evaluate`: a thin cover over `omnimol_hf.metrics.numbers`."""

from typing import Any

import datasets
import evaluate

from omnimol_hf.metrics.modules import CITATION, INPUTS, RETURNS, check_protocol, result
from omnimol_hf.metrics.numbers import number_metrics, paper_number_metrics

_DESCRIPTION = """\
Scores of answers that state a number: mean absolute error, R2 and the share of answers that hold a number.
"""
_OPTIONS = """\
    task: str, the task's name: it decides how "paper" reads a number.
    subsets: list of str, one a row: each is also scored for itself (`mae/HOMO`).
    constant_answers: list of str, one a row: what "strict" puts in place of an answer without a number, e.g. the
        training median. Without it, the median of the references.
"""


class NumberMetrics(evaluate.Metric):
    """See `_DESCRIPTION`."""

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS + _OPTIONS + RETURNS,
            features=datasets.Features({"predictions": texts, "references": texts}),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        protocol: str = "strict",
        task: str = "",
        subsets: list[str] | None = None,
        constant_answers: list[str] | None = None,
    ) -> dict[str, Any]:
        check_protocol(protocol)
        if protocol == "strict":
            return result(number_metrics(predictions, references, subsets, constant_answers))
        return result(paper_number_metrics(task, predictions, references, subsets))
