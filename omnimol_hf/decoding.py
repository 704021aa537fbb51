"""Greedy decoding of many rows at once: what `generate` finds, several times faster.

- No padding: prompts go through the layers one behind the other, in pieces of a size that suits the device, each row
  attending to itself alone. What all prompts begin with, the system's turn, is read once.
- Keys and values lie in tensors that are made once and written in place. Query heads that share a key head attend
  together, so keys and values are never repeated.
- A row that has ended leaves, and the last row takes its slot.
- In the last layer only the tokens whose successors are wanted attend and go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm

from omnimol_hf.decoding_slots import Attend, Slots, Span, TokenSlots, token_slots
from omnimol_hf.linear_omnimol import as_one_map
from omnimol_hf.modeling_omnimol import GRAPH_INPUTS, OmniMolForCausalLM
from omnimol_hf.moe_few_tokens import FewTokensMoE

# How many numbers the widest activation of a piece of prompts may have. On a CPU they should stay in its cache.
_PIECE = {"cpu": 1 << 19}
_PIECE_ELSEWHERE = 1 << 26
# What a generation config may say without changing what greedy search finds, or what is done here too.
_UNDERSTOOD = {
    "bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "max_length", "max_new_tokens", "use_cache",
    "do_sample", "temperature", "top_p", "top_k", "transformers_version", "_from_model_config",
}  # fmt: skip

Rotation = tuple[Tensor, Tensor]
"""Of each of some places: cosines, and sines whose first half is negative, `(places, 1, head size)`."""
Map = Callable[[Tensor], Tensor]


def can_decode(model: OmniMolForCausalLM) -> bool:
    """Whether `decode` does all that `generate` would: the whole model on one device, and no further wishes."""
    stated = {name for name, value in model.generation_config.to_dict().items() if value not in (None, False)}
    if stated - _UNDERSTOOD or not {"eos_token_id", "pad_token_id"} <= stated:
        return False
    return len({parameter.device for parameter in model.parameters()}) == 1


@dataclass(frozen=True)
class _Layer:
    """What a layer does to tokens `(tokens, hidden)`, arranged for few steps."""

    attention_norm: Map
    projection: Map  # to queries, keys and values, one behind the other
    output: Map
    feed_forward_norm: Map
    feed_forward: Map

    @staticmethod
    def of(layer: LlamaDecoderLayer) -> _Layer:
        attention = layer.self_attn
        return _Layer(
            _normalisation(layer.input_layernorm),
            as_one_map(attention.q_proj, attention.k_proj, attention.v_proj),
            as_one_map(attention.o_proj),
            _normalisation(layer.post_attention_layernorm),
            _feed_forward(layer.mlp),
        )


def _feed_forward(mlp: nn.Module) -> Map:
    """A feed-forward block as a function of `(tokens, hidden)`."""
    if type(mlp) is not LlamaMLP:
        return lambda hidden: mlp(hidden[None])[0]
    gate, up, down = map(as_one_map, (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    return lambda hidden: down(mlp.act_fn(gate(hidden)).mul_(up(hidden)))


def _for_few_tokens(arranged: _Layer, layer: LlamaDecoderLayer) -> _Layer:
    return replace(arranged, feed_forward=FewTokensMoE(layer.mlp)) if FewTokensMoE.suits(layer.mlp) else arranged


def _normalisation(norm: LlamaRMSNorm) -> Map:
    """x w / sqrt(mean(x^2) + eps)."""
    weight, eps = norm.weight, norm.variance_epsilon
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return lambda hidden: F.rms_norm(hidden, weight.shape, weight, eps)
    # The same with both sides of the fraction times sqrt(n), in four steps where `rms_norm` takes six.
    scaled, least = weight * len(weight) ** 0.5, torch.tensor((len(weight) * eps) ** 0.5)
    return lambda hidden: (hidden * scaled).div_(vector_norm(hidden, dim=-1, keepdim=True).hypot_(least))


def _run(
    config: LlamaConfig,
    layers: Sequence[_Layer],
    hidden: Tensor,
    rotation: Rotation,
    attend: Attend,
    wanted: Tensor | slice = slice(None),
) -> Tensor:
    """The layers on tokens `(tokens, hidden)`; the result has the wanted ones of them alone."""
    cos, sin = rotation
    heads = [config.num_attention_heads, config.num_key_value_heads]
    for number, layer in enumerate(layers):
        projected = layer.projection(layer.attention_norm(hidden)).view(len(hidden), -1, config.head_dim)
        qk, v = projected.split([sum(heads), heads[1]], dim=1)
        # Rotated together, in three steps: x cos + (its halves exchanged) (-sin, sin).
        q, k = (qk * cos).addcmul_(qk.roll(config.head_dim // 2, -1), sin).split(heads, dim=1)
        if number == len(layers) - 1:
            hidden, q = hidden[wanted], q[wanted]
        hidden = layer.output(attend(number, q, k, v)).add_(hidden)
        hidden = layer.feed_forward(layer.feed_forward_norm(hidden)).add_(hidden)
    return hidden


def _rotations(model: OmniMolForCausalLM, length: int) -> Rotation:
    """The rotary embedding of the first places."""
    text = model.model.language_model
    like = model.get_input_embeddings().weight
    cos, sin = text.rotary_emb(like[None], torch.arange(length, device=like.device)[None])
    first, second = sin[0].chunk(2, dim=-1)
    return cos[0][:, None], torch.cat([-first, second], dim=-1)[:, None]


def _common_start(prompts: Sequence[Tensor], stop_before: int) -> int:
    """How many tokens all of several prompts begin with, before the first graph token and the last token of each."""
    if len(prompts) == 1:
        return 0
    shortest = min(map(len, prompts)) - 1
    heads = torch.stack([prompt[:shortest] for prompt in prompts])
    same = (heads == heads[0]).all(0) & (heads[0] != stop_before)
    return int(same.long().cumprod(0).sum())


def _pieces(spans: Sequence[Span], size: int) -> list[list[Span]]:
    """Spans in pieces of at most `size` tokens; a long one is cut."""
    pieces, room = [[]], size
    for span in spans:
        start = span.start
        while start < span.stop:
            if not room:
                pieces.append([])
                room = size
            stop = min(span.stop, start + room)
            pieces[-1].append(Span(span.slot, start, stop))
            room -= stop - start
            start = stop
    return pieces


def _prefill(
    model: OmniMolForCausalLM,
    inputs: Mapping[str, Tensor],
    prompts: Sequence[Tensor],
    rows: Sequence[int],
    slots: Slots,
    layers: Sequence[_Layer],
    rotations: Rotation,
) -> Tensor:
    """Read the prompts into slots, those of `rows` one after the other; the last hidden state of each slot's."""
    graph = {name: inputs.get(name) for name in GRAPH_INPUTS}
    embedded = model.model.embed(torch.cat(list(prompts))[None], **graph)[0].split([len(prompt) for prompt in prompts])
    prompts, embedded = [prompts[row] for row in rows], [embedded[row] for row in rows]
    shared = _common_start(prompts, model.config.graph_token_id)
    widest = max(model.config.text_config.intermediate_size, model.config.text_config.hidden_size)
    size = max(64, _PIECE.get(slots.keys.device.type, _PIECE_ELSEWHERE) // widest)
    spans = [Span(slot, shared, len(prompt)) for slot, prompt in enumerate(prompts)]
    last = []
    for piece in [*_pieces([Span(0, 0, shared)], size), *_pieces(spans, size)]:
        if not piece:
            continue
        hidden = torch.cat([embedded[span.slot][span.start : span.stop] for span in piece])
        positions = torch.cat([torch.arange(span.start, span.stop) for span in piece]).to(hidden.device)
        ends = [int(span.stop == len(prompts[span.slot])) for span in piece]
        places = torch.tensor([span.stop - span.start for span in piece]).cumsum(0)[torch.tensor(ends).bool()] - 1
        rotation = [part.index_select(0, positions) for part in rotations]
        attend = slots.attend_spans(piece, ends)
        last.append(_run(model.config.text_config, layers, hidden, rotation, attend, places.to(hidden.device)))
        if piece[-1] == Span(0, piece[-1].start, shared):
            slots.repeat_first(shared)
    return torch.cat(last)


@torch.inference_mode()
def decode(
    model: OmniMolForCausalLM, inputs: Mapping[str, Tensor], max_new_tokens: int, rate: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The likeliest next token again and again, until each row has ended or has `max_new_tokens`.

    Args:
        inputs: left-padded prompts as the processor makes them.
        rate: whether to sum up the log-probabilities of the chosen tokens.

    Returns:
        The new tokens `(rows, length)`, padded behind a row's end, as `generate` gives them; and the natural
        logarithm of each row's probability `(rows,)` in float64, if it is asked for.
    """
    settings, device = model.generation_config, inputs["input_ids"].device
    prompts = [ids[mask.bool()] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    text = model.model.language_model
    layers, last_norm = [_Layer.of(layer) for layer in text.layers], _normalisation(text.norm)
    ends = {*torch.tensor(settings.eos_token_id).flatten().tolist()}
    suppressed = torch.tensor(settings.suppress_tokens or [], dtype=torch.long, device=device)
    # Rows of similar length side by side, for they attend together.
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    lengths, rows = [len(prompts[row]) for row in order], torch.tensor(order, device=device)
    new = torch.full((len(prompts), max_new_tokens), settings.pad_token_id, device=device)
    total = torch.zeros(len(prompts), dtype=torch.float64, device=device) if rate else None
    slots = Slots(model, len(prompts), max(lengths) + max_new_tokens - 1)
    rotations = _rotations(model, max(lengths) + max_new_tokens)
    hidden = _prefill(model, inputs, prompts, order, slots, layers, rotations)
    slots, layers = token_slots(slots), [*map(_for_few_tokens, layers, text.layers)]
    for number in range(max_new_tokens):
        logits = model.lm_head(last_norm(hidden)).float().index_fill_(-1, suppressed, -torch.inf)
        tokens = logits.argmax(-1)
        new[:, number].index_copy_(0, rows, tokens)
        if rate:
            total.index_add_(0, rows, logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0].double())
        going = [slot for slot, token in enumerate(tokens.tolist()) if token not in ends]
        if not going or number + 1 == max_new_tokens:
            return new[:, : number + 1], total
        if len(going) < len(rows):
            kept = _fill_slots(slots, going)
            rows, tokens, lengths = rows[kept], tokens[kept], [lengths[slot] for slot in kept]
        hidden = model.get_input_embeddings()(tokens)
        places = torch.tensor(lengths, device=device)
        rotation = [part.index_select(0, places) for part in rotations]
        hidden = _run(text.config, layers, hidden, rotation, slots.attend(lengths))
        lengths = [length + 1 for length in lengths]


def _fill_slots(slots: TokenSlots, going: list[int]) -> list[int]:
    """Move rows behind the first ones into the slots of those that ended; which old slot each new one holds."""
    first, behind = set(range(len(going))), [slot for slot in going if slot >= len(going)]
    empty = sorted(first - set(going))
    if empty:
        slots.move(behind, empty)
    kept = list(range(len(going)))
    for target, source in zip(empty, behind, strict=True):
        kept[target] = source
    return kept
