"""From dataset rows to training batches: rows are tokenised and featurised once, batches only pad and concatenate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor
from transformers import BatchFeature

from omnimol_hf.configuration_omnimol import GRAPH_FEATURES
from omnimol_hf.encoded_rows import ENCODED, EncodedRows
from omnimol_hf.packing_omnimol import label_positions
from omnimol_hf.processing_omnimol import OmniMolProcessor
from omnimol_hf.row_encoding import RowEncoder
from omnimol_hf.tasks import ALL_TASKS


def encode_row(row: dict[str, Any], processor: OmniMolProcessor, max_length: int | None = None) -> dict[str, Any]:
    """Token ids, labels and flattened graph arrays of one row; for many, `RowEncoder.encode` is much faster.

    A row that cannot be encoded comes back empty with the reason in `problem`, so that one bad row loses no other.
    """
    return RowEncoder(processor, max_length).encode([row])[0]


def encode_rows(
    rows: Dataset, processor: OmniMolProcessor, max_length: int | None = None, num_proc: int | None = None
) -> tuple[EncodedRows, Counter[str]]:
    """Encode a dataset of rows, once: the result lies beside the rows' own files, if they have some.

    It is found again as long as the rows, the processor's settings and tokenizer, `max_length`, the definition of
    features and the libraries that decide about them are the same, by whichever process.

    Returns:
        The encoded rows in their order, and how many were left out by task and reason, the reason with its first
        example.
    """
    encoder = RowEncoder(processor, max_length)
    encoded = rows.map(
        encoder.encode_columns,
        batched=True,
        features=ENCODED,
        remove_columns=rows.column_names,
        num_proc=num_proc,
        new_fingerprint=encoder.fingerprint(rows._fingerprint),
        desc="Encoding rows",
    )
    good = pc.equal(encoded.data.column("problem"), "").to_numpy()
    left_out: Counter[str] = Counter()
    example: dict[tuple[str, str], str] = {}
    for row in encoded.select_columns(["task", "problem"]).select(np.flatnonzero(~good)):
        reason = row["problem"].split(":")[0]
        left_out[f"{row['task']}: {example.setdefault((row['task'], reason), row['problem'])}"] += 1
    return EncodedRows(encoded, np.flatnonzero(good)), left_out


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
        lengths = np.array([len(row["input_ids"]) for row in rows])
        real = np.arange(lengths.max()) < lengths[:, None]
        batch = {
            "input_ids": _padded(rows, "input_ids", real, self.pad_token_id),
            "attention_mask": torch.from_numpy(real.astype(np.int64)),
            "labels": _padded(rows, "labels", real, -100),
            "task_ids": torch.tensor([_TASK_NUMBERS[row["task"]] for row in rows]),
        }
        batch["label_index"] = label_positions(batch["labels"])  # here, where nothing has to be waited for
        batch |= _joined_graphs(rows, self.graph_features)
        return batch


def prompt_batch(rows: Sequence[dict[str, Any]], pad_token_id: int, graph_features: str) -> BatchFeature:
    """Encoded prompts, which the model goes on from at their ends, as what `generate` takes: left-padded."""
    lengths = np.array([len(row["input_ids"]) for row in rows])
    real = np.arange(lengths.max()) >= lengths.max() - lengths[:, None]
    batch = {
        "input_ids": _padded(rows, "input_ids", real, pad_token_id),
        "attention_mask": torch.from_numpy(real.astype(np.int64)),
    }
    return BatchFeature(batch | _joined_graphs(rows, graph_features))


def _padded(rows: Sequence[dict[str, Any]], name: str, real: np.ndarray, fill: int) -> Tensor:
    padded = np.full(real.shape, fill, dtype=np.int64)
    padded[real] = np.concatenate([row[name] for row in rows])
    return torch.from_numpy(padded)


def _joined_graphs(rows: Sequence[dict[str, Any]], graph_features: str) -> dict[str, Tensor]:
    """The graphs of encoded rows as one, bonds counting atoms over the whole batch; nothing without any."""
    atom_columns, bond_columns = GRAPH_FEATURES[graph_features]
    atoms = np.concatenate([row["atom_features"] for row in rows]).reshape(-1, atom_columns)
    if not len(atoms):
        return {}
    ends = [row["bond_index"].reshape(2, -1) for row in rows]
    first = np.cumsum([0, *(len(row["atom_features"]) // atom_columns for row in rows[:-1])])
    bonds = np.concatenate(ends, axis=1) + first.repeat([part.shape[1] for part in ends])
    kinds = np.concatenate([row["bond_features"] for row in rows]).reshape(-1, bond_columns)
    return {
        "atom_features": torch.from_numpy(atoms.astype(np.int64)),
        "bond_index": torch.from_numpy(bonds),
        "bond_features": torch.from_numpy(kinds.astype(np.int64)),
    }
