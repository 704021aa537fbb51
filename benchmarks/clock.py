"""Seconds that other processes on the machine do not count in, where that can be had."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def clock_name(device: str) -> str:
    """What `seconds` counts on a device: said beside each result."""
    if device != "cpu":
        return "wall time, device synchronised"
    return "CPU time of the process" if torch.get_num_threads() == 1 else "wall time"


def seconds(work: Callable[[], Any], device: str) -> float:
    """How long a piece of work takes.

    One thread's work is measured in CPU time: on a shared core wall time would count what others do. Several threads
    wait for one another, which only the wall shows.
    """
    now = time.process_time if clock_name(device).startswith("CPU") else time.perf_counter
    _wait(device)
    start = now()
    work()
    _wait(device)
    return now() - start


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
