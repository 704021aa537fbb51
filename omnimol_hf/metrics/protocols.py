"""One call for a task: its answers scored under both protocols, beside baselines, and how far the protocols differ."""

from collections.abc import Mapping, Sequence

from omnimol_hf.metrics import editing, molecules, numbers, procedures, text
from omnimol_hf.metrics.bootstrap import Metric, summarise, values
from omnimol_hf.metrics.text import Tokenize
from omnimol_hf.tasks import Task

PROTOCOLS = ("strict", "paper")
LOWER_IS_BETTER = frozenset({"mae", "levenshtein"})
_EDITING = "molecule_editing"


def _strict(
    task: Task,
    predictions: Sequence[str],
    references: Sequence[str],
    subsets: Sequence[str] | None,
    constant_answers: Sequence[str] | None,
) -> dict[str, Metric]:
    if task.answer == "molecule":
        extra = editing.editing_metrics(predictions, references) if task.name == _EDITING else {}
        return molecules.molecule_metrics(predictions, references) | extra
    if task.answer == "number":
        return numbers.number_metrics(predictions, references, subsets, constant_answers)
    if task.answer == "procedure":
        return procedures.procedure_metrics(predictions, references)
    return text.text_metrics(predictions, references)


def _paper(
    task: Task,
    predictions: Sequence[str],
    references: Sequence[str],
    subsets: Sequence[str] | None,
    tokenize: Tokenize | None,
    tokenizer_name: str,
) -> dict[str, Metric]:
    if task.answer == "molecule":
        extra = editing.paper_editing_metrics(predictions, references) if task.name == _EDITING else {}
        return molecules.paper_molecule_metrics(predictions, references) | extra
    if task.answer == "number":
        return numbers.paper_number_metrics(task.name, predictions, references, subsets)
    if task.answer == "procedure":
        return procedures.paper_procedure_metrics(predictions, references, tokenize, tokenizer_name)
    return text.paper_text_metrics(predictions, references, tokenize, tokenizer_name=tokenizer_name)


def _check_lengths(task: Task, references: Sequence[str], **others: Sequence[str] | None) -> None:
    lengths = {name: len(rows) for name, rows in others.items() if rows is not None} | {"references": len(references)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{task.name}: the lists must be of equal length, got {lengths}.")
    if not references:
        raise ValueError(f"{task.name}: there are no rows to score.")


def score_task(
    task: Task,
    predictions: Sequence[str],
    references: Sequence[str],
    baseline_predictions: Sequence[str] | None = None,
    *,
    subsets: Sequence[str] | None = None,
    tokenize: Tokenize | None = None,
    tokenizer_name: str = text.MODEL_TOKENIZER,
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
        tokenizer_name: What `variant` calls that tokenizer.
        seed: Of the bootstrap (95 % intervals `low`, `high`).

    Raises:
        ValueError: If the lists differ in length or are empty, or a reference cannot be read.
    """
    _check_lengths(
        task, references, predictions=predictions, baseline_predictions=baseline_predictions, subsets=subsets
    )

    def both(answers: Sequence[str]) -> dict[str, dict[str, Metric]]:
        return {
            "strict": _strict(task, answers, references, subsets, baseline_predictions),
            "paper": _paper(task, answers, references, subsets, tokenize, tokenizer_name),
        }

    baselines = both(baseline_predictions) if baseline_predictions is not None else dict.fromkeys(PROTOCOLS)
    return {
        protocol: summarise(metrics, baselines[protocol], seed=seed) for protocol, metrics in both(predictions).items()
    }


def score_baselines(
    task: Task,
    answers: Mapping[str, Sequence[str]],
    references: Sequence[str],
    *,
    subsets: Sequence[str] | None = None,
    tokenize: Tokenize | None = None,
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Baseline name -> protocol -> metric -> value, by the code of `score_task` on the same rows.

    Args:
        answers: What `metrics.baseline_answers` returns, the trivial one first.
        references, subsets, tokenize: As in `score_task`.

    Raises:
        ValueError: As `score_task`.
    """
    trivial = next(iter(answers.values()))
    for name, one in answers.items():
        _check_lengths(task, references, **{name: one}, subsets=subsets)
    return {
        name: {
            "strict": values(_strict(task, one, references, subsets, trivial)),
            "paper": values(_paper(task, one, references, subsets, tokenize, "")),
        }
        for name, one in answers.items()
    }


def protocol_differences(
    results: Mapping[str, Mapping[str, Mapping[str, Mapping]]],
) -> dict[str, dict[str, dict[str, float | None]]]:
    """How far apart the two protocols are: task -> metric -> `strict`, `paper`, `difference` (`paper` - `strict`).

    Only metrics that both protocols have; a difference is None where one of the values is.

    Args:
        results: task -> protocol -> metric -> fields, as in `results.json`.
    """
    differences = {}
    for task, protocols in results.items():
        differences[task] = {}
        for metric, fields in protocols["strict"].items():
            if metric in protocols["paper"]:
                strict, paper = fields["value"], protocols["paper"][metric]["value"]
                difference = None if None in (strict, paper) else paper - strict
                differences[task][metric] = {"strict": strict, "paper": paper, "difference": difference}
    return differences
