"""Encoded rows as they lie on disk: Arrow columns read through numpy views, no Python object per number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, Features, List, Value

from omnimol_hf.tasks import ALL_TASKS

ENCODED = Features(
    {
        "task": Value("string"),
        "length": Value("int32"),
        "input_ids": List(Value("int32")),
        "labels": List(Value("int32")),
        "atom_features": List(Value("uint8")),
        "bond_index": List(Value("int16")),
        "bond_features": List(Value("uint8")),
        "problem": Value("string"),
    }
)
ARRAYS = tuple(name for name, feature in ENCODED.items() if isinstance(feature, List))


def encoded_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows with the keys of `ENCODED`, arrays one-dimensional, as one table of that schema.

    Raises:
        pyarrow.ArrowInvalid: for a number that its column cannot hold.
    """
    columns = {}
    for name, field in zip(ENCODED, ENCODED.arrow_schema, strict=True):
        values = [row[name] for row in rows]
        if name in ARRAYS:
            ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
            numbers = pa.array(np.concatenate(values)).cast(field.type.value_type)
            columns[name] = pa.ListArray.from_arrays(pa.array(ends), numbers, type=field.type)
        else:
            columns[name] = pa.array(values, field.type)
    return pa.table(columns, schema=ENCODED.arrow_schema)


class EncodedRows(torch.utils.data.Dataset):
    """Rows of an encoded dataset: a row is a dict of numpy views, a column comes by its name.

    `rows[i]` has `task` (str), `length` (int) and, one-dimensional and read-only, `input_ids` and `labels` (int32),
    `atom_features` (uint8, atom after atom), `bond_index` (int16, all sources, then all targets) and `bond_features`
    (uint8). `rows["task"]`, `rows["length"]` and `rows["row"]` are arrays with an entry a row.

    A copy for another process has no copy of the rows when they lie on disk: it maps the same files.

    Args:
        encoded: what `encoded_table` made, without an indices mapping.
        row: `(rows,)`, which rows of it these are, in this order.
    """

    def __init__(self, encoded: Dataset, row: np.ndarray) -> None:
        self.encoded = encoded
        self.row = row
        # Tables grow batch by batch; each batch has its own buffers, the same for all columns.
        batches = [batch for batch in encoded.data.to_batches() if len(batch)]
        self._starts = np.cumsum([0, *map(len, batches)])[:-1].tolist()
        self._views = [
            [(name, batch[name].offsets.to_numpy(), batch[name].values.to_numpy()) for name in ARRAYS]
            for batch in batches
        ]
        self.length = encoded.data.column("length").to_numpy()[row]
        tasks = pc.index_in(encoded.data.column("task"), value_set=pa.array(ALL_TASKS))
        self.task = np.array([*ALL_TASKS], dtype=object)[tasks.take(pa.array(row)).to_numpy()]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, key: int | str) -> dict[str, Any] | np.ndarray:
        if isinstance(key, str):
            return {"task": self.task, "length": self.length, "row": self.row}[key]
        place = self.row[key]
        part = bisect_right(self._starts, place) - 1
        place -= self._starts[part]
        row = {"task": self.task[key], "length": int(self.length[key])}
        for name, ends, values in self._views[part]:
            row[name] = values[ends[place] : ends[place + 1]]
        return row

    def __getitems__(self, keys: Iterable[int]) -> list[dict[str, Any]]:
        """The rows of a batch, as `DataLoader` asks for them."""
        return [self[key] for key in keys]

    def select(self, places: Sequence[int] | np.ndarray) -> EncodedRows:
        """The rows at these places, in this order; nothing is copied."""
        return EncodedRows(self.encoded, self.row[np.asarray(places, dtype=np.int64)])

    def __reduce__(self) -> tuple[type, tuple[Dataset, np.ndarray]]:
        return EncodedRows, (self.encoded, self.row)
