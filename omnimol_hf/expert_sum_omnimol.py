"""The low-rank experts' weighted sum as one function with a backward pass of its own.

Most of what experts cost besides matrix products is reading and writing tensors of `tokens * intermediate` values.
Here all experts see a block of tokens before the next one comes, so that what is worked out of it stays in a CPU's
caches, and all of them add to the same sums and gradients. For a GPU all tokens are one block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK_VALUES, _FEWEST_TOKENS = 1 << 19, 256  # of a block, for each thread; products of fewer tokens get slow
Rows = Tensor | slice


@dataclass
class Routes:
    """Which tokens go to which expert.

    Attributes:
        order: `(choices,)`, the numbers of all (token, choice) pairs, sorted by block of tokens, then by expert.
        blocks: of each block and expert that has tokens in it: the expert, its part of `order`, and its tokens.
    """

    order: Tensor
    blocks: list[tuple[int, slice, Rows]]

    @classmethod
    def of(cls, chosen: Tensor, num_experts: int, block: int) -> Routes:
        """Routes of `chosen` `(tokens, k)`, at most `block` tokens at a time. One transfer to the host."""
        tokens, k = chosen.shape
        first_of_block = torch.arange(tokens, device=chosen.device).div(block, rounding_mode="floor") * num_experts
        place = (first_of_block.unsqueeze(-1) + chosen).flatten()
        order = place.argsort(stable=True)
        ends = accumulate(place.bincount(minlength=-(-tokens // block) * num_experts).tolist(), initial=0)
        owners, blocks = order // k, []
        for number, (begin, end) in enumerate(pairwise(ends)):
            if begin == end:
                continue
            start, expert = number // num_experts * block, number % num_experts
            # All tokens of a block, as the anchor has them, are in order: sorting is stable.
            everything = end - begin == min(block, tokens - start)
            rows = slice(start, start + block) if everything else owners[begin:end]
            blocks.append((expert, slice(begin, end), rows))
        return cls(order, blocks)


def block_tokens(gate: Tensor) -> int:
    """How many tokens of `(tokens, intermediate)` a block should have."""
    if not gate.is_cpu:
        return max(len(gate), 1)
    return max(_BLOCK_VALUES * torch.get_num_threads() // gate.shape[-1], _FEWEST_TOKENS)


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
    routes = Routes.of(chosen, len(matrices[0]), block_tokens(gate))
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
        rank, kept = down_a.shape[1], []
        for expert, part, rows in routes.blocks:
            low = _take(x, rows) @ first[expert].t()
            g = torch.addmm(_take(gate, rows), low[:, :rank], gate_b[expert].t())
            u = torch.addmm(_take(up, rows), low[:, rank:], up_b[expert].t())
            a = (act_fn(g) * u).mul_(weight[part])
            _add(activation, rows, a)
            low_down = (a if keep is None else a.mul_(_take(keep, rows))) @ down_a[expert].t()
            _add(low_rank, rows, low_down @ down_b[expert].t())
            if training:
                kept += [low, g, u, low_down]
        ctx.routes, ctx.act_fn = routes, act_fn
        ctx.save_for_backward(x, weight, keep, first, gate_b, up_b, down_a, down_b, *kept)
        return activation, low_rank

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_activation: Tensor, grad_low_rank: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, keep, first, gate_b, up_b, down_a, down_b, *of_blocks = ctx.saved_tensors
        rank, wide = down_a.shape[1], torch.promote_types(x.dtype, weight.dtype)
        matrices = [torch.zeros_like(matrix) for matrix in (first, gate_b, up_b, down_a, down_b)]
        first_grad, gate_b_grad, up_b_grad, down_a_grad, down_b_grad = matrices
        x_grad, weight_grad = torch.zeros_like(x), torch.zeros_like(weight)
        gate_grad, up_grad = torch.zeros_like(grad_activation), torch.zeros_like(grad_activation)
        of_each = zip(*(of_blocks[i::4] for i in range(4)), strict=True)
        for (expert, part, rows), (low, g, u, low_down) in zip(ctx.routes.blocks, of_each, strict=True):
            w, low_grad = weight[part], _take(grad_low_rank, rows)
            kept = None if keep is None else _take(keep, rows)
            with torch.enable_grad():
                g = g.detach().requires_grad_()
                activated = ctx.act_fn(g)
            product = activated.detach() * u
            down_b_grad[expert].addmm_(low_grad.t(), low_down)
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
            gate_b_grad[expert].addmm_(g_grad.t(), low[:, :rank])
            up_b_grad[expert].addmm_(u_grad.t(), low[:, rank:])
            low_grad = torch.cat([g_grad @ gate_b[expert], u_grad @ up_b[expert]], dim=1)
            first_grad[expert].addmm_(low_grad.t(), _take(x, rows))
            _add(x_grad, rows, low_grad @ first[expert])
        return None, None, None, x_grad, gate_grad, up_grad, weight_grad, None, *matrices


__all__ = ["Routes", "block_tokens", "expert_sum"]
