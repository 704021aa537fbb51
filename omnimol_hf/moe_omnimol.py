"""Anchor-and-reconcile mixture of experts (Eq. 7-8 of the paper) on one shared feed-forward network.

- Experts start as copies of the dense FFN. While that FFN stays frozen the copies differ only by low-rank deltas, so
  it is stored once and multiplied once: gate and up once a token, down once on the routed sum of activations.
- The anchor is simply the last expert, to which every token goes with weight 1.
- The router works in fp32 whatever the model's dtype.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaMLP

from .configuration_omnimol import OmniMolConfig
from .dropout_omnimol import OmniMolDropout, dropout_mask
from .expert_sum_omnimol import expert_sum
from .packing_omnimol import sequence_numbers

PROJECTIONS = ("gate", "up", "down")


class OmniMolRouter(nn.Module):
    """Scores the N routed experts for each token: softmax over all of them, then the top k (Eq. 8)."""

    def __init__(self, config: OmniMolConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.normalise = config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.text_config.hidden_size))

    def reset_parameters(self) -> None:
        """Kaiming uniform, as the paper's Section 3.4 says."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Route tokens.

        Args:
            hidden_states: `(batch, length, hidden)`, any float dtype.

        Returns:
            logits `(batch, length, N)` fp32; weights `(batch, length, k)` fp32; chosen experts `(batch, length, k)`.
        """
        with _without_autocast(hidden_states.device.type):
            logits = F.linear(hidden_states.float(), self.weight.float())
        weights, chosen = logits.softmax(-1).topk(self.top_k, dim=-1)
        if self.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights, chosen


def _without_autocast(device: str) -> AbstractContextManager:
    """Only where it is on: to switch it off takes longer than to route a few tokens."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _by_expert(chosen: Tensor, weights: Tensor, num_experts: int) -> list[tuple[Tensor, Tensor]]:
    """Sort the (token, expert) choices `(tokens, k)` by expert: for each, its tokens and their weights `(n, 1)`.

    One transfer to the host a layer. An expert without tokens gets empty tensors and still runs, so that each
    parameter has a gradient on each rank.
    """
    order = chosen.flatten().argsort(stable=True)
    counts = chosen.flatten().bincount(minlength=num_experts).tolist()
    tokens = (order // chosen.shape[1]).split(counts)
    return list(zip(tokens, weights.flatten()[order].unsqueeze(-1).split(counts), strict=True))


def adaptive_gamma(
    alpha: float,
    rank: int,
    p: float,
    alpha_offset: Tensor,
    beta: Tensor,
    p_offset: Tensor | None = None,
    gamma_range: float | None = None,
) -> Tensor:
    """gamma = (alpha + alpha_offset) / rank**(p + p_offset) + beta, the adaptive coefficient of Section 3.4.

    Args:
        alpha: where alpha starts.
        rank: r of the low-rank matrices; ||r||_p means r**p.
        p: 1 for LoRA's start, 0.5 for rsLoRA's.
        alpha_offset, beta: what is learnt, of equal shape; both start at 0.
        p_offset: the same for p where that is learnable.
        gamma_range: keeps gamma within this share of its start on either side; None: free.

    Returns:
        Their shape, in fp32 or wider, for in bf16 small steps of the offsets would be lost.
    """
    dtype = torch.promote_types(alpha_offset.dtype, torch.float32)
    learned_p = p if p_offset is None else p + p_offset.to(dtype)
    gamma = (alpha + alpha_offset.to(dtype)) / rank**learned_p + beta.to(dtype)
    if gamma_range is None:
        return gamma
    start = alpha / rank**p
    return gamma.clamp(start * (1 - gamma_range), start * (1 + gamma_range))


class LowRankExperts(nn.Module):
    """The low-rank deltas of all experts of a layer, stacked: W_e = W + gamma_e B_e A_e for gate, up and down.

    gamma is `adaptive_gamma`, one for each projection and expert. Its learnable offsets are fp32 and start at 0: alpha
    itself could not move in bf16.

    Parameters: `{gate,up}_A` `(E, r, hidden)`, `{gate,up}_B` `(E, intermediate, r)`, `down_A` `(E, r, intermediate)`,
    `down_B` `(E, hidden, r)`; `gamma_alpha`, `gamma_beta` and, where p is learnable, `gamma_p`, each `(3, E)` in the
    order gate, up, down.
    """

    def __init__(self, config: OmniMolConfig) -> None:
        super().__init__()
        text, experts, rank = config.text_config, config.experts_per_layer, config.expert_rank
        hidden, intermediate = text.hidden_size, text.intermediate_size
        self.num_experts = experts
        self.rank, self.alpha = rank, config.expert_alpha
        self.p, self.gamma_range = config.gamma_p, config.gamma_range
        self.dropout = OmniMolDropout(config.expert_dropout)
        self.act_fn = ACT2FN[text.hidden_act]
        self.gate_A = nn.Parameter(torch.empty(experts, rank, hidden))
        self.gate_B = nn.Parameter(torch.empty(experts, intermediate, rank))
        self.up_A = nn.Parameter(torch.empty(experts, rank, hidden))
        self.up_B = nn.Parameter(torch.empty(experts, intermediate, rank))
        self.down_A = nn.Parameter(torch.empty(experts, rank, intermediate))
        self.down_B = nn.Parameter(torch.empty(experts, hidden, rank))
        self.gamma_alpha = nn.Parameter(torch.empty(len(PROJECTIONS), experts, dtype=torch.float32))
        self.gamma_beta = nn.Parameter(torch.empty(len(PROJECTIONS), experts, dtype=torch.float32))
        self.gamma_p = nn.Parameter(torch.empty_like(self.gamma_alpha)) if config.learn_gamma_p else None

    def reset_parameters(self) -> None:
        """LoRA's start: A Kaiming uniform, B zero, so that every expert equals the shared FFN."""
        for name in PROJECTIONS:
            a, b = self.matrices(name)
            bound = a.shape[-1] ** -0.5  # kaiming_uniform_(a=sqrt(5)) of each slice, which it cannot see in a stack
            init.uniform_(a, -bound, bound)
            init.zeros_(b)
        for offset in self.gamma_offsets():
            init.zeros_(offset)

    def matrices(self, projection: str) -> tuple[Tensor, Tensor]:
        """The stacked A and B of `"gate"`, `"up"` or `"down"`."""
        return getattr(self, f"{projection}_A"), getattr(self, f"{projection}_B")

    def gamma_offsets(self) -> list[Tensor]:
        """What is learnt of gamma: the offsets of alpha and beta and, where it is learnable, of p."""
        return [self.gamma_alpha, self.gamma_beta] + ([] if self.gamma_p is None else [self.gamma_p])

    def gamma(self) -> Tensor:
        """gamma `(3, E)` in fp32, rows in the order gate, up, down."""
        return adaptive_gamma(
            self.alpha, self.rank, self.p, self.gamma_alpha, self.gamma_beta, self.gamma_p, self.gamma_range
        )

    @property
    def gamma_settings(self) -> dict[str, Any]:
        """What gamma is made of besides its offsets: the arguments of `restart_gamma`."""
        learn_p = self.gamma_p is not None
        return {"alpha": self.alpha, "p": self.p, "gamma_range": self.gamma_range, "learn_p": learn_p}

    @torch.no_grad()
    def restart_gamma(
        self, alpha: float, p: float, gamma_range: float | None, learn_p: bool, gamma: float | None = None
    ) -> None:
        """Let gamma be made of other settings, from its start again; B is scaled so that every expert stays as it is.

        Args:
            alpha, p, gamma_range: see `adaptive_gamma`.
            learn_p: whether p is learnable.
            gamma: what all gammas shall be, by way of beta; None: their start, alpha / r**p.
        """
        before = self.gamma()
        self.alpha, self.p, self.gamma_range = alpha, p, gamma_range
        if not learn_p:
            self.gamma_p = None
        elif self.gamma_p is None:
            trains = self.gamma_alpha.requires_grad
            self.gamma_p = nn.Parameter(torch.zeros_like(self.gamma_alpha), requires_grad=trains)
        for offset in self.gamma_offsets():
            offset.zero_()
        if gamma is not None:
            self.gamma_beta += gamma - alpha / self.rank**p
        for name, ratio in zip(PROJECTIONS, before / self.gamma(), strict=True):
            b = self.matrices(name)[1]
            b.copy_(b * ratio[:, None, None])

    def freeze_gamma(self) -> None:
        """Keep gamma as it is for good: its offsets become buffers, saved under the same names.

        Frozen parameters would not do, for PEFT lets all parameters of a module train when it switches adapters.
        """
        for name in ("gamma_alpha", "gamma_beta", "gamma_p"):
            offset = getattr(self, name)
            if offset is not None:
                delattr(self, name)
                self.register_buffer(name, offset.detach())

    def delta(self, projection: str, expert: int) -> Tensor:
        """The full-size matrix gamma B A `(out_features, in_features)` that one expert adds to one projection."""
        a, b = self.matrices(projection)
        return b[expert] @ (self.gamma()[PROJECTIONS.index(projection), expert] * a[expert]).to(a.dtype)

    def forward(
        self, hidden_states: Tensor, gate: Tensor, up: Tensor, weights: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run all experts.

        Args:
            hidden_states: `(tokens, hidden)`.
            gate, up: the shared FFN's projections of them, `(tokens, intermediate)`.
            weights, chosen: `(tokens, choices)`, the weight and the index of each token's experts.

        Returns:
            The weighted sum of the experts' activations `(tokens, intermediate)`, which the shared down projection
            still has to map, and the weighted sum of their low-rank down products `(tokens, hidden)`.
        """
        dtype = gate.dtype
        # gamma scales the matrices on the hidden side, in fp32: they are the small ones, and in bf16, where 16 and
        # 16.01 are one number, a gamma between them still rounds some of their elements the other way.
        gate_gamma, up_gamma, down_gamma = self.gamma().unsqueeze(-1).unsqueeze(-1)
        # One product for A of gate and up. One dropout mask for all experts, here and before down.
        first = torch.cat([gate_gamma * self.gate_A, up_gamma * self.up_A], dim=1)
        matrices = [first, self.gate_B, self.up_B, self.down_A, down_gamma * self.down_B]
        dropped = self.dropout(hidden_states).to(dtype)
        keep = dropout_mask(gate, self.dropout.p) if self.training and self.dropout.p else None
        matrices = [matrix.to(dtype) for matrix in matrices]
        act = self.act_fn.forward  # without hooks: some cannot be in a backward pass that is in another one
        with _without_autocast(gate.device.type):  # all is of its dtype already
            return expert_sum(dropped, gate, up, weights, chosen, keep, act, matrices)


class FullExperts(nn.ModuleList):
    """Every expert a whole FFN of its own: what the paper's Section 3.5 says literally."""

    def __init__(self, config: OmniMolConfig) -> None:
        super().__init__(LlamaMLP(config.text_config) for _ in range(config.experts_per_layer))

    def forward(self, hidden_states: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Run all experts on `(tokens, hidden)`; see `LowRankExperts.forward` for `weights` and `chosen`."""
        output = torch.zeros_like(hidden_states)
        for expert, (rows, weight) in zip(self, _by_expert(chosen, weights, len(self)), strict=True):
            output = output.index_add(0, rows, (expert(hidden_states.index_select(0, rows)) * weight).to(output.dtype))
        return output


class AnchorReconcileMoE(nn.Module):
    """The feed-forward block of a MoE layer, x' = sum_i TopK(s)_i E_i(x) + E_anchor(x) (Eq. 8)."""

    def __init__(self, config: OmniMolConfig) -> None:
        super().__init__()
        self.num_routed = config.num_experts
        self.anchor_expert = config.anchor_expert
        self.preserve_at_init = config.preserve_at_init
        self.router = OmniMolRouter(config)
        if config.expert_training == "lora":
            self.base = LlamaMLP(config.text_config)
            self.experts = LowRankExperts(config)
        else:
            self.base = None
            self.experts = FullExperts(config)

    def with_anchor(self, weights: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Append the anchor as one more choice of every token, with weight 1; rescale for `preserve_at_init`."""
        if self.anchor_expert:
            weights = torch.cat([weights, torch.ones_like(weights[..., :1])], dim=-1)
            chosen = torch.cat([chosen, torch.full_like(chosen[..., :1], self.num_routed)], dim=-1)
        if self.preserve_at_init:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights, chosen

    def forward(self, hidden_states: Tensor, kept: Tensor | None = None) -> Tensor:
        """Map `(batch, length, hidden)` to the same shape.

        Args:
            kept: `(n,)` int64, the positions in `batch * length` that go through the experts, all through the router;
                what comes back is `(n, hidden)`. None: all of them.
        """
        _, weights, chosen = self.router(hidden_states)
        flat = [part.flatten(0, 1) for part in (hidden_states, *self.with_anchor(weights, chosen))]
        if kept is not None:
            return self._experts(*(part.index_select(0, kept) for part in flat))
        return self._experts(*flat).view_as(hidden_states)

    def _experts(self, flat: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        if self.base is None:
            return self.experts(flat, weights, chosen)
        activation, low_rank = self.experts(flat, self.base.gate_proj(flat), self.base.up_proj(flat), weights, chosen)
        output = self.base.down_proj(activation) + low_rank
        if (bias := self.base.down_proj.bias) is not None:  # each expert has it, and it came once a token
            output = output + (weights.sum(-1, keepdim=True) - 1).to(output.dtype) * bias
        return output


def sequence_balance_loss(
    router_logits: tuple[Tensor, ...], top_k: int, attention_mask: Tensor | None, cu_seq_lens: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The balance loss l_i of each sequence (Section 3.5), averaged over the MoE layers.

    l_i = sum_j C_ij s_ij with C_ij = N / (T_i k) * (choices of expert j in sequence i) and s_ij the mean router
    probability of expert j over the T_i tokens of sequence i. Padding counts nowhere. Perfect balance gives 1.

    Args:
        router_logits: one `(batch, length, N)` tensor a MoE layer.
        top_k: k, experts a token.
        attention_mask: `(batch, length)`, nonzero for tokens, 0 for padding; None: no padding.
        cu_seq_lens: `(sequences + 1,)`, where the sequences of one packed row begin and end; then `batch` is 1 in what
            is given, and the number of sequences in what comes back.

    Returns:
        l_i `(batch,)` in fp32, whose gradients flow through s_ij; and what share of each sequence's choices each
        expert got, `(MoE layers, batch, N)` in fp32 without gradients: C_ij / N.
    """
    if cu_seq_lens is not None:
        lengths = cu_seq_lens.diff().unsqueeze(-1)
        owner = sequence_numbers(cu_seq_lens, router_logits[0].shape[1])
    else:
        mask = router_logits[0].new_ones(router_logits[0].shape[:2]) if attention_mask is None else attention_mask
        mask = mask.to(torch.float32).unsqueeze(-1)
        lengths = mask.sum(1).clamp(min=1)

    def summed(values: Tensor) -> Tensor:
        """`(batch, length, N)` to the sum over each sequence's tokens `(sequences, N)`."""
        if cu_seq_lens is None:
            return (values * mask).sum(1)
        return values.new_zeros(len(lengths), values.shape[-1]).index_add(0, owner, values[0])

    per_layer, shares = [], []
    for logits in router_logits:
        probabilities = logits.float().softmax(-1)
        num_experts = logits.shape[-1]
        choices = torch.zeros_like(probabilities).scatter(-1, probabilities.topk(top_k, dim=-1).indices, 1.0)
        share = summed(choices) / (lengths * top_k)
        importance = summed(probabilities) / lengths
        per_layer.append(num_experts * (share * importance).sum(-1))
        shares.append(share)
    return torch.stack(per_layer).mean(0), torch.stack(shares)


__all__ = [
    "AnchorReconcileMoE",
    "FullExperts",
    "LowRankExperts",
    "OmniMolRouter",
    "adaptive_gamma",
    "sequence_balance_loss",
]
