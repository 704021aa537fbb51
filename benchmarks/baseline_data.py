"""The baseline's data path: every access decodes, parses, featurises and tokenises a row anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import selfies
import torch
from rdkit import Chem
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from omnimol_hf.chemistry_omnimol import graph_components
from omnimol_hf.processing_omnimol import SYSTEM_PROMPT
from omnimol_hf.tasks import ALL_TASKS

PLACEHOLDER = -200
_IMAGE = "<image>"
Graph = tuple[Tensor, Tensor, Tensor]
"""Atom features `(atoms, 9)`, bond ends `(2, bonds)` and bond features `(bonds, 3)`, all int64."""

# OGB's lists, searched value by value; the last entry of a list stands for all others.
_CHIRAL = ["CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW", "misc"]
_HYBRID = ["SP", "SP2", "SP3", "SP3D", "SP3D2", "misc"]
_NUMBERS, _DEGREES, _CHARGES = [*range(1, 119), "misc"], [*range(11), "misc"], [*range(-5, 6), "misc"]
_HYDROGENS, _RADICALS, _BOOLEANS = [*range(9), "misc"], [*range(5), "misc"], [False, True]
_BONDS = ["SINGLE", "DOUBLE", "TRIPLE", "AROMATIC", "misc"]
_STEREO = ["STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS", "STEREOANY"]


def _place(values: list, value: Any) -> int:
    try:
        return values.index(value)
    except ValueError:
        return len(values) - 1


def selfies_graph(sequence: str) -> Graph:
    """The graph of a SELFIES string: SELFIES to SMILES to molecule, then a loop over its atoms and bonds."""
    mol = Chem.MolFromSmiles(selfies.decoder(sequence))
    atoms = [
        [
            _place(_NUMBERS, atom.GetAtomicNum()),
            _place(_CHIRAL, str(atom.GetChiralTag())),
            _place(_DEGREES, atom.GetTotalDegree()),
            _place(_CHARGES, atom.GetFormalCharge()),
            _place(_HYDROGENS, atom.GetTotalNumHs()),
            _place(_RADICALS, atom.GetNumRadicalElectrons()),
            _place(_HYBRID, str(atom.GetHybridization())),
            _place(_BOOLEANS, atom.GetIsAromatic()),
            _place(_BOOLEANS, atom.IsInRing()),
        ]
        for atom in mol.GetAtoms()
    ]
    ends, bonds = [], []
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        features = [
            _place(_BONDS, str(bond.GetBondType())),
            _place(_STEREO, str(bond.GetStereo())),
            _place(_BOOLEANS, bond.GetIsConjugated()),
        ]
        ends += [(i, j), (j, i)]
        bonds += [features, features]
    edges = np.array(ends, dtype=np.int64).T if ends else np.empty((2, 0), dtype=np.int64)
    kinds = np.array(bonds, dtype=np.int64) if bonds else np.empty((0, 3), dtype=np.int64)
    return torch.from_numpy(np.array(atoms, dtype=np.int64)), torch.from_numpy(edges), torch.from_numpy(kinds)


def row_graph(row: dict[str, Any]) -> Graph | None:
    """The graph of a dataset row, from the SELFIES in its input."""
    rule = ALL_TASKS[row["task"]].graph_rule
    return None if rule == "none" else selfies_graph(".".join(graph_components(row["input"], rule)))


def prompt_text(row: dict[str, Any], with_graph: bool) -> str:
    """The chat up to the answer, with one placeholder for the whole graph."""
    question = ALL_TASKS[row["task"]].prompt.format(instruction=row["instruction"], input=row["input"])
    return (
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM_PROMPT}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{_IMAGE + chr(10) if with_graph else ''}{question}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def tokenise(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids, the parts before and after the placeholder tokenised one by one."""
    parts = [tokenizer(part, add_special_tokens=False).input_ids for part in text.split(_IMAGE)]
    return parts[0] if len(parts) == 1 else [*parts[0], PLACEHOLDER, *parts[1]]


def tokenised_row(row: dict[str, Any], with_graph: bool, tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """`input_ids` and `labels`. The text is tokenised as a whole, as a round, and up to the answer, to mask that."""
    prompt = prompt_text(row, with_graph)
    whole = prompt + row["output"] + "<|eot_id|>"
    ids = tokenise(whole, tokenizer)
    rounds = tokenise(whole, tokenizer)
    asked = tokenise(prompt, tokenizer)
    labels = [-100] * len(asked) + ids[len(asked) : len(rounds)]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


class BaselineRows(Dataset):
    """Dataset rows that are prepared again at every access."""

    def __init__(self, rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> None:
        self.rows, self.tokenizer = rows, tokenizer

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number]
        graph = row_graph(row)
        return tokenised_row(row, graph is not None, self.tokenizer) | {"graph": graph}


class BaselineCollator:
    """Right-pads to the longest row; graphs stay a list, one a row."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        pad = torch.nn.utils.rnn.pad_sequence
        ids = [row["input_ids"] for row in rows]
        return {
            "input_ids": pad(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad([torch.ones_like(one) for one in ids], batch_first=True),
            "labels": pad([row["labels"] for row in rows], batch_first=True, padding_value=-100),
            "graphs": [row["graph"] for row in rows],
        }
