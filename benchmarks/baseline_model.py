"""The baseline's model: the same function as the product, written the way in which the authors' code computes it.

- Every expert is a whole FFN of its own with a low-rank adapter beside each of its linear layers. Tokens are copied k
  times and picked for each expert with a boolean mask.
- The graph encoder is called once a molecule, and each row's graph tokens are put between its embeddings in Python.
- Logits exist at every position, whether it has a label or not.

What merely wastes time without belonging to that design is left out: casts of whole modules, host transfers for
logging, pooled graph vectors that nobody reads, guessing the attention mask from the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.activations import ACT2FN

from benchmarks.baseline_data import PLACEHOLDER, Graph
from omnimol_hf.adapters import AdaptiveLinear
from omnimol_hf.moe_omnimol import PROJECTIONS, AnchorReconcileMoE, LowRankExperts

ADAPTER = "default"


class LoraLinear(nn.Module):
    """A frozen linear layer with an adapter: y = W x + ((alpha + a) / r**p + b) * B A dropout(x)."""

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor, start: tuple[float, float], offsets: Tensor) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Linear(a.shape[1], a.shape[0], bias=False)
        self.lora_B = nn.Linear(b.shape[1], b.shape[0], bias=False)
        self.lora_A.weight, self.lora_B.weight = _trained(a), _trained(b)
        self.alpha, self.scale = start  # alpha where it starts, and 1 / r**p
        self.offsets = _trained(offsets)  # a and b
        self.dropout = nn.Dropout(0.0)

    def gamma(self) -> Tensor:
        return (self.alpha + self.offsets[0]) * self.scale + self.offsets[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_B(self.lora_A(self.dropout(x))) * self.gamma()

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer with the adapter in its weight."""
        layer = deepcopy(self.base)
        layer.weight += self.gamma() * self.lora_B.weight @ self.lora_A.weight
        return layer


class Expert(nn.Module):
    """A gated FFN whose three layers each have an adapter."""

    def __init__(self, layers: dict[str, nn.Module], act: str) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (layers[name] for name in PROJECTIONS)
        self.act_fn = ACT2FN[act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class MaskedMoE(nn.Module):
    """Experts that take turns in picking their tokens out of all tokens, each token copied k times."""

    def __init__(self, moe: AnchorReconcileMoE) -> None:
        super().__init__()
        deltas, router = active(moe.experts), active(moe.router)
        self.top_k, self.num_experts = router.top_k, moe.num_routed
        self.weight = _trained(router.weight)
        experts = [Expert(_expert_layers(moe, deltas, e), _act_name(moe)) for e in range(deltas.num_experts)]
        self.experts, self.anchor = nn.ModuleList(experts[: moe.num_routed]), experts[moe.num_routed]
        self.probabilities: Tensor | None = None

    def forward(self, hidden_states: Tensor) -> Tensor:
        x = hidden_states.flatten(0, 1)
        probabilities = F.linear(x.float(), self.weight.float()).softmax(-1)
        self.probabilities = probabilities.view(*hidden_states.shape[:2], -1)
        weights, chosen = probabilities.topk(self.top_k, dim=-1)
        routed = self._routed(x, chosen) if self.training else self._routed_at_inference(x, chosen)
        y = (routed.view(*chosen.shape, -1) * weights.unsqueeze(-1)).sum(1).to(x.dtype)
        return (y + self.anchor(x)).view_as(hidden_states)

    def _routed(self, x: Tensor, chosen: Tensor) -> Tensor:
        copies, flat = x.repeat_interleave(self.top_k, dim=0), chosen.flatten()
        y = torch.empty_like(copies)
        for e, expert in enumerate(self.experts):
            y[flat == e] = expert(copies[flat == e])
        return y

    def _routed_at_inference(self, x: Tensor, chosen: Tensor) -> Tensor:
        flat = chosen.flatten()
        counts, order = flat.bincount(minlength=self.num_experts).cpu().numpy(), flat.argsort()
        tokens, start, parts = x[order // self.top_k], 0, []
        for expert, count in zip(self.experts, counts, strict=True):
            if count:
                parts.append(expert(tokens[start : start + count]))
                start += count
        y = torch.cat(parts)
        return torch.empty_like(y).index_copy_(0, order, y)


@dataclass
class BaselineOutput:
    """`loss` with the balance loss in it, and `logits` `(batch, length, vocabulary)`."""

    loss: Tensor
    logits: Tensor


class BaselineModel(nn.Module):
    """The baseline with copies of a product's weights.

    Args:
        product: an `OmniMolForCausalLM` with `add_adapters`' adapters and experts that are low-rank deltas.
    """

    def __init__(self, product: PeftModel) -> None:
        super().__init__()
        source = product.get_base_model()
        self.config = source.config
        self.graph_encoder = deepcopy(source.model.graph_encoder)
        self.projector = deepcopy(active(source.model.projector)).requires_grad_(True)
        text = source.model.language_model
        self.llama = LlamaForCausalLM(source.config.text_config).to(text.embed_tokens.weight.dtype)
        self.llama.requires_grad_(False)
        # Models in a test may be kept in float64, in which transformers makes none by itself.
        self.llama.model.rotary_emb = deepcopy(text.rotary_emb)
        self.llama.generation_config = deepcopy(source.generation_config)
        with torch.no_grad():
            self.llama.model.embed_tokens.weight.copy_(text.embed_tokens.weight)
            self.llama.lm_head.weight.copy_(source.lm_head.weight)
            self.llama.model.norm.weight.copy_(text.norm.weight)
            for own, layer in zip(self.llama.model.layers, text.layers, strict=True):
                own.input_layernorm.weight.copy_(layer.input_layernorm.weight)
                own.post_attention_layernorm.weight.copy_(layer.post_attention_layernorm.weight)
                for name in "qkvo":
                    setattr(own.self_attn, f"{name}_proj", _adapted(getattr(layer.self_attn, f"{name}_proj")))
                if isinstance(layer.mlp, AnchorReconcileMoE):
                    own.mlp = MaskedMoE(layer.mlp)
                else:
                    layers = {name: _adapted(getattr(layer.mlp, f"{name}_proj")) for name in PROJECTIONS}
                    own.mlp = Expert(layers, self.config.text_config.hidden_act)

    @property
    def moe_layers(self) -> list[MaskedMoE]:
        return [layer.mlp for layer in self.llama.model.layers if isinstance(layer.mlp, MaskedMoE)]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, graphs: list[Graph | None]
    ) -> BaselineOutput:
        """Train on a batch of `BaselineCollator`: `(batch, length)` tensors, and a graph or None for each row."""
        embeddings, mask, labels = self.merge(input_ids, attention_mask, labels, graphs)
        logits = self.llama(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).logits
        shifted, targets = logits[:, :-1].float().contiguous(), labels[:, 1:].contiguous()
        loss = F.cross_entropy(shifted.flatten(0, 1), targets.flatten(), ignore_index=-100)
        if self.moe_layers and self.config.router_aux_loss_coef:
            loss = loss + self.config.router_aux_loss_coef * self._balance(mask, (targets != -100).sum(1))
        return BaselineOutput(loss, logits)

    def _balance(self, mask: Tensor, labelled: Tensor) -> Tensor:
        """DeepSeek-V2's sequence-level balance loss without padding, each sequence weighed by its labelled tokens."""
        lengths, layers = mask.sum(1), []
        for moe in self.moe_layers:
            probabilities = moe.probabilities * mask.unsqueeze(-1)
            chosen = moe.probabilities.topk(moe.top_k, dim=-1).indices
            counts = torch.zeros_like(probabilities[:, 0])
            counts.scatter_add_(1, chosen.flatten(1), mask.repeat_interleave(moe.top_k, dim=1).to(counts.dtype))
            frequency = counts * moe.num_experts / (moe.top_k * lengths.unsqueeze(-1))
            layers.append((frequency * probabilities.sum(1) / lengths.unsqueeze(-1)).sum(-1))
        return (torch.stack(layers).mean(0) * labelled).sum() / labelled.sum()

    def encode(self, graph: Graph) -> Tensor:
        """Graph tokens `(atoms, hidden)` of one molecule."""
        return self.projector(self.graph_encoder.message_passing(*graph))

    def merge(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, graphs: list[Graph | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Row by row, the embeddings before and after the placeholder with the graph tokens between; then padded."""
        embed, rows, row_labels = self.llama.model.embed_tokens, [], []
        for ids, mask, label, graph in zip(input_ids, attention_mask, labels, graphs, strict=True):
            ids, label = ids[mask.bool()], label[mask.bool()]
            if graph is None:
                rows.append(embed(ids))
                row_labels.append(label)
                continue
            place = int(torch.where(ids == PLACEHOLDER)[0])
            atoms = self.encode(graph)
            rows.append(torch.cat([embed(ids[:place]), atoms, embed(ids[place + 1 :])]))
            row_labels.append(torch.cat([label[:place], label.new_full((len(atoms),), -100), label[place + 1 :]]))
        longest = max(map(len, rows))
        embeddings = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1])
        mask = attention_mask.new_zeros(len(rows), longest)
        padded = labels.new_full((len(rows), longest), -100)
        for i, (row, label) in enumerate(zip(rows, row_labels, strict=True)):
            embeddings[i, : len(row)], mask[i, : len(row)], padded[i, : len(row)] = row, 1, label
        return embeddings, mask, padded

    @torch.inference_mode()
    def answer(self, input_ids: list[int], graph: Graph | None, max_new_tokens: int) -> list[int]:
        """The new tokens of one prompt, greedily and with a cache."""
        ids = torch.tensor([input_ids], device=self.llama.device)
        embeddings, mask, _ = self.merge(ids, torch.ones_like(ids), ids, [graph])
        new = self.llama.generate(
            inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False
        )
        return new[0].tolist()

    def merge_adapters(self) -> None:
        """Fold every adapter into its layer: all experts become whole networks, as the authors load them to answer."""
        for module in list(self.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, LoraLinear):
                    setattr(module, name, child.merged())


# --- copies of the product's weights ---------------------------------------------------------------------------------


def active(module: nn.Module) -> nn.Module:
    """The copy of a module that PEFT trains, or the module itself."""
    return module.modules_to_save[ADAPTER] if isinstance(module, ModulesToSaveWrapper) else module


def _trained(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone())


def _act_name(moe: AnchorReconcileMoE) -> str:
    return moe.base.config.hidden_act


def _plain(layer: nn.Linear) -> nn.Linear:
    """A copy whose products are PyTorch's own, whatever kernels the product takes."""
    copy = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, dtype=layer.weight.dtype)
    copy.load_state_dict(layer.state_dict())
    return copy


def _adapted(layer: AdaptiveLinear) -> LoraLinear:
    offsets = torch.cat([layer.lora_gamma_alpha[ADAPTER], layer.lora_gamma_beta[ADAPTER]])
    start = (layer.lora_alpha[ADAPTER], layer.r[ADAPTER] ** -layer.gamma_p[ADAPTER])
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return LoraLinear(_plain(layer.base_layer), a, b, start, offsets)


def _expert_layers(moe: AnchorReconcileMoE, deltas: LowRankExperts, expert: int) -> dict[str, nn.Module]:
    start = (deltas.alpha, deltas.rank**-deltas.p)
    layers = {}
    for i, name in enumerate(PROJECTIONS):
        a, b = deltas.matrices(name)
        offsets = torch.stack([deltas.gamma_alpha[i, expert], deltas.gamma_beta[i, expert]])
        base = _plain(getattr(moe.base, f"{name}_proj"))
        layers[name] = LoraLinear(base, a[expert], b[expert], start, offsets)
    return layers


def gradient_pairs(product: PeftModel, baseline: BaselineModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The product's gradients, and the baseline's in the same shape: every trained parameter of the product once."""
    source = product.get_base_model()
    embeddings = source.get_input_embeddings()
    if isinstance(embeddings, TrainableTokensWrapper):
        rows = baseline.llama.model.embed_tokens.weight.grad[embeddings.token_adapter.token_indices[ADAPTER]]
        yield "selfies_tokens", _gradient(embeddings.token_adapter.trainable_tokens_delta[ADAPTER]), rows
    for (name, ours), theirs in zip(
        active(source.model.projector).named_parameters(), baseline.projector.parameters(), strict=True
    ):
        yield f"projector.{name}", _gradient(ours), _gradient(theirs)
    layers = zip(source.model.language_model.layers, baseline.llama.model.layers, strict=True)
    for number, (ours, theirs) in enumerate(layers):
        for name in "qkvo":
            where = f"layers.{number}.{name}_proj"
            yield from _linear_pairs(
                where, getattr(ours.self_attn, f"{name}_proj"), getattr(theirs.self_attn, f"{name}_proj")
            )
        if isinstance(ours.mlp, AnchorReconcileMoE):
            yield from moe_gradient_pairs(f"layers.{number}.", ours.mlp, theirs.mlp)
            continue
        for name in PROJECTIONS:
            where = f"layers.{number}.{name}_proj"
            yield from _linear_pairs(where, getattr(ours.mlp, f"{name}_proj"), getattr(theirs.mlp, f"{name}_proj"))


def moe_gradient_pairs(
    prefix: str, ours: AnchorReconcileMoE, theirs: MaskedMoE
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The same for one MoE layer."""
    deltas, experts = active(ours.experts), [*theirs.experts, theirs.anchor]
    yield f"{prefix}router", _gradient(active(ours.router).weight), _gradient(theirs.weight)
    layers = {name: [getattr(expert, f"{name}_proj") for expert in experts] for name in PROJECTIONS}
    for name in PROJECTIONS:
        a, b = deltas.matrices(name)
        yield f"{prefix}{name}_A", _gradient(a), torch.stack([_gradient(one.lora_A.weight) for one in layers[name]])
        yield f"{prefix}{name}_B", _gradient(b), torch.stack([_gradient(one.lora_B.weight) for one in layers[name]])
    offsets = torch.stack([torch.stack([_gradient(one.offsets) for one in layers[name]]) for name in PROJECTIONS])
    yield f"{prefix}gamma_alpha", _gradient(deltas.gamma_alpha), offsets[..., 0]
    yield f"{prefix}gamma_beta", _gradient(deltas.gamma_beta), offsets[..., 1]


def _linear_pairs(where: str, ours: AdaptiveLinear, theirs: LoraLinear) -> Iterator[tuple[str, Tensor, Tensor]]:
    yield f"{where}.A", _gradient(ours.lora_A[ADAPTER].weight), _gradient(theirs.lora_A.weight)
    yield f"{where}.B", _gradient(ours.lora_B[ADAPTER].weight), _gradient(theirs.lora_B.weight)
    gammas = torch.cat([_gradient(ours.lora_gamma_alpha[ADAPTER]), _gradient(ours.lora_gamma_beta[ADAPTER])])
    yield f"{where}.gamma", gammas, _gradient(theirs.offsets)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Zeros where the loss does not reach: an expert without tokens has none in the baseline."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def gradient_errors(pairs: Iterable[tuple[str, Tensor, Tensor]]) -> dict[str, Any]:
    """How far gradients differ.

    Returns:
        `gradient`: the norm of all differences over the norm of all gradients; `worst`: the largest difference within
        one parameter over that parameter's largest gradient, and `worst_name`. The worst are gammas: each of their
        gradients is the sum over a whole layer's output, which nearly cancels.
    """
    differences, sizes, worst = [], [], []
    for name, ours, theirs in pairs:
        difference, scale = (ours - theirs).abs().max().item(), theirs.abs().max().item()
        differences.append((ours - theirs).norm().item())
        sizes.append(theirs.norm().item())
        worst.append((difference / scale if scale else float(difference > 0), name))
    largest, name = max(worst)
    return {"gradient": math.hypot(*differences) / math.hypot(*sizes), "worst": largest, "worst_name": name}
