"""What a training step must compute, what it does compute, and how fast the machine multiplies matrices.

Useful FLOPs are those of matrix products that the function itself needs: no padding, no token that an expert was not
chosen for, no logits without a label, no masked pair of attention, nothing worked out twice. A multiplication and an
addition are two. Element-wise work counts as nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clock import seconds
from omnimol_hf import OmniMolConfig


@dataclass(frozen=True)
class Work:
    """How much there is in a batch.

    Args:
        tokens: graph tokens included, padding not.
        pairs: pairs of a token and one that it sees, itself included, over all sequences.
        labelled: positions with a label.
        atoms: of all molecules.
    """

    tokens: int
    pairs: int
    labelled: int
    atoms: int

    @classmethod
    def of(cls, batch: dict[str, Tensor]) -> Work:
        """The work in a batch of `TrainingCollator`."""
        lengths = batch["attention_mask"].sum(1)
        labelled = (batch["labels"][:, 1:] != -100).sum()
        atoms = len(batch["atom_features"]) if "atom_features" in batch else 0
        return cls(int(lengths.sum()), int((lengths * (lengths + 1) // 2).sum()), int(labelled), atoms)

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(self.as_tuple(), other.as_tuple(), strict=True)))

    def as_tuple(self) -> tuple[int, int, int, int]:
        return self.tokens, self.pairs, self.labelled, self.atoms


def useful_flops(config: OmniMolConfig, rank: int, work: Work) -> dict[str, tuple[int, int]]:
    """Useful FLOPs of stage 2, forward and backward, by what they are for.

    The backbone is frozen, so its backward pass is the gradient of activations alone, as much as its forward pass;
    adapters, experts' deltas and router need that of their weights too. Experts are deltas on one shared network,
    which a token passes once whatever the number of its experts. Behind the last layer's attention positions without a
    label are needed no more; its attention counts whole.

    Args:
        config: with `expert_training="lora"` and a linear projector.
        rank: of the adapters of attention and dense layers; experts have `config.expert_rank`.
    """
    text, graph = config.text_config, config.graph_config
    hidden, inner, layers = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    moe = len(config.moe_layer_indices)
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    choices = config.num_experts_per_tok + config.anchor_expert
    # Tokens that pass a feed-forward block, summed over layers, of either kind.
    unneeded, last_is_moe = work.tokens - work.labelled, layers - 1 in config.moe_layer_indices
    moe_tokens = moe * work.tokens - last_is_moe * unneeded
    dense_tokens = (layers - moe) * work.tokens - (not last_is_moe) * unneeded
    attention_sides = layers * work.tokens * (2 * (hidden + queries) + 2 * (hidden + keys))
    forward = {
        "attention projections": layers * 4 * work.tokens * hidden * (queries + keys),
        "attention scores": layers * 4 * work.pairs * queries,
        "adapters": 2 * rank * (attention_sides + dense_tokens * 3 * (hidden + inner)),
        "dense FFN": 6 * dense_tokens * hidden * inner,
        "shared FFN": 6 * moe_tokens * hidden * inner,
        "low-rank experts": 6 * moe_tokens * choices * config.expert_rank * (hidden + inner),
        "router": moe * 2 * work.tokens * hidden * config.num_experts,
        "graph encoder": graph.num_layers * 8 * work.atoms * graph.hidden_size**2,
        "projector": 2 * work.atoms * graph.hidden_size * hidden,
        "head": 2 * work.labelled * hidden * text.vocab_size,
    }
    twice = {"attention scores", "adapters", "low-rank experts", "router"}
    return {
        name: (flops, 0 if name == "graph encoder" else 2 * flops if name in twice else flops)
        for name, flops in forward.items()
    }


def decode_flops(config: OmniMolConfig, pairs: int) -> int:
    """Useful FLOPs of one new token of a merged model whose experts are deltas, seeing `pairs` tokens."""
    one = useful_flops(config, 0, Work(tokens=1, pairs=pairs, labelled=1, atoms=0))
    return sum(forward for forward, _ in one.values())


def total(flops: dict[str, tuple[int, int]]) -> int:
    return sum(map(sum, flops.values()))


def _onednn_linear() -> Callable[..., Tensor] | None:
    """oneDNN's product of fp32 matrices on a CPU: on some it is twice as fast as the one that `torch.mm` takes."""
    return torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None


def _onednn_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * weight[0]


def _added_flops(_: Sequence[int], a: Sequence[int], b: Sequence[int], **__: Any) -> int:
    return 2 * math.prod(a) * b[1]


def computed_flops(model: Any, step: Callable[[], Any]) -> int:
    """FLOPs of a training step by PyTorch's counter.

    It is told of products that are added in place and of oneDNN's. Fused attention of the CPU stays unknown to it, so
    attention is worked out the plain way meanwhile: all pairs.

    Args:
        model: has `config` and, if it is transformers', an attention that can be chosen.
    """
    onednn = _onednn_linear()
    unknown: dict[Any, Callable[..., int]] = {torch.ops.aten.addmm_: _added_flops}
    if onednn is not None:
        unknown[onednn] = _onednn_flops
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with FlopCounterMode(display=False, custom_mapping=unknown) as counter:
            step()
    finally:
        model.set_attn_implementation(before)
    return counter.get_total_flops()


def matmul_rate(
    shape: tuple[int, int, int], device: str, dtype: torch.dtype = torch.float32, at_least: float = 0.3
) -> float:
    """FLOPs a second of a product `(m, k) x (k, n)`, the best of several goes: what the machine can do undisturbed.

    On a CPU it is the better of the two libraries that PyTorch comes with.
    """
    m, k, n = shape
    a, b = (torch.randn(*sides, device=device, dtype=dtype) for sides in ((m, k), (n, k)))
    products = [lambda: torch.mm(a, b.T)]
    onednn = _onednn_linear()
    if device == "cpu" and onednn is not None:
        products.append(lambda: onednn(a, b, None, "none", [], ""))
    repeats = max(1, round((1e8 if device == "cpu" else 1e12) / (2 * m * k * n)))
    best = float("inf")
    for product in products:

        def work(product: Callable[[], Tensor] = product) -> None:
            for _ in range(repeats):
                product()

        work()
        end = time.perf_counter() + at_least
        while time.perf_counter() < end:
            best = min(best, seconds(work, device))
    return 2 * m * k * n * repeats / best


def model_shapes(config: OmniMolConfig, rank: int, work: Work) -> dict[str, tuple[int, int, int]]:
    """The shapes of a model's products, and a large square that shows the machine at its best."""
    text = config.text_config
    hidden, inner = text.hidden_size, text.intermediate_size
    square = 1024 if text.hidden_size < 2048 else 8192
    return {
        "large square": (square, square, square),
        "projection": (work.tokens, hidden, hidden),
        "FFN": (work.tokens, hidden, inner),
        "low rank, first": (work.tokens, hidden, rank),
        "low rank, second": (work.tokens, rank, inner),
        "head": (max(work.labelled, 1), hidden, text.vocab_size),
    }


def own_shape_floor(flops: dict[str, tuple[int, int]], rates: dict[str, float]) -> float:
    """Seconds of the useful FLOPs, each at the rate of its own kind of product; see `model_shapes`."""
    low = 2 / (1 / rates["low rank, first"] + 1 / rates["low rank, second"])
    rate = {"attention projections": rates["projection"], "dense FFN": rates["FFN"], "shared FFN": rates["FFN"]}
    rate |= {"adapters": low, "low-rank experts": low, "head": rates["head"]}
    return sum(sum(both) / rate.get(name, rates["projection"]) for name, both in flops.items())
