"""Attention over slots, token by token, against attention written out for each row and head."""

import pytest
import torch

from omnimol_hf.decoding_slots import BagTokenSlots, Slots, TokenSlots, token_slots
from tests import tiny

LENGTHS = [3, 31, 32, 33, 64, 90]  # at, before and behind the ends of blocks of 32 places
ROOM = 40


def filled(heads: int, kv_heads: int, dtype: torch.dtype = torch.float32) -> Slots:
    """Slots in which rows of `LENGTHS` lie; what is behind their ends is not to be seen."""
    text = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "num_hidden_layers": 4}
    slots = Slots(tiny.model(text=text).to(dtype), len(LENGTHS), max(LENGTHS) + ROOM)
    for data in (slots.keys, slots.values):
        for slot, length in enumerate(LENGTHS):
            data[:, slot, :, :length] = torch.randn_like(data[:, slot, :, :length])
    return slots


def written_out(q, keys, values):
    """One row: queries `(heads, size)`, keys and values `(key heads, places, size)`."""
    sharing = len(q) // len(keys)
    heads = []
    for head, query in enumerate(q.double()):
        seen, value = keys[head // sharing].double(), values[head // sharing].double()
        heads.append((seen @ query / query.shape[0] ** 0.5).softmax(0) @ value)
    return torch.cat(heads)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("kind", [TokenSlots, BagTokenSlots])
def test_attention_of_new_tokens(kind, heads, kv_heads):
    prompts = filled(heads, kv_heads)
    size = prompts.keys.shape[-1]
    rows = [(prompts.keys[:, i, :, :n].clone(), prompts.values[:, i, :, :n].clone()) for i, n in enumerate(LENGTHS)]
    slots, lengths = kind(prompts), list(LENGTHS)
    for step in range(ROOM):
        if step == 5:  # the second row has ended, and the last one takes its slot
            slots.move([5], [1])
            rows[1], lengths[1] = rows[5], lengths[5]
            rows, lengths = rows[:5], lengths[:5]
        attend, new = slots.attend(lengths), []
        for layer in range(4):
            q = torch.randn(len(rows), heads, size)
            k, v = torch.randn(2, len(rows), kv_heads, size)
            found = attend(layer, q, k, v)
            new.append((k, v))
            for i, (keys, values) in enumerate(rows):
                seen = (torch.cat([old[layer], one[i][:, None]], 1) for old, one in ((keys, k), (values, v)))
                torch.testing.assert_close(found[i].double(), written_out(q[i], *seen), rtol=1e-5, atol=1e-6)
        k, v = (torch.stack(part) for part in zip(*new, strict=True))
        rows = [
            tuple(torch.cat([old, one[:, i, :, None]], 2) for old, one in zip(row, (k, v), strict=True))
            for i, row in enumerate(rows)
        ]
        lengths = [length + 1 for length in lengths]


def test_sums_of_rows_are_for_fp32_on_a_cpu():
    assert type(token_slots(filled(4, 2))) is BagTokenSlots
    assert type(token_slots(filled(4, 2, torch.float64))) is TokenSlots
    assert type(token_slots(filled(4, 2, torch.bfloat16))) is TokenSlots
