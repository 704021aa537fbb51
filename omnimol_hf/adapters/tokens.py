"""Single rows of the token embeddings and of the head that train while the others are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils import TrainableTokensWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel


def trained_rows(model: PreTrainedModel, token_ids: Sequence[int]) -> dict[str, list[int]]:
    """PEFT's setting `trainable_token_indices` for some tokens; a head that is not tied has rows of its own."""
    layers = ["embed_tokens"] if model.config.tie_word_embeddings else ["embed_tokens", "lm_head"]
    return {layer: list(token_ids) for layer in layers}


class TokenRows(TrainableTokensLayer):
    """PEFT's layer for rows that train, at a cost that does not grow with the vocabulary.

    PEFT's own writes the rows into a copy of the whole matrix in each forward pass, whose gradient is as large. Here
    the frozen matrix is used as it is, and what the rows have changed since their start is added where they are met.
    """

    def prepare(self, adapter_name: str) -> None:
        """Lay out where an adapter's rows are: `(rows,)` ids, and `(vocabulary,)` 0 for the frozen, else 1, 2, ..."""
        ids = torch.tensor(self.token_indices[adapter_name], device=self.base_layer.weight.device)
        slots = torch.zeros(len(self.base_layer.weight), dtype=torch.int64, device=ids.device)
        slots[ids] = torch.arange(1, len(ids) + 1, device=ids.device)
        self.register_buffer(f"ids_{adapter_name}", ids, persistent=False)
        self.register_buffer(f"slots_{adapter_name}", slots, persistent=False)

    def forward_adapters(self, x: Tensor, active_adapters: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Embeddings `(..., hidden)` of token ids, or logits `(..., vocabulary)` of hidden states."""
        if self.disable_adapters or self.merged or not active_adapters:
            return super().forward_adapters(x, active_adapters, *args, **kwargs)
        (adapter,) = active_adapters  # PEFT has no more than one
        change = self.trainable_tokens_delta[adapter] - self.trainable_tokens_original[adapter]
        result = self.base_layer(x)
        if isinstance(self.base_layer, nn.Embedding):
            slots = self.get_buffer(f"slots_{adapter}")[x]
            return result + F.embedding(slots, F.pad(change, (0, 0, 1, 0))).to(result.dtype)
        ids = self.get_buffer(f"ids_{adapter}")
        return result.index_add_(-1, ids, F.linear(x, change.to(x.dtype)).to(result.dtype))


def make_rows_cheap(model: nn.Module, adapter_name: str) -> None:
    """Have a model's trained rows computed by `TokenRows`; what is saved, loaded and merged stays PEFT's."""
    for module in model.modules():
        if isinstance(module, TrainableTokensWrapper) and adapter_name in module.token_adapter.token_indices:
            # PEFT has no place to say which class it is to make; this one has the same state.
            module.token_adapter.__class__ = TokenRows
            module.token_adapter.prepare(adapter_name)


__all__ = ["TokenRows", "make_rows_cheap", "trained_rows"]
