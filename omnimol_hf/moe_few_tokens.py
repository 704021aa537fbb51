"""The experts on a few tokens at a time, as decoding has them: every expert on every token, without any sorting."""

from __future__ import annotations

import torch
from torch import Tensor

from omnimol_hf.linear_omnimol import as_one_map, linear
from omnimol_hf.moe_omnimol import AnchorReconcileMoE

_MOST_EXPERTS = 2  # experts for each one that a token goes to; with more of them, sorting costs less than it saves


class FewTokensMoE:
    """What an `AnchorReconcileMoE` does, for a few tokens and no gradients, on experts that are low-rank deltas.

    All experts see all tokens and the router's weights, 0 for those not chosen, come after. That is some more
    arithmetic and far fewer and larger steps, none of which waits for the host. gamma is multiplied into the matrices
    once: make one of these whenever weights may have changed.
    """

    def __init__(self, moe: AnchorReconcileMoE) -> None:
        self.moe, base, experts = moe, moe.base, moe.experts
        dtype = base.gate_proj.weight.dtype
        self.gate_proj, self.up_proj, self.down_proj = map(as_one_map, (base.gate_proj, base.up_proj, base.down_proj))
        gate, up, down = experts.gamma()[..., None, None]
        first = torch.cat([gate * experts.gate_A, up * experts.up_A])
        self.first = first.flatten(0, 1).to(dtype)
        self.middle = torch.cat([experts.gate_B, experts.up_B]).mT.contiguous().to(dtype)
        self.down_A = experts.down_A.to(dtype)
        self.last = (down * experts.down_B).permute(1, 0, 2).flatten(1).to(dtype)
        self.anchor_alone = experts.gate_A.new_zeros(experts.num_experts, dtype=torch.float32)
        self.anchor_alone[moe.num_routed :] = 1

    @staticmethod
    def suits(mlp: torch.nn.Module) -> bool:
        """Whether a feed-forward block can be run this way, and should be."""
        if not isinstance(mlp, AnchorReconcileMoE) or mlp.base is None:
            return False
        choices = mlp.router.top_k + mlp.anchor_expert
        return mlp.experts.num_experts <= _MOST_EXPERTS * choices

    def __call__(self, x: Tensor) -> Tensor:
        """Map `(tokens, hidden)` to the same shape."""
        experts = self.moe.experts
        _, weights, chosen = self.moe.router(x)
        share = self.anchor_alone.expand(len(x), -1).clone().scatter_(1, chosen, weights)
        if self.moe.preserve_at_init:
            share /= share.sum(-1, keepdim=True)
        share = share.to(x.dtype)
        # Gate and up of all experts in one go: (2 experts, tokens, intermediate).
        low = linear(x, self.first).view(len(x), -1, experts.rank).transpose(0, 1)
        shared = [projected.expand(experts.num_experts, -1, -1) for projected in (self.gate_proj(x), self.up_proj(x))]
        gate, up = torch.cat(shared).baddbmm_(low, self.middle).chunk(2)
        activation = experts.act_fn(gate)
        activation *= up
        activation *= share.T.unsqueeze(-1)
        low_down = torch.bmm(self.down_A, activation.mT).flatten(0, 1).mT  # the small factor first is faster
        output = self.down_proj(activation.sum(0)) + linear(low_down, self.last)
        if (bias := self.moe.base.down_proj.bias) is not None:  # each expert has it, and it came once a token
            output = output + (share.sum(-1, keepdim=True) - 1) * bias
        return output
