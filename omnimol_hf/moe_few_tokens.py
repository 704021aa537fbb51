"""The experts on a few tokens at a time, as decoding has them: every expert on every token, without any sorting."""

from __future__ import annotations

import torch
from torch import Tensor

from omnimol_hf.linear_omnimol import linear
from omnimol_hf.moe_omnimol import AnchorReconcileMoE

_MOST_EXPERTS = 2  # experts for each one that a token goes to; with more of them, sorting costs less than it saves


class FewTokensMoE:
    """What an `AnchorReconcileMoE` does, for a few tokens and no gradients, on experts that are low-rank deltas.

    All experts see all tokens and the router's weights, 0 for those not chosen, come after. That is some more
    arithmetic and far fewer and larger steps, none of which waits for the host. gamma is multiplied into the matrices
    once: make one of these whenever weights may have changed.
    """

    def __init__(self, moe: AnchorReconcileMoE) -> None:
        self.moe, self.experts = moe, moe.experts
        dtype = moe.base.gate_proj.weight.dtype
        gate, up, down = self.experts.gamma()[..., None, None]
        first = torch.cat([gate * self.experts.gate_A, up * self.experts.up_A], dim=1)
        self.first = first.flatten(0, 1).to(dtype)
        self.last = (down * self.experts.down_B).permute(1, 0, 2).flatten(1).to(dtype)

    @staticmethod
    def suits(mlp: torch.nn.Module) -> bool:
        """Whether a feed-forward block can be run this way, and should be."""
        if not isinstance(mlp, AnchorReconcileMoE) or mlp.base is None:
            return False
        choices = mlp.router.top_k + mlp.anchor_expert
        return mlp.experts.num_experts <= _MOST_EXPERTS * choices

    def __call__(self, hidden_states: Tensor) -> Tensor:
        """Map `(batch, length, hidden)` to the same shape."""
        x, base, experts = hidden_states.flatten(0, 1), self.moe.base, self.experts
        _, weights, chosen = self.moe.router(hidden_states)
        weights, chosen = (choice.flatten(0, 1) for choice in self.moe.with_anchor(weights, chosen))
        gate, up = base.gate_proj(x), base.up_proj(x)
        share = weights.new_zeros(len(x), experts.num_experts).scatter_(1, chosen, weights).to(gate.dtype)
        low = linear(x, self.first).view(len(x), experts.num_experts, 2, experts.rank)
        low_gate, low_up = low.permute(2, 1, 0, 3)
        gate = torch.baddbmm(gate.expand(experts.num_experts, -1, -1), low_gate, experts.gate_B.mT.to(gate.dtype))
        up = torch.baddbmm(up.expand(experts.num_experts, -1, -1), low_up, experts.up_B.mT.to(up.dtype))
        activation = experts.act_fn(gate) * up * share.T.unsqueeze(-1)
        low_down = torch.bmm(activation, experts.down_A.mT.to(activation.dtype))
        output = base.down_proj(activation.sum(0)) + linear(low_down.transpose(0, 1).flatten(1), self.last)
        if (bias := base.down_proj.bias) is not None:  # each expert has it, and it came once a token
            output = output + (share.sum(-1, keepdim=True) - 1) * bias
        return output.view_as(hidden_states)
