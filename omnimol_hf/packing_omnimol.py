"""Several sequences in one row, one after the other: which token belongs to which, what it predicts, what it sees.

`cu_seq_lens` is `(sequences + 1,)`, the places where sequences begin and end, from 0 to the row's length, as
transformers' varlen attention takes it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_SDPA = "packed_sdpa"
"""The attention implementation for packed rows where there is no varlen kernel: `packed_sdpa_forward`."""


def sequence_numbers(cu_seq_lens: Tensor, length: int) -> Tensor:
    """Which sequence each of a packed row's `length` tokens belongs to, counted from 0: `(length,)` int64."""
    numbers = torch.arange(len(cu_seq_lens) - 1, device=cu_seq_lens.device)
    return numbers.repeat_interleave(cu_seq_lens.diff(), output_size=length)


def next_labels(labels: Tensor, cu_seq_lens: Tensor | None = None) -> Tensor:
    """What each position has to predict, `(batch, length)`: the label after it in its sequence, or -100."""
    targets = F.pad(labels, (0, 1), value=-100)[:, 1:]
    return targets if cu_seq_lens is None else targets.index_fill(1, cu_seq_lens[1:].long() - 1, -100)


def label_positions(labels: Tensor, cu_seq_lens: Tensor | None = None) -> Tensor:
    """The positions in `batch * length` that predict a label: `(labelled,)` int64."""
    return (next_labels(labels, cu_seq_lens).flatten() != -100).nonzero().squeeze(-1)


def packed_sdpa_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within each sequence of a packed row, one after the other; without `cu_seq_lens_q` plain SDPA.

    A block-diagonal mask gives the same, but works out all products between sequences first.

    Args:
        query, key, value: `(batch, heads, length, head width)`.

    Returns:
        `(batch, length, heads, head width)`, and no attention weights.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    sizes = cu_seq_lens_q.diff().tolist()
    parts = zip(*(states.split(sizes, dim=2) for states in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, *part, None, **kwargs)[0] for part in parts], dim=1), None


def _packed_mask(q_length: int, kv_length: int, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    if attention_mask is None and q_length == kv_length:
        return None  # causal, within each sequence
    return sdpa_mask(q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **kwargs)


AttentionInterface.register(PACKED_SDPA, packed_sdpa_forward)
AttentionMaskInterface.register(PACKED_SDPA, _packed_mask)

__all__ = ["PACKED_SDPA", "label_positions", "next_labels", "packed_sdpa_forward", "sequence_numbers"]
