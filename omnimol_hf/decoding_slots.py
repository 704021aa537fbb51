"""Keys and values of rows that are being answered, and attention over them: of whole prompts, then token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnimol_hf.modeling_omnimol import OmniMolForCausalLM

_GROUPS = 3  # of rows of similar length that attend together
_BLOCK = 32  # places; slots are some blocks long, and what rows see is rounded up to whole ones
_PLANNED = 8  # steps that are worked out at once; what rows see in them is rounded up to whole blocks

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Number of the layer, queries, keys and values `(tokens, heads, head size)` -> `(tokens, heads * head size)`."""


@dataclass(frozen=True)
class Span:
    """The tokens `start` to `stop` of the row in a slot."""

    slot: int
    start: int
    stop: int


class Slots:
    """The keys and values of rows, each `(layers, slots, key heads, length, head size)`; a row starts at place 0."""

    def __init__(self, model: OmniMolForCausalLM, slots: int, length: int) -> None:
        text, like = model.config.text_config, model.get_input_embeddings().weight
        shape = (text.num_hidden_layers, slots, text.num_key_value_heads, _whole_blocks(length), text.head_dim)
        # Zeros, for what is masked is multiplied by 0 all the same.
        self.keys, self.values = (torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(2))
        self.sharing = text.num_attention_heads // text.num_key_value_heads  # query heads a key head

    def repeat_first(self, length: int) -> None:
        """Give all slots the first `length` places of the first one."""
        for data in (self.keys, self.values):
            data[:, 1:, :, :length] = data[:, :1, :, :length]

    def attend_spans(self, spans: Sequence[Span], wanted: Sequence[int]) -> Attend:
        """Causal attention of tokens that lie one behind the other, each to its own row.

        Args:
            wanted: how many of each span's last tokens there are queries of, where not of all.
        """
        sizes = [span.stop - span.start for span in spans]
        unseen = (
            torch.ones(span.stop - span.start, span.stop, dtype=torch.bool).triu(span.start + 1) for span in spans
        )
        masks = [_bias(one, self.keys) for one in unseen]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            counts = sizes if len(q) == len(k) else wanted
            mixed = [q[:0]]
            parts = (
                q.transpose(0, 1).split(counts, 1),
                k.transpose(0, 1).split(sizes, 1),
                v.transpose(0, 1).split(sizes, 1),
            )
            for span, mask, count, q_row, k_row, v_row in zip(spans, masks, counts, *parts, strict=True):
                keys, values = (data[layer, span.slot, :, : span.stop] for data in (self.keys, self.values))
                keys[:, span.start :], values[:, span.start :] = k_row, v_row
                if count:
                    out = F.scaled_dot_product_attention(
                        q_row[None], keys[None], values[None], attn_mask=mask[-count:], enable_gqa=True
                    )
                    mixed.append(out[0].transpose(0, 1))
            return torch.cat(mixed).flatten(1)

        return attend


class TokenSlots:
    """What `Slots` become when all prompts are read: rows grow by a token at a time, all of them together.

    Query heads that share a key head stand where the places of a sequence would, for all of them see the same.
    """

    def __init__(self, prompts: Slots) -> None:
        self.keys, self.values = prompts.keys, prompts.values

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Put rows into other slots."""
        for data in (self.keys, self.values):
            data[:, targets] = data[:, sources]

    def attend(self, lengths: Sequence[int]) -> Attend:
        """Attention of one new token a row, at the place `lengths` of its slot, in the first slots."""
        device, masks = self.keys.device, _masks(lengths, self.values)
        sizes = [len(mask) for mask in masks]
        rows, places = torch.arange(len(lengths), device=device), torch.tensor(lengths, device=device)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            keys[rows, :, places], values[rows, :, places] = k, v
            q = q.view(len(q), k.shape[1], -1, q.shape[-1])
            parts = (part[: len(q)].split(sizes) for part in (q, keys, values))
            mixed = [
                F.scaled_dot_product_attention(q, k[:, :, : mask.shape[-1]], v[:, :, : mask.shape[-1]], attn_mask=mask)
                for mask, q, k, v in zip(masks, *parts, strict=True)
            ]
            return torch.cat(mixed).flatten(1)

        return attend


class BagTokenSlots(TokenSlots):
    """The same on a CPU in fp32, by weighted sums of rows.

    A CPU's matrix kernels take longer to prepare a product of one or two rows with a matrix than to work it out. But
    attention's two products are sums of weighted rows as well: the probabilities weight the rows of the values, and a
    query's numbers those of the transposed keys. For such sums PyTorch has a kernel that is as fast as the memory,
    `embedding_bag`, and each row is as long as it is. So that rows can grow, keys are transposed in blocks of `_BLOCK`
    places: `(layers, slots, key heads, blocks, head size, places)`.
    """

    def __init__(self, prompts: Slots) -> None:
        self.keys = prompts.keys.unflatten(3, (-1, _BLOCK)).mT.contiguous()
        self.values, self.sharing = prompts.values, prompts.sharing
        self.planned = 0  # steps for which there is a plan

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Put rows into other slots."""
        super().move(sources, targets)
        self.planned = 0

    def attend(self, lengths: Sequence[int]) -> Attend:
        """Attention of one new token a row, at the place `lengths` of its slot, in the first slots."""
        if not self.planned or self.rows != len(lengths):
            self._plan(np.array(lengths))
        step = _PLANNED - self.planned
        self.planned -= 1
        hidden, new_keys, new_values = self.hidden[step], self.new_keys[step], self.new_values[step]
        size = self.values.shape[-1]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.keys[layer].view(-1, _BLOCK), self.values[layer].view(-1, size)
            keys.view(-1).scatter_(0, new_keys, k.flatten())
            values.index_copy_(0, new_values, v.reshape(-1, size))
            queries = (q * size**-0.5).view(-1, size).index_select(0, self.query)
            scores = _weighted_sums(queries, keys, self.key_rows, self.key_starts)
            shares = scores.view(len(q), -1, hidden.shape[-1]).add_(hidden).softmax(-1)
            shares = shares.view(-1, _BLOCK).index_select(0, self.room)
            return _weighted_sums(shares, values, self.value_rows, self.value_starts).view(len(q), -1)

        return attend

    def _plan(self, lengths: np.ndarray) -> None:
        """Work out the next few steps, in which all rows grow by a token each.

        These are which blocks are summed over, which of their places are not to be seen, and where new keys' numbers
        and new values go, counted over a layer.
        """
        self.planned, self.rows = _PLANNED, len(lengths)
        _, _, heads, blocks, size, _ = self.keys.shape
        places = lengths + np.arange(_PLANNED)[:, None]  # (steps, rows)
        # The last steps may be such that nobody takes, behind the slot's end.
        last = np.minimum(places[-1] // _BLOCK, blocks - 1)
        most = int(last.max()) + 1
        unseen = torch.from_numpy(np.arange(most * _BLOCK) > places[..., None, None])
        self.hidden = _bias(unseen, self.values)
        block, within = np.divmod(places[..., None], _BLOCK)
        own = np.arange(len(lengths) * heads).reshape(-1, heads) * blocks + block
        new_keys = (own[..., None] * size + np.arange(size)) * _BLOCK + within[..., None]
        self.new_keys = torch.from_numpy(new_keys.reshape(_PLANNED, -1))
        self.new_values = torch.from_numpy((own * _BLOCK + within).reshape(_PLANNED, -1))
        # A query has room for as many blocks as the longest row has; those that are there, counted over all queries.
        there = (np.arange(most) <= np.repeat(last, heads * self.sharing)[:, None]).ravel()
        room = np.flatnonzero(there)
        query, number = np.divmod(room, most)
        starts = (there.cumsum() - there).astype(np.int32)  # where there is nothing, a sum is over nothing
        seen = torch.from_numpy((query // self.sharing * blocks + number).astype(np.int32))[:, None]
        self.query, self.room = torch.from_numpy(query), torch.from_numpy(room)
        self.key_rows, self.value_rows = (
            torch.add(torch.arange(n, dtype=torch.int32), seen, alpha=n).flatten() for n in (size, _BLOCK)
        )
        self.key_starts = torch.from_numpy(starts * size)
        self.value_starts = torch.from_numpy(starts[::most] * _BLOCK)


def token_slots(prompts: Slots) -> TokenSlots:
    """The kind that suits the device and the dtype."""
    suits_bags = prompts.keys.device.type == "cpu" and prompts.keys.dtype == torch.float32
    return BagTokenSlots(prompts) if suits_bags else TokenSlots(prompts)


def _weighted_sums(weights: Tensor, table: Tensor, rows: Tensor, starts: Tensor) -> Tensor:
    """Sums `(sums, width)` of rows of a table, each times its weight; `starts`: where those of each sum begin."""
    return torch.embedding_bag(table, rows, starts, False, 0, False, weights.flatten())[0]  # mode 0: sums


def _whole_blocks(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def _masks(lengths: Sequence[int], like: Tensor) -> list[Tensor]:
    """For a few groups of rows `(rows, 1, 1, places)`, as long as the longest of each: which places a row sees.

    Keys and values are what takes the time, so no group should see more of them than it has to.
    """
    size = -(-len(lengths) // _GROUPS)
    groups = [slice(start, start + size) for start in range(0, len(lengths), size)]
    places = torch.tensor(lengths)[:, None, None, None]
    whole = _bias(torch.arange(_whole_blocks(max(lengths) + 1)) > places, like)
    return [whole[group, ..., : _whole_blocks(max(lengths[group]) + 1)] for group in groups]


def _bias(unseen: Tensor, like: Tensor) -> Tensor:
    """What is added to the products of queries and keys: nothing, or minus infinity for those not seen."""
    return torch.zeros(unseen.shape, dtype=like.dtype).masked_fill_(unseen, -torch.inf).to(like.device)
