"""Scores under two protocols, always both.

`strict`: every row counts, an unreadable answer is a miss, stereochemistry counts, the empty molecule is invalid.
`paper`: what the authors' code computes, so that its numbers can be compared with the paper's.
"""

from collections.abc import Sequence

from omnimol_hf.metrics.baselines import baseline_name, baseline_predictions
from omnimol_hf.metrics.bootstrap import Metric, summarise
from omnimol_hf.metrics.molecules import molecule_metrics, paper_molecule_metrics
from omnimol_hf.metrics.numbers import number_metrics, paper_number_metrics, read_number
from omnimol_hf.metrics.procedures import paper_procedure_metrics, procedure_metrics
from omnimol_hf.metrics.text import Tokenize, paper_text_metrics, text_metrics
from omnimol_hf.tasks import Task

LOWER_IS_BETTER = frozenset({"mae", "levenshtein"})


def _strict(
    task: Task,
    predictions: Sequence[str],
    references: Sequence[str],
    subsets: Sequence[str] | None,
    constant_answers: Sequence[str] | None,
) -> dict[str, Metric]:
    if task.answer == "molecule":
        return molecule_metrics(predictions, references)
    if task.answer == "number":
        return number_metrics(predictions, references, subsets, constant_answers)
    if task.answer == "procedure":
        return procedure_metrics(predictions, references)
    return text_metrics(predictions, references)


def _paper(
    task: Task,
    predictions: Sequence[str],
    references: Sequence[str],
    subsets: Sequence[str] | None,
    tokenize: Tokenize | None,
) -> dict[str, Metric]:
    if task.answer == "molecule":
        return paper_molecule_metrics(predictions, references)
    if task.answer == "number":
        return paper_number_metrics(task.name, predictions, references, subsets)
    if task.answer == "procedure":
        return paper_procedure_metrics(predictions, references, tokenize)
    return paper_text_metrics(predictions, references, tokenize)


def score_task(
    task: Task,
    predictions: Sequence[str],
    references: Sequence[str],
    baseline_predictions: Sequence[str] | None = None,
    *,
    subsets: Sequence[str] | None = None,
    tokenize: Tokenize | None = None,
    seed: int = 0,
) -> dict[str, dict[str, dict]]:
    """`{"strict": {metric: {"value", "baseline", "low", "high", "n", "misses"}}, "paper": {...}}`.

    Args:
        predictions, references: Answers and the rows' `output`, in the same order.
        baseline_predictions: Answers of `metrics.baseline_predictions`, scored by the same code. For numbers they also
            stand in for unreadable answers in `strict`.
        subsets: The rows' `subset` column: numbers are then also scored for each of them (`mae/HOMO`, `r2/B-H`).
        tokenize: The model tokenizer's `tokenize`, on whose pieces `paper` computes BLEU and METEOR; without it those
            two are left out of `paper`.
        seed: Of the bootstrap (95 % intervals `low`, `high`).

    Raises:
        ValueError: If the lists differ in length or are empty, or a reference cannot be read.
    """
    lengths = {"predictions": len(predictions), "references": len(references)}
    if baseline_predictions is not None:
        lengths["baseline_predictions"] = len(baseline_predictions)
    if subsets is not None:
        lengths["subsets"] = len(subsets)
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{task.name}: the lists must be of equal length, got {lengths}.")
    if not references:
        raise ValueError(f"{task.name}: there are no rows to score.")

    def both(answers: Sequence[str]) -> dict[str, dict[str, Metric]]:
        return {
            "strict": _strict(task, answers, references, subsets, baseline_predictions),
            "paper": _paper(task, answers, references, subsets, tokenize),
        }

    baselines = both(baseline_predictions) if baseline_predictions is not None else {"strict": None, "paper": None}
    return {
        protocol: summarise(metrics, baselines[protocol], seed=seed) for protocol, metrics in both(predictions).items()
    }


__all__ = ["LOWER_IS_BETTER", "baseline_name", "baseline_predictions", "read_number", "score_task"]
