"""Conversion to and from torch_geometric's Data."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.utils import from_smiles

from omnimol_hf.chemistry_omnimol import GRAPH_FEATURES, mol_from_smiles, molecule_graph
from omnimol_hf.pyg import data_to_graph, graph_to_data

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def _assert_same(left, right):
    for name in ("atom_features", "bond_index", "bond_features"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@pytest.mark.parametrize("features", GRAPH_FEATURES)
@pytest.mark.parametrize("smiles", [ASPIRIN, "[Na+].[Cl-]", "C"])
def test_there_and_back(smiles, features):
    data = graph_to_data(smiles, features)
    assert (data.x.shape[1], data.edge_attr.shape[1]) == GRAPH_FEATURES[features]
    assert data.validate()
    assert data.is_undirected()
    _assert_same(data_to_graph(data, features), molecule_graph(mol_from_smiles(smiles), features))


def test_a_graph_keeps_its_features_and_batches():
    graph = molecule_graph(mol_from_smiles(ASPIRIN))
    data = graph_to_data(graph)
    _assert_same(type(graph)(data.x.numpy(), data.edge_index.numpy(), data.edge_attr.numpy()), graph)
    batch = Batch.from_data_list([data, graph_to_data("C"), data])
    assert batch.x.shape == (13 + 1 + 13, 9)
    assert torch.equal(batch.edge_index[:, -26:], data.edge_index + 14)


def test_data_of_pyg_itself_comes_in_through_its_smiles():
    _assert_same(data_to_graph(from_smiles(ASPIRIN)), molecule_graph(mol_from_smiles(ASPIRIN)))


@pytest.mark.parametrize(
    "data",
    [
        Data(x=torch.zeros(3, 9, dtype=torch.long)),
        Data(x=torch.zeros(3, 9, dtype=torch.long), smiles=None),
        Batch.from_data_list([from_smiles("C"), from_smiles("CC")]),
    ],
)
def test_data_without_one_smiles_is_refused(data):
    with pytest.raises(ValueError, match=r"has no SMILES string in `\.smiles`"):
        data_to_graph(data)


def test_bad_smiles_name_themselves():
    with pytest.raises(ValueError, match=r"'c1cccc1'.*kekulize"):
        graph_to_data("c1cccc1")
