"""`text_metrics` for the library `evaluate`: a thin cover over `omnimol_hf.metrics.text`."""

from typing import Any

import datasets
import evaluate

from omnimol_hf.metrics.modules import CITATION, INPUTS, RETURNS, check_protocol, result, tokenizer_pieces
from omnimol_hf.metrics.text import paper_text_metrics, text_metrics

_DESCRIPTION = """\
Scores of captions and answers in prose: corpus BLEU-2 and BLEU-4, ROUGE-1, ROUGE-2 and ROUGE-L, METEOR.
"""
_OPTIONS = """\
    tokenizer: str, name or folder of the model's tokenizer, on whose pieces "paper" computes BLEU and METEOR. Without
        it "paper" has ROUGE alone.
"""


class TextMetrics(evaluate.Metric):
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
            return result(text_metrics(predictions, references))
        return result(
            paper_text_metrics(predictions, references, tokenizer_pieces(tokenizer), tokenizer_name=tokenizer or "")
        )
