"""Sequence packing: the rows of a micro-batch one after the other in one row, without padding or cross-talk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from omnimol_hf.packing_omnimol import PACKED_SDPA, label_positions


@dataclass
class PackedCollator:
    """Packs what another collator pads.

    Each row stays a sequence of its own: its positions begin at 0, it sees no other row's tokens, and it enters the
    balance loss by itself. Loss and gradients are those of the padded batch.

    Args:
        collator: makes the padded batch of rows, as `TrainingCollator` does.
    """

    collator: Callable[[Iterable[dict[str, Any]]], dict[str, Tensor]]

    def __call__(self, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Make one batch.

        Returns:
            The padded batch with `input_ids` and `labels` `(1, tokens)`, without `attention_mask`, and with
            `position_ids` `(1, tokens)` and transformers' arguments of varlen attention: `cu_seq_lens_q`, `_k`
            `(rows + 1,)` int32, `max_length_q`, `_k`.
        """
        batch: dict[str, Any] = self.collator(rows)
        mask = batch.pop("attention_mask")
        real = mask.bool()
        lengths = mask.sum(1)
        cu_seq_lens = F.pad(lengths.cumsum(0), (1, 0)).int()
        batch["input_ids"], batch["labels"] = batch["input_ids"][real][None], batch["labels"][real][None]
        batch["position_ids"] = (mask.cumsum(1) - 1)[real][None]
        batch["label_index"] = label_positions(batch["labels"], cu_seq_lens)
        batch["cu_seq_lens_q"] = batch["cu_seq_lens_k"] = cu_seq_lens
        batch["max_length_q"] = batch["max_length_k"] = int(lengths.max())
        return batch


def prepare_attention(model: PreTrainedModel) -> None:
    """Let a model on a CPU attend within each sequence of a packed row instead of masking the products between them.

    On a GPU "flash_attention_2" does so by itself, and "flex_attention" and "sdpa" go by the `position_ids`.
    """
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(PACKED_SDPA)
