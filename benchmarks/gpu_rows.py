"""Encoded rows with the real mixture's lengths, made up, and batches of the same rows for either side."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from benchmarks.baseline_data import PLACEHOLDER, BaselineCollator, Graph
from omnimol_hf import OmniMolConfig
from omnimol_hf.collation import TrainingCollator
from omnimol_hf.packing import PackedCollator

MEDIAN_LENGTH, P90_LENGTH = 138, 274  # of the real mixture's rows, graph tokens included
_LABELLED, _ATOMS = 0.3, 22  # what share of a row is its answer, and how many atoms its molecule has


def made_up_encoded(count: int, config: OmniMolConfig, seed: int = 0) -> list[dict[str, Any]]:
    """Rows as `encode_row` gives them, lengths log-normal with the real mixture's median and 90th percentile."""
    draw = np.random.default_rng(seed)
    sigma = math.log(P90_LENGTH / MEDIAN_LENGTH) / 1.2816
    lengths = np.clip(draw.lognormal(math.log(MEDIAN_LENGTH), sigma, count).astype(int), _ATOMS + 20, 1024)
    chain = np.stack([np.arange(_ATOMS - 1), np.arange(1, _ATOMS)])
    rows = []
    for length in lengths:
        ids = draw.integers(16, config.text_config.vocab_size, size=length)
        ids[ids == config.graph_token_id] = 16
        ids[10 : 10 + _ATOMS] = config.graph_token_id
        labels = np.where(np.arange(length) < length * (1 - _LABELLED), -100, ids)
        rows.append(
            {
                "task": "molecular_weight",
                "length": int(length),
                "input_ids": ids,
                "labels": labels,
                "atom_features": np.tile([5, 0, 4, 5, 2, 0, 2, 0, 0], _ATOMS) + np.arange(9 * _ATOMS) % 2,
                "bond_index": np.concatenate([chain, chain[::-1]], axis=1).ravel(),
                "bond_features": np.zeros(6 * (_ATOMS - 1), dtype=np.int64),
            }
        )
    return rows


def product_batches(rows: list[dict[str, Any]], batch: int, pad: int, packed: bool = False) -> list[dict[str, Any]]:
    """The product's batches of all rows: rows of similar length together, or packed as they come."""
    ordered = rows if packed else sorted(rows, key=lambda row: row["length"])
    collate = PackedCollator(TrainingCollator(pad)) if packed else TrainingCollator(pad)
    return [collate(ordered[i : i + batch]) for i in range(0, len(rows), batch)]


def baseline_batches(rows: list[dict[str, Any]], batch: int, pad: int, graph_token: int) -> list[dict[str, Any]]:
    """The baseline's batches: as the rows come, one placeholder a graph, padded to the longest."""

    def row(encoded: dict[str, Any]) -> dict[str, Any]:
        ids, labels = (np.asarray(encoded[name], dtype=np.int64) for name in ("input_ids", "labels"))
        places = np.flatnonzero(ids == graph_token)
        kept = np.ones(len(ids), dtype=bool)
        kept[places[1:]] = False
        ids = ids.copy()
        ids[places[:1]] = PLACEHOLDER
        graph: Graph | None = None
        if len(places):
            shapes = {"atom_features": (-1, 9), "bond_index": (2, -1), "bond_features": (-1, 3)}
            graph = tuple(
                torch.from_numpy(np.asarray(encoded[name], dtype=np.int64).reshape(shape))
                for name, shape in shapes.items()
            )
        return {"input_ids": torch.from_numpy(ids[kept]), "labels": torch.from_numpy(labels[kept]), "graph": graph}

    collate = BaselineCollator(pad)
    return [collate([row(one) for one in rows[i : i + batch]]) for i in range(0, len(rows), batch)]
