"""Scores of action sequences, as ReactXT defines them: validity, accuracy@T and text overlap.

An action sequence is `ADD $1$ (57.2 g) ; STIR for 2 h ; YIELD $-1$`: actions separated by semicolons, each opening
with a verb in capitals, components written by their names `$k$`.
"""

import re
from collections import Counter
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from omnimol_hf.metrics.bootstrap import Metric, mean_metric
from omnimol_hf.metrics.text import (
    MODEL_TOKENIZER,
    Tokenize,
    paper_text_metrics,
    text_metrics,
    without_control_tokens,
)

_VERBS = """
    ADD CENTRIFUGE COLLECTLAYER CONCENTRATE DEGAS DISTILL DRYSOLID DRYSOLUTION EXTRACT FILTER MAKESOLUTION MICROWAVE
    PARTITION PH PHASESEPARATION PURIFY QUENCH RECRYSTALLIZE REFLUX SETTEMPERATURE SONICATE STIR TRITURATE WAIT WASH
    YIELD
"""
ACTIONS = frozenset(_VERBS.split())
ACCURACIES = (100, 90, 75, 50)
_COMPONENT = re.compile(r"\$(-?\d+)\$")


def _highest_component(procedure: str) -> int:
    return max((int(k) for k in _COMPONENT.findall(procedure)), default=0)


def why_invalid(procedure: str, reference: str) -> str | None:
    """None for a valid procedure: all actions known, and no component number above the reference's highest."""
    steps = [step.split() for step in procedure.split(";")]
    if not any(steps):
        return "empty"
    if any(not step or step[0] not in ACTIONS for step in steps):
        return "unknown action"
    if _highest_component(procedure) > _highest_component(reference):
        return "unknown component"
    return None


def procedure_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Metric]:
    """`strict`: `validity`, `accuracy@T` (share of rows whose normalised edit similarity reaches T %), BLEU and ROUGE.

    Tokens are words split at white space, so that `$1$` is one. An invalid procedure still counts in the other scores.
    """
    predictions = [without_control_tokens(text) for text in predictions]
    pairs = list(zip(predictions, references, strict=True))
    reasons = [why_invalid(answer, reference) for answer, reference in pairs]
    misses = Counter(filter(None, reasons))
    similarity = [Levenshtein.normalized_similarity(answer, reference.strip()) for answer, reference in pairs]
    metrics = {"validity": mean_metric([reason is None for reason in reasons], misses=misses)}
    for percent in ACCURACIES:
        metrics[f"accuracy@{percent}"] = mean_metric([value >= percent / 100 for value in similarity])
    return metrics | text_metrics(predictions, references, words=str.split, meteor=False)


def paper_procedure_metrics(
    predictions: Sequence[str],
    references: Sequence[str],
    tokenize: Tokenize | None,
    tokenizer_name: str = MODEL_TOKENIZER,
) -> dict[str, Metric]:
    """`paper`: text overlap, and a validity that is always 0: the authors' parser fails on every answer.

    Their accuracies compare lists of different depth and have no meaning, so none is given.
    """
    never = mean_metric([0.0] * len(predictions), misses={"parser always fails": len(predictions)})
    overlap = paper_text_metrics(predictions, references, tokenize, meteor=False, tokenizer_name=tokenizer_name)
    return {"validity": never, **overlap}
