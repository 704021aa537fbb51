"""One score in [0, 1] for every task and row: what data selection and average performance go by.

Molecules: Morgan Tanimoto similarity, 0 for an invalid answer. Numbers: exp(-|error| / s) with s the median absolute
deviation of the training labels, 0 for an answer without a number. Text: ROUGE-L. Procedures: 1 - normalised edit
distance. Each is 1 for the right answer.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from rapidfuzz.distance import Levenshtein
from rdkit import rdBase

from omnimol_hf.metrics.molecules import compare, read_molecule
from omnimol_hf.metrics.numbers import read_number
from omnimol_hf.metrics.text import rouge, without_control_tokens
from omnimol_hf.tasks import ALL_TASKS

Scales = Mapping[tuple[str, str], float]


def label_scales(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, str], float]:
    """The median absolute deviation of the training labels of each task that asks for numbers.

    Args:
        rows: Training rows, with `task`, `output` and `subset`.

    Returns:
        `(task, subset) -> deviation`, in the task's unit: HOMO, LUMO and gap have one each. `(task, "")` is that of
        all labels of the task where no row is without a subset.

    Raises:
        ValueError: If a label holds no number.
    """
    labels: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if ALL_TASKS[row["task"]].answer == "number":
            try:
                labels[row["task"], row["subset"]].append(read_number(row["output"]))
            except ValueError as error:
                raise ValueError(
                    f"{row['task']}: the training label {row['output']!r} is no number ({error})"
                ) from error
    for task in {task for task, _ in labels}:
        everything = [value for key, values in labels.items() if key[0] == task for value in values]
        labels.setdefault((task, ""), everything)
    return {key: float(np.median(np.abs(np.array(one) - np.median(one)))) for key, one in labels.items()}


def _molecule_score(answer: str, reference: str) -> float:
    with rdBase.BlockLogs():
        if read_molecule(reference) is None:
            return float("nan")
        return compare(answer, reference)[1] if read_molecule(without_control_tokens(answer)) else 0.0


def _number_score(answer: str, reference: str, scale: float) -> float:
    try:
        error = abs(read_number(answer) - read_number(reference))
    except ValueError:
        return 0.0
    return float(np.exp(-error / scale)) if scale > 0 else float(error == 0)


def normalised_score(row: Mapping[str, str], answer: str, scales: Scales) -> float:
    """rho of one answer, in [0, 1], 1 for the right one.

    Args:
        row: With `task`, `output` (the reference) and `subset`.
        scales: Those of the training rows, from `label_scales`.

    Returns:
        The score; NaN if the reference is not the molecule that it should be.
    """
    reference = row["output"].strip()
    kind = ALL_TASKS[row["task"]].answer
    if kind == "molecule":
        return _molecule_score(answer, reference)
    if kind == "number":
        scale = scales.get((row["task"], row["subset"]), scales[row["task"], ""])
        return _number_score(answer, reference, scale)
    answer = without_control_tokens(answer)
    if kind == "procedure":
        return Levenshtein.normalized_similarity(answer, reference)
    return rouge(answer, reference)[-1]
