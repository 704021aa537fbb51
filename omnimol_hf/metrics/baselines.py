"""The answer that knows nothing of the molecule, which every score is printed beside."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from statistics import median

from omnimol_hf.metrics.numbers import read_number
from omnimol_hf.tasks import Task


def baseline_name(task: Task) -> str:
    """What `baseline_predictions` answers with, in words."""
    return "training median" if task.answer == "number" else "most frequent training answer"


def baseline_predictions(
    task: Task, train_rows: Iterable[Mapping[str, str]], test_rows: Iterable[Mapping[str, str]]
) -> list[str]:
    """One constant answer for each test row: the median of the training numbers, or the commonest training answer.

    Numbers with a `subset` (HOMO, LUMO, gap; B-H, S-M) take the median of their subset.

    Raises:
        ValueError: If there is no training row, or a training number cannot be read.
    """

    def group(row: Mapping[str, str]) -> str:
        return row.get("subset", "") if task.answer == "number" else ""

    answers = defaultdict(list)
    for row in train_rows:
        answers[group(row)].append(row["output"])
    if not answers:
        raise ValueError(f"{task.name}: a baseline needs training rows, and there are none.")

    def constant(outputs: list[str]) -> str:
        if task.answer != "number":
            return Counter(outputs).most_common(1)[0][0]
        try:
            return task.answer_text(median(map(read_number, outputs)))
        except ValueError as error:
            raise ValueError(f"{task.name}: a training answer is not a number ({error}).") from error

    constants = {subset: constant(outputs) for subset, outputs in answers.items()}
    overall = constant([output for outputs in answers.values() for output in outputs])
    return [constants.get(group(row), overall) for row in test_rows]
