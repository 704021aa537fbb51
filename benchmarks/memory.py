"""Peak memory of a training step, measured in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from pathlib import Path
from typing import Any

import torch

from benchmarks.setting import (
    DROPOUT,
    Size,
    make_baseline,
    make_product,
    moved,
    new_optimizer,
    product_loss,
    train_step,
)
from omnimol_hf.processing_omnimol import OmniMolProcessor

_STEPS = 2  # the second has the optimizer's state from the start


def peak_bytes(side: str, processor: OmniMolProcessor, size: Size, batch: dict[str, Any], device: str) -> float:
    """Peak of weights, optimizer and activations over steps on a batch, for `"product"` or `"baseline"`.

    On a GPU it is torch's own count. On a CPU (Linux only) it is the resident memory of a fresh process, less what it
    had before there was a model.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, side, processor, size, batch, device, torch.get_num_threads())
    process = context.Process(target=_child, args=arguments)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        raise RuntimeError(f"the process that measures the memory of the {side} ended early") from error
    finally:
        process.join()


def _child(
    sender: Any, side: str, processor: OmniMolProcessor, size: Size, batch: dict[str, Any], device: str, threads: int
) -> None:
    torch.set_num_threads(threads)
    before = _status("VmRSS")
    model = make_product(processor, size, DROPOUT)
    if side == "baseline":
        model = make_baseline(model, DROPOUT)
    model.to(device)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    optimizer = new_optimizer(model, fused=side == "product")
    batch = moved(batch, device)
    for _ in range(_STEPS):
        loss = product_loss(model, batch) if side == "product" else model(**batch).loss
        train_step(model, loss, optimizer)
    sender.send(_status("VmHWM") - before if device == "cpu" else torch.cuda.max_memory_allocated())


def _status(name: str) -> int:
    """An entry of this process's memory, in bytes."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith(f"{name}:"))
