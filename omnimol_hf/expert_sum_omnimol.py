"""The low-rank experts' weighted sum as one function with a backward pass of its own.

Most of what experts cost besides matrix products is reading and writing tensors of `tokens * intermediate` values.
Here each expert takes its tokens a block at a time, small enough that all that is worked out of it stays in a core's
cache, and all experts add to the same sums and gradients. A GPU takes all tokens of an expert at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CACHED_VALUES, _FEWEST_ROWS = 1 << 17, 64  # values of a block a core; with fewer rows its products get slow
Rows = Tensor | slice


@dataclass
class Routes:
    """Which tokens go to which expert.

    Attributes:
        order: `(choices,)`, the numbers of all (token, choice) pairs, sorted by expert.
        blocks: of each block its expert, its part of `order`, and its tokens.
    """

    order: Tensor
    blocks: list[tuple[int, slice, Rows]]

    @classmethod
    def of(cls, chosen: Tensor, num_experts: int, block: int) -> Routes:
        """Routes of `chosen` `(tokens, k)`, in blocks of so many tokens. One transfer to the host."""
        tokens, k = chosen.shape
        order = chosen.flatten().argsort(stable=True)
        ends = accumulate(chosen.flatten().bincount(minlength=num_experts).tolist(), initial=0)
        owners, blocks = order // k, []
        for expert, (first, end) in enumerate(pairwise(ends)):
            for start in range(first, end, block):
                part = slice(start, min(start + block, end))
                # All tokens, as the anchor has them, are in order: sorting is stable.
                everything = end - first == tokens
                rows = slice(part.start - first, part.stop - first) if everything else owners[part]
                blocks.append((expert, part, rows))
        return cls(order, blocks)


def block_rows(gate: Tensor) -> int:
    """How many tokens of `(tokens, intermediate)` a block should have."""
    if not gate.is_cpu:
        return max(len(gate), 1)
    return max(_CACHED_VALUES * torch.get_num_threads() // gate.shape[-1], _FEWEST_ROWS)


def _take(tensor: Tensor, rows: Rows) -> Tensor:
    return tensor[rows] if isinstance(rows, slice) else tensor.index_select(0, rows)


def _add(total: Tensor, rows: Rows, values: Tensor) -> None:
    if isinstance(rows, slice):
        total[rows] += values
    else:
        total.index_add_(0, rows, values)


def expert_sum(
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    weights: Tensor,
    chosen: Tensor,
    keep: Tensor | None,
    act_fn: Callable[[Tensor], Tensor],
    matrices: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """The weighted sum of low-rank experts.

    Of expert e and a token x with weight w: g = gate + B_gate A_gate x, u = up + B_up A_up x, a = w act(g) u.

    Args:
        x: `(tokens, hidden)`, after dropout.
        gate, up: the shared projections, `(tokens, intermediate)`.
        weights, chosen: `(tokens, choices)`, the weight and the index of each token's experts.
        keep: `(tokens, intermediate)`, what dropout multiplies; None: nothing is dropped.
        act_fn: works element by element.
        matrices: of all experts, in `gate`'s dtype as `x` is: A of gate and of up `(E, 2 r, hidden)`, B of gate and B
            of up, both `(E, intermediate, r)`, A of down `(E, r, intermediate)` and B of down `(E, hidden, r)`.

    Returns:
        The sum of a over each token's experts `(tokens, intermediate)`, and that of B_down A_down (keep a)
        `(tokens, hidden)`.
    """
    routes = Routes.of(chosen, len(matrices[0]), block_rows(gate))
    weight = weights.flatten()[routes.order].unsqueeze(-1)
    return _ExpertSum.apply(routes, act_fn, torch.is_grad_enabled(), x, gate, up, weight, keep, *matrices)


class _ExpertSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        routes: Routes,
        act_fn: Callable[[Tensor], Tensor],
        training: bool,
        x: Tensor,
        gate: Tensor,
        up: Tensor,
        weight: Tensor,
        keep: Tensor | None,
        first: Tensor,
        gate_b: Tensor,
        up_b: Tensor,
        down_a: Tensor,
        down_b: Tensor,
    ) -> tuple[Tensor, Tensor]:
        activation, low_rank = torch.zeros_like(gate), torch.zeros_like(x)
        rank = down_a.shape[1]
        longest = max((part.stop - part.start for _, part, _ in routes.blocks), default=0)
        # All that the backward pass needs is kept; without one, a block's is written over the one before.
        rows_kept = len(weight) if training else longest
        widths = (2 * rank, gate.shape[1], gate.shape[1], rank)
        lows, gates, ups, low_downs = arrays = [gate.new_empty(rows_kept, width) for width in widths]
        for expert, part, rows in routes.blocks:
            place = part if training else slice(part.stop - part.start)
            low = torch.mm(_take(x, rows), first[expert].t(), out=lows[place])
            g = torch.addmm(_take(gate, rows), low[:, :rank], gate_b[expert].t(), out=gates[place])
            u = torch.addmm(_take(up, rows), low[:, rank:], up_b[expert].t(), out=ups[place])
            a = (act_fn(g) * u).mul_(weight[part])
            _add(activation, rows, a)
            kept = a if keep is None else a.mul_(_take(keep, rows))
            low_down = torch.mm(kept, down_a[expert].t(), out=low_downs[place])
            _add(low_rank, rows, low_down @ down_b[expert].t())
        ctx.routes, ctx.act_fn = routes, act_fn
        ctx.save_for_backward(x, weight, keep, first, gate_b, up_b, down_a, down_b, *arrays)
        return activation, low_rank

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_activation: Tensor, grad_low_rank: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, keep, first, gate_b, up_b, down_a, down_b, lows, gates, ups, low_downs = ctx.saved_tensors
        rank, wide = down_a.shape[1], torch.promote_types(gates.dtype, weight.dtype)
        matrices = [torch.zeros_like(matrix) for matrix in (first, gate_b, up_b, down_a, down_b)]
        first_grad, gate_b_grad, up_b_grad, down_a_grad, down_b_grad = matrices
        x_grad, weight_grad = torch.zeros_like(x), torch.zeros_like(weight)
        gate_grad, up_grad = torch.zeros_like(grad_activation), torch.zeros_like(grad_activation)
        for expert, part, rows in ctx.routes.blocks:
            u, w, low_grad = ups[part], weight[part], _take(grad_low_rank, rows)
            kept = None if keep is None else _take(keep, rows)
            with torch.enable_grad():
                g = gates[part].detach().requires_grad_()
                activated = ctx.act_fn(g)
            product = activated.detach() * u
            down_b_grad[expert].addmm_(low_grad.t(), low_downs[part])
            low_grad = low_grad @ down_b[expert]
            down_a_grad[expert].addmm_((low_grad * w).to(x.dtype).t(), product if kept is None else product * kept)
            a_grad = low_grad @ down_a[expert]
            if kept is not None:
                a_grad *= kept
            a_grad += _take(grad_activation, rows)
            weight_grad[part] = (a_grad.to(wide) * product).sum(-1, keepdim=True)
            a_grad *= w
            u_grad = a_grad * activated.detach()
            (g_grad,) = torch.autograd.grad(activated, g, a_grad.mul_(u))
            _add(gate_grad, rows, g_grad)
            _add(up_grad, rows, u_grad)
            gate_b_grad[expert].addmm_(g_grad.t(), lows[part, :rank])
            up_b_grad[expert].addmm_(u_grad.t(), lows[part, rank:])
            low_grad = torch.cat([g_grad @ gate_b[expert], u_grad @ up_b[expert]], dim=1)
            first_grad[expert].addmm_(low_grad.t(), _take(x, rows))
            _add(x_grad, rows, low_grad @ first[expert])
        return None, None, None, x_grad, gate_grad, up_grad, weight_grad, None, *matrices


__all__ = ["Routes", "block_rows", "expert_sum"]
