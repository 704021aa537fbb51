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
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from omnimol_hf.modeling_omnimol import GRAPH_INPUTS, OmniMolForCausalLM
from omnimol_hf.moe_few_tokens import FewTokensMoE

# How many numbers the widest activation of a piece of prompts may have. On a CPU they should stay in its cache.
_PIECE = {"cpu": 1 << 19}
_PIECE_ELSEWHERE = 1 << 26
_GROUPS = 3  # of rows of similar length that attend together
# What a generation config may say without changing what greedy search finds, or what is done here too.
_UNDERSTOOD = {
    "bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "max_length", "max_new_tokens", "use_cache",
    "do_sample", "temperature", "top_p", "top_k", "transformers_version", "_from_model_config",
}  # fmt: skip

Rotation = tuple[Tensor, Tensor]
"""Of each of some places: cosines, and sines whose first half is negative, `(places, 1, head size)`."""
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
FeedForward = Callable[[Tensor], Tensor]


def can_decode(model: OmniMolForCausalLM) -> bool:
    """Whether `decode` does all that `generate` would: the whole model on one device, and no further wishes."""
    stated = {name for name, value in model.generation_config.to_dict().items() if value not in (None, False)}
    if stated - _UNDERSTOOD or not {"eos_token_id", "pad_token_id"} <= stated:
        return False
    return len({parameter.device for parameter in model.parameters()}) == 1


@dataclass(frozen=True)
class _Span:
    """The tokens `start` to `stop` of the row in a slot."""

    slot: int
    start: int
    stop: int


class _Slots:
    """The keys and values of rows, layer by layer `(slots, key heads, length, head size)`; a row starts at place 0."""

    def __init__(self, model: OmniMolForCausalLM, slots: int, length: int) -> None:
        text, like = model.config.text_config, model.get_input_embeddings().weight
        shape = (text.num_hidden_layers, 2, slots, text.num_key_value_heads, length, text.head_dim)
        # Zeros, for what is masked is multiplied by 0 all the same.
        self.data = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.keys, self.values = self.data.unbind(1)

    def repeat_first(self, length: int) -> None:
        """Give all slots the first `length` places of the first one."""
        self.data[:, :, 1:, :, :length] = self.data[:, :, :1, :, :length]

    def move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Put the first `length` places of some slots into others."""
        self.data[:, :, targets, :, :length] = self.data[:, :, sources, :, :length]

    def attend_spans(self, spans: Sequence[_Span], wanted: Sequence[int]) -> Attend:
        """Causal attention of tokens that lie one behind the other, each to its own row.

        Args:
            wanted: how many of each span's last tokens there are queries of, where not of all.
        """
        sizes = [span.stop - span.start for span in spans]
        seen = (torch.ones(span.stop - span.start, span.stop, dtype=torch.bool).tril(span.start) for span in spans)
        masks = [_bias(one, self.data) for one in seen]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            counts = sizes if len(q) == len(k) else wanted
            mixed = [q[:0]]
            parts = (
                q.transpose(0, 1).split(counts, 1),
                k.transpose(0, 1).split(sizes, 1),
                v.transpose(0, 1).split(sizes, 1),
            )
            for span, mask, count, q_row, k_row, v_row in zip(spans, masks, counts, *parts, strict=True):
                keys, values = (data[layer][span.slot, :, : span.stop] for data in (self.keys, self.values))
                keys[:, span.start :], values[:, span.start :] = k_row, v_row
                if count:
                    out = F.scaled_dot_product_attention(
                        q_row[None], keys[None], values[None], attn_mask=mask[-count:], enable_gqa=True
                    )
                    mixed.append(out[0].transpose(0, 1))
            return torch.cat(mixed).flatten(1)

        return attend

    def attend_last(self, places: Tensor, masks: Sequence[Tensor]) -> Attend:
        """Attention of one new token a row, at `places` of its slot; `masks` as `_masks` makes them."""
        rows = torch.arange(len(places), device=places.device)
        sizes = [len(mask) for mask in masks]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            keys[rows, :, places], values[rows, :, places] = k, v
            # The query heads of a key head stand where the places of a sequence would: all of them see the same.
            grouped = q.view(len(q), k.shape[1], -1, q.shape[-1])
            parts = (part[: len(q)].split(sizes) for part in (grouped, keys, values))
            mixed = [
                F.scaled_dot_product_attention(q, k[:, :, : mask.shape[-1]], v[:, :, : mask.shape[-1]], attn_mask=mask)
                for mask, q, k, v in zip(masks, *parts, strict=True)
            ]
            return torch.cat(mixed).flatten(1)

        return attend


def _masks(lengths: Sequence[int], like: Tensor) -> list[Tensor]:
    """For a few groups of rows `(rows, 1, 1, places)`, as long as the longest of each: which places a row sees.

    Keys and values are what takes the time, so no group should see more of them than it has to.
    """
    size = -(-len(lengths) // _GROUPS)
    places = torch.tensor(lengths)[:, None, None, None]
    whole = _bias(torch.arange(max(lengths) + 1) <= places, like)
    starts = range(0, len(lengths), size)
    return [whole[start : start + size, ..., : max(lengths[start : start + size]) + 1] for start in starts]


def _bias(seen: Tensor, like: Tensor) -> Tensor:
    """What is added to the products of queries and keys: nothing, or minus infinity for those not seen."""
    return torch.zeros(seen.shape, dtype=like.dtype).masked_fill_(~seen, -torch.inf).to(like.device)


def _run(
    model: OmniMolForCausalLM,
    blocks: Sequence[FeedForward],
    hidden: Tensor,
    rotation: Rotation,
    attend: Attend,
    wanted: Tensor | slice = slice(None),
) -> Tensor:
    """The language model's layers on tokens `(tokens, hidden)`; the result has the wanted ones of them alone."""
    text, config = model.model.language_model, model.config.text_config
    cos, sin = rotation
    heads = [config.num_attention_heads, config.num_key_value_heads]
    for number, (layer, block) in enumerate(zip(text.layers, blocks, strict=True)):
        attention, normed = layer.self_attn, _rms_norm(layer.input_layernorm, hidden)
        qk = torch.cat([attention.q_proj(normed), attention.k_proj(normed)], dim=-1)
        qk = qk.view(len(hidden), -1, config.head_dim)
        # Rotated together, in three steps: x cos + (its halves exchanged) (-sin, sin).
        q, k = torch.addcmul(qk * cos, qk.roll(config.head_dim // 2, -1), sin).split(heads, dim=1)
        if number == len(text.layers) - 1:
            hidden, q = hidden[wanted], q[wanted]
        mixed = attend(number, q, k, attention.v_proj(normed).view_as(k))
        hidden = hidden + attention.o_proj(mixed)
        hidden = hidden + block(_rms_norm(layer.post_attention_layernorm, hidden)[None])[0]
    return _rms_norm(text.norm, hidden)


def _rotations(model: OmniMolForCausalLM, length: int) -> Rotation:
    """The rotary embedding of the first places."""
    text = model.model.language_model
    like = model.get_input_embeddings().weight
    cos, sin = text.rotary_emb(like[None], torch.arange(length, device=like.device)[None])
    first, second = sin[0].chunk(2, dim=-1)
    return cos[0][:, None], torch.cat([-first, second], dim=-1)[:, None]


def _rms_norm(norm: LlamaRMSNorm, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _common_start(prompts: Sequence[Tensor], stop_before: int) -> int:
    """How many tokens all of several prompts begin with, before the first graph token and the last token of each."""
    if len(prompts) == 1:
        return 0
    shortest = min(map(len, prompts)) - 1
    heads = torch.stack([prompt[:shortest] for prompt in prompts])
    same = (heads == heads[0]).all(0) & (heads[0] != stop_before)
    return int(same.long().cumprod(0).sum())


def _pieces(spans: Sequence[_Span], size: int) -> list[list[_Span]]:
    """Spans in pieces of at most `size` tokens; a long one is cut."""
    pieces, room = [[]], size
    for span in spans:
        start = span.start
        while start < span.stop:
            if not room:
                pieces.append([])
                room = size
            stop = min(span.stop, start + room)
            pieces[-1].append(_Span(span.slot, start, stop))
            room -= stop - start
            start = stop
    return pieces


def _prefill(
    model: OmniMolForCausalLM,
    inputs: Mapping[str, Tensor],
    prompts: Sequence[Tensor],
    rows: Sequence[int],
    slots: _Slots,
    rotations: Rotation,
) -> Tensor:
    """Read the prompts into slots, those of `rows` one after the other; the last hidden state of each slot's."""
    graph = {name: inputs.get(name) for name in GRAPH_INPUTS}
    embedded = model.model.embed(torch.cat(list(prompts))[None], **graph)[0].split([len(prompt) for prompt in prompts])
    prompts, embedded = [prompts[row] for row in rows], [embedded[row] for row in rows]
    shared = _common_start(prompts, model.config.graph_token_id)
    widest = max(model.config.text_config.intermediate_size, model.config.text_config.hidden_size)
    size = max(64, _PIECE.get(slots.data.device.type, _PIECE_ELSEWHERE) // widest)
    spans = [_Span(slot, shared, len(prompt)) for slot, prompt in enumerate(prompts)]
    blocks = [layer.mlp for layer in model.model.language_model.layers]
    last = []
    for piece in [*_pieces([_Span(0, 0, shared)], size), *_pieces(spans, size)]:
        if not piece:
            continue
        hidden = torch.cat([embedded[span.slot][span.start : span.stop] for span in piece])
        positions = torch.cat([torch.arange(span.start, span.stop) for span in piece]).to(hidden.device)
        ends = [int(span.stop == len(prompts[span.slot])) for span in piece]
        places = torch.tensor([span.stop - span.start for span in piece]).cumsum(0)[torch.tensor(ends).bool()] - 1
        rotation = [part[positions] for part in rotations]
        last.append(_run(model, blocks, hidden, rotation, slots.attend_spans(piece, ends), places.to(hidden.device)))
        if piece[-1] == _Span(0, piece[-1].start, shared):
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
    blocks = [layer.mlp for layer in model.model.language_model.layers]
    blocks = [FewTokensMoE(block) if FewTokensMoE.suits(block) else block for block in blocks]
    ends = torch.tensor(settings.eos_token_id, device=device).flatten()
    suppressed = torch.tensor(settings.suppress_tokens or [], dtype=torch.long, device=device)
    # Rows of similar length side by side, for they attend together.
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    lengths, rows = [len(prompts[row]) for row in order], torch.tensor(order, device=device)
    new = torch.full((len(prompts), max_new_tokens), settings.pad_token_id, device=device)
    total = torch.zeros(len(prompts), dtype=torch.float64, device=device) if rate else None
    slots = _Slots(model, len(prompts), max(lengths) + max_new_tokens - 1)
    rotations = _rotations(model, max(lengths) + max_new_tokens)
    hidden = _prefill(model, inputs, prompts, order, slots, rotations)
    for number in range(max_new_tokens):
        logits = model.lm_head(hidden).float()
        logits[:, suppressed] = -torch.inf
        tokens = logits.argmax(-1)
        new[rows, number] = tokens
        if rate:
            total[rows] += logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0].double()
        going = (~torch.isin(tokens, ends)).nonzero()[:, 0].tolist()
        if not going or number + 1 == max_new_tokens:
            return new[:, : number + 1], total
        if len(going) < len(rows):
            kept = _fill_slots(slots, going, max(lengths))
            rows, tokens, lengths = rows[kept], tokens[kept], [lengths[slot] for slot in kept]
        hidden = model.get_input_embeddings()(tokens)
        places, masks = torch.tensor(lengths, device=device), _masks(lengths, slots.data)
        rotation = [part[places] for part in rotations]
        hidden = _run(model, blocks, hidden, rotation, slots.attend_last(places, masks))
        lengths = [length + 1 for length in lengths]


def _fill_slots(slots: _Slots, going: list[int], length: int) -> list[int]:
    """Move rows behind the first ones into the slots of those that ended; which old slot each new one holds."""
    first, behind = set(range(len(going))), [slot for slot in going if slot >= len(going)]
    empty = sorted(first - set(going))
    if empty:
        slots.move(behind, empty, length)
    kept = list(range(len(going)))
    for target, source in zip(empty, behind, strict=True):
        kept[target] = source
    return kept
