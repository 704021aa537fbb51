"""Measuring: product and baseline take turns in one process, and each ratio is one of neighbours in time."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


@dataclass
class Case:
    """One thing to compare.

    Args:
        name, unit: of the result; a rate, where more is better, or bytes, where less is.
        goal: what the ratio product / baseline should reach, or stay below where less is better.
        product, baseline: do the work once and return the value in `unit`.
        errors: how far the results differ, for example in `loss`; worked out before anything is timed.
        about: what was measured: rows, tokens, sizes.
        less_is_better: for bytes.
        size: of what was measured, where it is not the size that was asked for.
        warm: whether a first round is counted, because working out the errors did the same work before.
    """

    name: str
    unit: str
    goal: float | None
    product: Callable[[], float]
    baseline: Callable[[], float]
    errors: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    less_is_better: bool = False
    warm: bool = False
    size: str | None = None


def rate(amount: float, work: Callable[[], Any]) -> Callable[[], float]:
    """`work` as a `Case` wants it: does it and returns `amount` a second."""

    def timed() -> float:
        _wait()
        start = time.perf_counter()
        work()
        _wait()
        return amount / (time.perf_counter() - start)

    return timed


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Run a case in alternating rounds, the two sides taking turns in going first; the first one does not count."""
    pairs = []
    for number in range(rounds + (not case.warm)):
        if number % 2:
            baseline = case.baseline()
            product = case.product()
        else:
            product = case.product()
            baseline = case.baseline()
        pairs.append((product, baseline))
    pairs = pairs[-rounds:]
    ratios = [product / baseline for product, baseline in pairs]
    return ({"size": case.size} if case.size else {}) | {
        "name": case.name,
        "unit": case.unit,
        "product": statistics.median(product for product, _ in pairs),
        "baseline": statistics.median(baseline for _, baseline in pairs),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rounds": rounds,
        "goal": case.goal,
        "less_is_better": case.less_is_better,
        "errors": case.errors,
        "about": case.about,
    }


def line(result: dict[str, Any]) -> str:
    """A result in one line."""
    sign = "<=" if result["less_is_better"] else ">="
    goal = "" if result["goal"] is None else f"  goal {sign} {result['goal']}"
    errors = ", ".join(
        f"{key} {value if isinstance(value, str) else format(value, '.2g')}" for key, value in result["errors"].items()
    )
    return (
        f"{result['name']:24s} {result['ratio_median']:8.2f} ({result['ratio_min']:.2f} to {result['ratio_max']:.2f}"
        f", {result['rounds']} rounds){goal}  product {result['product']:.4g}, baseline "
        f"{result['baseline']:.4g} {result['unit']}  [{errors}]"
    )


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpu = Path("/proc/cpuinfo")
    models = [row for row in cpu.read_text().splitlines() if row.startswith("model name")] if cpu.exists() else []
    return {
        "cpu": models[0].split(":")[1].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "rdkit", "selfies", "tokenizers")},
    }
