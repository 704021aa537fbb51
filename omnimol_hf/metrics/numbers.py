"""Scores of numeric answers: MAE, R2 and the share of answers that hold a number at all.

`strict` reads signs, exponents (`1.2e-3`, `1.2 x 10^-3`), thousands separators and percent signs, passes over words
and units without converting them, and counts every row: in place of an answer without a number stands the constant
answer (the training median, when the caller gives it, else the median of the references), so that staying silent
never beats knowing nothing. `paper` reads as the authors' code does, minus signs lost included, and leaves out what
it cannot read; control tokens are removed first, or their code could read no yield and no orbital energy at all.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from omnimol_hf.metrics.bootstrap import Metric, mean_metric
from omnimol_hf.metrics.text import without_control_tokens

LARGEST = 1e9  # no task comes near; beyond it a single answer would decide the mean of all rows
# A sign that joins words (`LogP-1.2`) is a hyphen, and digits inside a word (`C2H6`) are no number.
_NUMBER = re.compile(
    r"""((?:(?<!\w)[-+])?(?<![\w.])(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+\.?\d*|\.\d+))  # sign and digits
    (?:[eE]([-+]?\d+)|\s*(?:[x×*·]|\\times)\s*10(?:\^|\*\*)[{(]?([-+]?\d+)[)}]?)?  # exponent
    (\s*%)?""",
    re.ASCII | re.VERBOSE,
)
_SUPERSCRIPT = re.compile("10([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_PLAIN = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "+-0123456789-")
_UNSIGNED = re.compile(r"\d+(?:\.\d+)?")
_SIGNED = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def read_number(text: str) -> float:
    """The first number of an answer: `The LogP for the input molecule is -1.20.` -> -1.2, `85 %` -> 0.85.

    Raises:
        ValueError: If the text holds no number, or one beyond `LARGEST`.
    """
    text = without_control_tokens(text)
    if not text:
        raise ValueError("empty")
    text = _SUPERSCRIPT.sub(lambda power: "10^" + power[1].translate(_PLAIN), text).replace("−", "-")
    match = _NUMBER.search(text)
    if match is None:
        raise ValueError("no number")
    digits, exponent, power_of_ten, percent = match.groups()
    value = float(f"{digits.replace(',', '')}e{exponent or power_of_ten or 0}") / (100 if percent else 1)
    if abs(value) > LARGEST:
        raise ValueError("out of range")
    return value


def _first(pattern: re.Pattern) -> Callable[[str], float]:
    def read(text: str) -> float:
        match = pattern.search(text)
        if match is None:
            raise ValueError("no number")
        return float(match[0])

    return read


# Facts about the authors' evaluation, by task; all others go through the pattern without a sign.
_PAPER_READERS = {"homo_lumo": float, "yield_regression": float, "scf_energy": _first(_SIGNED)}
_PAPER_DEFAULT = _first(_UNSIGNED)


def _read_all(texts: Sequence[str], read: Callable[[str], float]) -> tuple[np.ndarray, list[str | None]]:
    """Values, NaN where unreadable, and there the reason."""
    values, reasons = np.full(len(texts), np.nan), [None] * len(texts)
    for row, text in enumerate(texts):
        try:
            value = read(text)
        except ValueError as error:
            reasons[row] = str(error) if read is read_number else "no number"
            continue
        if np.isfinite(value):
            values[row] = value
        else:  # float("nan") and float("inf") are numbers to Python
            reasons[row] = "no number"
    return values, reasons


def _r2(sums: np.ndarray) -> np.ndarray:
    """1 - sum(e^2) / sum((y - mean y)^2) from the sums of 1, y, y^2, e^2: `(..., 4) -> (...)`."""
    count, total, squares, errors = np.moveaxis(sums, -1, 0)
    spread = squares - total**2 / count
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 1e-12 * squares, 1.0 - errors / spread, np.nan)


def _error_metrics(
    answers: np.ndarray, truths: np.ndarray, counts: np.ndarray, misses: Mapping[str, int], suffix: str = ""
) -> dict[str, Metric]:
    answers, truths = np.where(counts, answers, 0.0), np.where(counts, truths, 0.0)
    error = answers - truths
    shifted = truths - (truths[counts].mean() if counts.any() else 0.0)  # against cancellation in the sums
    with np.errstate(over="ignore"):  # `paper` has no bound
        squares = error**2
    sums = np.where(counts[:, None], np.stack([np.ones_like(error), shifted, shifted**2, squares], axis=1), 0.0)
    return {
        f"mae{suffix}": mean_metric(np.abs(error), counts, misses),
        f"r2{suffix}": Metric(sums, _r2, n=int(counts.sum()), misses=misses),
    }


def _number_metrics(
    answers: np.ndarray,
    truths: np.ndarray,
    counts: np.ndarray,
    reasons: Sequence[str | None],
    subsets: Sequence[str] | None,
) -> dict[str, Metric]:
    misses = Counter(filter(None, reasons))
    metrics = _error_metrics(answers, truths, counts, misses)
    for name in sorted({name for name in subsets or () if name}):
        members = np.array([subset == name for subset in subsets])
        of_subset = Counter(reasons[row] for row in np.flatnonzero(members) if reasons[row])
        metrics |= _error_metrics(answers, truths, counts & members, of_subset, f"/{name}")
    readable = [reason is None for reason in reasons]
    return {**metrics, "valid_answer_rate": mean_metric(readable, misses=misses)}


def number_metrics(
    predictions: Sequence[str],
    references: Sequence[str],
    subsets: Sequence[str] | None = None,
    constant_answers: Sequence[str] | None = None,
) -> dict[str, Metric]:
    """`strict`: `mae`, `r2` and `valid_answer_rate`, plus `mae/NAME` and `r2/NAME` for each named subset.

    Args:
        constant_answers: What stands in for an unreadable answer, row by row (the training median).

    Raises:
        ValueError: If a reference holds no number.
    """
    truths, unreadable = _read_all(references, read_number)
    if any(unreadable):
        row = int(np.flatnonzero(np.isnan(truths))[0])
        raise ValueError(f"reference {row} holds no number: {references[row]!r}")
    answers, reasons = _read_all(predictions, read_number)
    constants = np.full(len(truths), np.nan)
    if constant_answers is not None:
        constants, _ = _read_all(constant_answers, read_number)
    constants = np.where(np.isnan(constants), np.median(truths), constants)
    answers = np.where(np.isnan(answers), constants, answers)
    return _number_metrics(answers, truths, np.ones(len(truths), dtype=bool), reasons, subsets)


def paper_number_metrics(
    task_name: str, predictions: Sequence[str], references: Sequence[str], subsets: Sequence[str] | None = None
) -> dict[str, Metric]:
    """`paper`: the same over the rows where the authors' pattern finds a number in answer and reference."""
    read = _PAPER_READERS.get(task_name, _PAPER_DEFAULT)
    answers, reasons = _read_all([without_control_tokens(text) for text in predictions], read)
    truths, _ = _read_all(references, read)
    return _number_metrics(answers, truths, np.isfinite(answers) & np.isfinite(truths), reasons, subsets)
