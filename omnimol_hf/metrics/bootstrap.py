"""Metrics as sums over rows, so that values, shares of misses and bootstrap intervals come from one matrix product."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95
_BLOCK = 4_000_000  # drawn row numbers held at a time


@dataclass(frozen=True)
class Metric:
    """A metric of n rows.

    Attributes:
        sums: What each row adds, shape `(n_rows, k)`; a row that the protocol leaves out adds zeros.
        combine: The value from the added-up rows, `(..., k) -> (...)`; it may return NaN where nothing is defined.
        n: Rows that count.
        misses: Reason -> rows whose answer could not be used (counted as misses, or left out: the protocol says).
        variant: How the metric was computed, where its name leaves that open.
    """

    sums: np.ndarray
    combine: Callable[[np.ndarray], np.ndarray]
    n: int
    misses: Mapping[str, int] = field(default_factory=dict)
    variant: str | None = None


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def mean_metric(
    values: Sequence[float], counts: np.ndarray | None = None, misses: Mapping[str, int] | None = None, **kwargs: str
) -> Metric:
    """The mean of one value a row, over the rows where `counts` (bool, default all) is true."""
    counts = np.ones(len(values), dtype=bool) if counts is None else counts
    sums = np.stack([np.where(counts, np.asarray(values, dtype=float), 0.0), counts], axis=1)
    return Metric(sums, _ratio, n=int(counts.sum()), misses=misses or {}, **kwargs)


def _resampled_sums(sums: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Column sums of `resamples` draws of n rows with replacement: `(n, k) -> (resamples, k)`."""
    n = len(sums)
    rng = np.random.default_rng(seed)
    blocks, block = [], max(1, _BLOCK // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        times_drawn = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        blocks.append(times_drawn @ sums)
    return np.concatenate(blocks)


def _number_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def values(metrics: Mapping[str, Metric]) -> dict[str, float | None]:
    """`{name: value}`, None where a value is not defined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: _number_or_none(metric.combine(metric.sums.sum(axis=0))) for name, metric in metrics.items()}


def summarise(
    metrics: Mapping[str, Metric],
    baseline: Mapping[str, Metric] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict]:
    """`{name: {"value", "baseline", "low", "high", "n", "misses"[, "variant"]}}` with percentile bootstrap intervals.

    All metrics share the same draws of rows. A value that is not defined (R2 of equal references, a mean over no rows)
    is None, and so are the limits of an interval that too few rows support.
    """
    names = list(metrics)
    drawn = _resampled_sums(np.concatenate([metrics[name].sums for name in names], axis=1), resamples, seed)
    columns = np.cumsum([0] + [metrics[name].sums.shape[1] for name in names])
    tails = 50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)
    measured, others = values(metrics), values(baseline or {})
    result = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, start, end in zip(names, columns[:-1], columns[1:], strict=True):
            metric = metrics[name]
            resampled = metric.combine(drawn[:, start:end])
            resampled = resampled[np.isfinite(resampled)]
            enough = metric.n > 1 and len(resampled) >= CONFIDENCE * resamples
            low, high = np.percentile(resampled, tails) if enough else (np.nan, np.nan)
            result[name] = {
                "value": measured[name],
                "baseline": others.get(name),
                "low": _number_or_none(low),
                "high": _number_or_none(high),
                "n": metric.n,
                "misses": dict(metric.misses),
            }
            if metric.variant:
                result[name]["variant"] = metric.variant
    return result
