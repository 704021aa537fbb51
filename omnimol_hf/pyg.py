"""Molecules between this package and `torch_geometric`; needs torch-geometric, which loading the model does not.

`Data` objects in the wild (`from_smiles`, `QM9`, ...) hold integer codes of other vocabularies than the graph
encoder's, or floats, so features are never taken over from them: a molecule comes back from its `.smiles`.
"""

from __future__ import annotations

import torch
from torch_geometric.data import Data

from .chemistry_omnimol import MoleculeGraph, mol_from_smiles, molecule_graph


def graph_to_data(molecule: MoleculeGraph | str, features: str = "ogb9") -> Data:
    """Turns a graph, or a SMILES string by way of its graph, into a `Data` object.

    Args:
        molecule: a graph, whose features are kept, or SMILES.
        features: feature set for SMILES (`GRAPH_FEATURES`).

    Returns:
        `x` `(N, 9 | 2)`, `edge_index` `(2, 2 * M)` and `edge_attr` `(2 * M, 3 | 2)`, all int64, and, if SMILES was
        given, `smiles`, without which a `Data` object cannot be turned back.

    Raises:
        ValueError: a bad SMILES string, as `mol_from_smiles` and `molecule_graph` say.
    """
    if isinstance(molecule, str):
        data = graph_to_data(molecule_graph(mol_from_smiles(molecule), features))
        data.smiles = molecule
        return data
    return Data(
        x=torch.from_numpy(molecule.atom_features),
        edge_index=torch.from_numpy(molecule.bond_index),
        edge_attr=torch.from_numpy(molecule.bond_features),
    )


def data_to_graph(data: Data, features: str = "ogb9") -> MoleculeGraph:
    """Builds the model's graph from a `Data` object's `smiles`; atoms are in the order of that string.

    Raises:
        ValueError: no `smiles` on it, a batch of molecules, or a bad SMILES string.
    """
    smiles = getattr(data, "smiles", None)
    if not isinstance(smiles, str):
        raise ValueError(
            f"{data} has no SMILES string in `.smiles` (found {type(smiles).__name__}): its features have other codes "
            "than the model's, so the molecule must come with it; split a batch with `to_data_list()`"
        )
    return molecule_graph(mol_from_smiles(smiles), features)


__all__ = ["data_to_graph", "graph_to_data"]
