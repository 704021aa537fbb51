"""`procedure_metrics` for the library `evaluate`: a thin cover over `omnimol_hf.metrics.procedures`."""

from typing import Any

import datasets
import evaluate

from omnimol_hf.metrics.modules import CITATION, INPUTS, RETURNS, check_protocol, result, tokenizer_pieces
from omnimol_hf.metrics.procedures import paper_procedure_metrics, procedure_metrics

_DESCRIPTION = """\
Scores of action sequences such as `ADD $1$ ; STIR for 2 h ; YIELD $-1$`: validity, accuracy@100, 90, 75 and 50 (share
of answers whose normalised edit similarity reaches that many percent), BLEU and ROUGE.
"""
_OPTIONS = """\
    tokenizer: str, name or folder of the model's tokenizer, on whose pieces "paper" computes BLEU. Without it
        "paper" has ROUGE alone.
"""


class ProcedureMetrics(evaluate.Metric):
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
        self, predictions: list[str], references: list[str], protocol: str = "strict", tokenizer: str | None = None
    ) -> dict[str, Any]:
        check_protocol(protocol)
        if protocol == "strict":
            return result(procedure_metrics(predictions, references))
        return result(paper_procedure_metrics(predictions, references, tokenizer_pieces(tokenizer), tokenizer or ""))
