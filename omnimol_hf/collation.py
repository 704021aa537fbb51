"""From dataset rows to training batches: rows are tokenised and featurised once, batches only pad and concatenate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omnimol_hf.configuration_omnimol import GRAPH_FEATURES
from omnimol_hf.packing_omnimol import label_positions
from omnimol_hf.processing_omnimol import OmniMolProcessor
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


def encode_row(row: dict[str, Any], processor: OmniMolProcessor, max_length: int | None = None) -> dict[str, Any]:
    """Token ids, labels and flattened graph arrays of one row.

    A row that cannot be encoded comes back empty with the reason in `problem`, so that one bad row loses no other.
    """
    nothing = np.zeros(0, dtype=np.int64)  # an empty list would be taken for floats
    empty = {"task": row["task"], "length": 0} | {name: nothing for name in ENCODED if isinstance(ENCODED[name], List)}
    try:
        features = processor.apply_chat_template(
            processor.row_messages(row), tokenize=True, return_dict=True, return_labels=True
        )
    except ValueError as error:
        return empty | {"problem": f"unreadable: {error}"}
    length = len(features["input_ids"])
    if max_length is not None and length > max_length:
        return empty | {"problem": f"longer than max_length={max_length}"}
    graph = {
        name: np.ravel(features[name]) if name in features else nothing
        for name in ("atom_features", "bond_index", "bond_features")
    }
    row_ids = {name: features[name] for name in ("input_ids", "labels")}
    return {"task": row["task"], "length": length, "problem": "", **row_ids, **graph}


def encode_rows(
    rows: Dataset,
    processor: OmniMolProcessor,
    max_length: int | None = None,
    num_proc: int | None = None,
    number_rows: bool = False,
) -> tuple[Dataset, Counter[str]]:
    """Encode a dataset of rows.

    Args:
        number_rows: add the column `row`: which of `rows` each one was.

    Returns:
        The encoded rows in their order, and how many were left out by task and reason, the reason with its first
        example.
    """
    encoded = rows.map(
        encode_row,
        fn_kwargs={"processor": processor, "max_length": max_length},
        features=ENCODED,
        remove_columns=[name for name in rows.column_names if name not in ENCODED],
        num_proc=num_proc,
        desc="Encoding rows",
    )
    problems = encoded["problem"]
    if number_rows:
        encoded = encoded.add_column("row", np.arange(len(rows)))
    kept = [i for i, problem in enumerate(problems) if not problem]
    left_out: Counter[str] = Counter()
    example: dict[tuple[str, str], str] = {}
    for task, problem in zip(encoded["task"], problems, strict=True):
        if problem:
            reason = problem.split(":")[0]
            left_out[f"{task}: {example.setdefault((task, reason), problem)}"] += 1
    return encoded.select(kept).with_format("numpy"), left_out


_TASK_NUMBERS = {task: number for number, task in enumerate(ALL_TASKS)}


@dataclass
class TrainingCollator:
    """Right-pads encoded rows and joins their graphs.

    Args:
        pad_token_id: fills `input_ids`; `attention_mask` is 0 and `labels` -100 there.
        graph_features: the processor's.
    """

    pad_token_id: int
    graph_features: str = "ogb9"

    def __call__(self, rows: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
        """Make one batch.

        Returns:
            What `OmniMolForCausalLM.forward` takes, and `task_ids` `(batch,)` int64 for the trainer: each row's task
            as its position in `ALL_TASKS`.
        """
        rows = list(rows)
        ids = [torch.as_tensor(np.asarray(row["input_ids"], dtype=np.int64)) for row in rows]
        labels = [torch.as_tensor(np.asarray(row["labels"], dtype=np.int64)) for row in rows]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
            "task_ids": torch.tensor([_TASK_NUMBERS[str(row["task"])] for row in rows]),
        }
        batch["label_index"] = label_positions(batch["labels"])  # here, where nothing has to be waited for
        atom_columns, bond_columns = GRAPH_FEATURES[self.graph_features]
        atoms = [np.asarray(row["atom_features"], dtype=np.int64).reshape(-1, atom_columns) for row in rows]
        if any(map(len, atoms)):
            first = np.cumsum([0, *map(len, atoms[:-1])])
            bonds = [
                np.asarray(row["bond_index"], dtype=np.int64).reshape(2, -1) + start
                for row, start in zip(rows, first, strict=True)
            ]
            kinds = [np.asarray(row["bond_features"], dtype=np.int64).reshape(-1, bond_columns) for row in rows]
            batch["atom_features"] = torch.from_numpy(np.concatenate(atoms))
            batch["bond_index"] = torch.from_numpy(np.concatenate(bonds, axis=1))
            batch["bond_features"] = torch.from_numpy(np.concatenate(kinds))
        return batch
