"""Linear layers without gradients in fp32 on a CPU, by the faster of PyTorch's two libraries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SMALL = 1 << 20  # multiplications below which starting oneDNN takes longer than it saves


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    work = x.numel() * weight.shape[0]
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    if not plain or work < _SMALL or x.numel() == x.shape[-1]:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _FastLinear(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def fast_linear() -> Iterator[None]:
    """Let `torch.nn.functional.linear` use oneDNN inside, where it would use MKL and no gradients are recorded.

    MKL takes AVX2 on processors of other makers than its own; oneDNN takes AVX-512 wherever there is any, and is
    twice as fast there (225 instead of 105 GFLOP/s on one core of an AMD EPYC). Both add up in fp32.
    """
    if not torch.backends.mkldnn.is_available():
        yield
        return
    with _FastLinear():
        yield
