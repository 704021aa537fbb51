"""Linear maps whose fp32 products on a CPU run on oneDNN's kernels.

PyTorch gives fp32 products to MKL, which leaves half of a CPU's vector width unused where it does not know the CPU
(AMD's with AVX-512: 100 against 230 GFLOP/s a core). oneDNN writes its kernels for the instructions that it finds. On
Intel's CPUs MKL is the faster one. Only the order of summation differs. On other devices, and in other dtypes,
everything is PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Multiplications below which starting oneDNN takes longer than it saves; for few rows it rearranges all weights.
_SMALL, _SMALL_FOR_FEW_ROWS, _FEW_ROWS = 1 << 21, 1 << 23, 64
# In training, products with low-rank matrices are no faster with oneDNN, and its buffers, among the activations that
# are kept, break up the heap: peak memory was a tenth higher.
_LOW_RANK = 64
_MKL_FALLS_SHORT = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and "Intel" not in torch.cpu.get_capabilities().get("cpu_name", "")
)


def linear(x: Tensor, weight: Tensor, base: Tensor | None = None) -> Tensor:
    """x W^T, plus `base`.

    Args:
        x: `(..., in_features)`.
        weight: `(out_features, in_features)`.
        base: `(..., out_features)`, to which the product is added; None: nothing.
    """
    if _suits_onednn(x, weight) and (base is None or base.dtype == torch.float32):
        if not torch.is_grad_enabled():
            product = _product(x.contiguous(), weight.contiguous())
            return product if base is None else product.add_(base)
        if min(weight.shape) > _LOW_RANK:
            return _OneDNNLinear.apply(x, weight, base)
    product = F.linear(x, weight)
    return product if base is None else base + product


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _MKL_FALLS_SHORT
        and x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and _is_large(x.numel() // x.shape[-1], *weight.shape)
        and not torch.compiler.is_compiling()  # which chooses its kernels itself
        and not torch.is_autocast_enabled("cpu")
    )


def _is_large(rows: int, outer: int, inner: int) -> bool:
    return rows * outer * inner >= (_SMALL if rows >= _FEW_ROWS else _SMALL_FOR_FEW_ROWS)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T. `weight` has to be contiguous or the transpose of what is: other strides have no fast kernel."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, base: Tensor | None) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        needs_x, needs_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        product = _product(x, weight)
        return product if base is None else product.add_(base)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        x_grad = None if weight is None else _product(grad, weight.t())
        weight_grad = None if x is None else _transposed_product(grad.flatten(0, -2), x.flatten(0, -2))
        return x_grad, weight_grad, grad if ctx.needs_input_grad[2] else None


def _transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b. The first factor of `_product` is copied as it is transposed, so that is the smaller one."""
    if a.shape[1] <= b.shape[1]:
        return _product(a.t(), b.contiguous().t())
    return _product(b.t(), a.contiguous().t()).t()


class OmniMolLinear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Map `(..., in_features)` to `(..., out_features)`."""
        output = linear(input, self.weight)
        return output if self.bias is None else output + self.bias


def use_fast_linear(module: nn.Module) -> None:
    """Let all plain linear layers of a module be `OmniMolLinear`s; their parameters stay as they are."""
    for child in module.modules():
        if type(child) is nn.Linear:
            child.__class__ = OmniMolLinear


def as_one_map(*layers: nn.Module) -> Callable[[Tensor], Tensor]:
    """Linear layers of the same input as one function, without gradients, that gives their outputs side by side.

    Their weights are taken as they are now. Layers that are more than linear maps, such as those that carry adapters,
    are called one by one.
    """
    if not all(type(layer) is OmniMolLinear and layer.bias is None for layer in layers):
        return layers[0] if len(layers) == 1 else lambda x: torch.cat([layer(x) for layer in layers], dim=-1)
    weights = [layer.weight for layer in layers]
    return partial(linear, weight=weights[0] if len(weights) == 1 else torch.cat(weights))


__all__ = ["OmniMolLinear", "as_one_map", "linear", "use_fast_linear"]
