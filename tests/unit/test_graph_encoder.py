"""The graph encoder: parity with the same network in PyG's message passing, and that nothing can unfreeze it."""

import csv
import itertools
import os
from pathlib import Path

import pytest
import torch
from rdkit import Chem, RDConfig
from torch import nn
from torch_geometric.nn import MessagePassing

from omnimol_hf.chemistry_omnimol import GRAPH_FEATURES, mol_from_smiles, molecule_graph
from omnimol_hf.configuration_omnimol import OmniMolGraphConfig
from omnimol_hf.graph_encoder_omnimol import OmniMolGraphEncoder, distinct_atoms, load_moleculestm

SMALL = {"hidden_size": 16, "num_layers": 3}
ODD = [
    "C",
    "[H+]",
    "[Na+].[Cl-]",
    "*CC",
    "[NH3]->[Cu]",
    "C[Pt@SP1](F)(Cl)Br",
    "[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1",
    "C" * 200,
]


class PyGLayer(MessagePassing):
    """A GIN layer with bond features, as PyG's users write it."""

    def __init__(self, width):
        super().__init__(aggr="add")
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.BatchNorm1d(2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )
        self.eps = nn.Parameter(torch.zeros(1))
        self.bond_encoder = nn.Module()
        self.bond_encoder.bond_embedding_list = nn.ModuleList(nn.Embedding(size, width) for size in (5, 6, 2))

    def forward(self, x, edge_index, edge_attr):
        bonds = sum(self.bond_encoder.bond_embedding_list[k](edge_attr[:, k]) for k in range(edge_attr.shape[1]))
        return self.mlp((1 + self.eps) * x + self.propagate(edge_index, x=x, bonds=bonds))

    def message(self, x_j, bonds):
        return torch.relu(x_j + bonds)


class PyGReference(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.atom_encoder = nn.Module()
        sizes = (119, 4, 12, 12, 10, 6, 6, 2, 2)
        self.atom_encoder.atom_embedding_list = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.gnns = nn.ModuleList(PyGLayer(width) for _ in range(layers))
        self.batch_norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(layers))

    def forward(self, x, edge_index, edge_attr):
        atoms = sum(self.atom_encoder.atom_embedding_list[k](x[:, k]) for k in range(x.shape[1]))
        for depth, (gnn, norm) in enumerate(zip(self.gnns, self.batch_norms, strict=True)):
            atoms = norm(gnn(atoms, edge_index, edge_attr))
            if depth < len(self.gnns) - 1:
                atoms = atoms.relu()
        return atoms


def reference(config):
    """The PyG network with random weights, `eps` and BatchNorm statistics."""
    network = PyGReference(config.hidden_size, config.num_layers).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith(("running_mean", "eps")):
                tensor.normal_(std=0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
    return network


def tensors(smiles, features="ogb9"):
    graph = molecule_graph(mol_from_smiles(smiles), features)
    return [torch.from_numpy(array) for array in (graph.atom_features, graph.bond_index, graph.bond_features)]


def batched(graphs):
    offsets = itertools.accumulate((len(atoms) for atoms, _, _ in graphs), initial=0)
    atoms, index, bonds = zip(*graphs, strict=True)
    index = [pairs + offset for pairs, offset in zip(index, offsets, strict=False)]
    return torch.cat(atoms), torch.cat(index, dim=1), torch.cat(bonds)


def real_molecules():
    with (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").open() as lines:
        return [line.split()[0] for line in itertools.islice(lines, 25)]


@pytest.fixture
def encoder():
    return OmniMolGraphEncoder(OmniMolGraphConfig(**SMALL))


def moleculestm_state(config):
    """A state dict named as in MoleculeSTM's published file: the whole pooled network."""
    state = {f"molecule_node_model.{name}": value for name, value in reference(config).state_dict().items()}
    return state | {"graph_pred_linear.weight": torch.zeros(1, 300), "graph_pred_linear.bias": torch.zeros(1)}


# --- parity ----------------------------------------------------------------------------------------------------------


def assert_parity(smiles, features):
    config = OmniMolGraphConfig()
    theirs, ours = reference(config), OmniMolGraphEncoder(config)
    ours.load_state_dict(theirs.state_dict())
    graphs = [tensors(one, features) for one in smiles]
    together = ours(*batched(graphs))
    assert together.dtype == torch.float32
    with torch.no_grad():
        expected = [theirs(*graph) for graph in graphs]
    torch.testing.assert_close(together, torch.cat(expected), rtol=1e-5, atol=1e-5)
    alone = torch.cat([ours(*graph) for graph in graphs])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("features", GRAPH_FEATURES)
def test_parity_with_pyg_and_batched_equals_one_by_one(features):
    assert_parity(real_molecules() + ODD, features)


def test_parity_on_molecules_of_chebi_and_qm9(shared):
    with (shared / "raw" / "chebi_20" / "test.txt").open(encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        chebi = [row["SMILES"] for row in itertools.islice(rows, 60)]
    with (shared / "raw" / "qm9" / "qm9.csv").open(encoding="utf-8") as file:
        qm9 = [row["smiles"] for row in itertools.islice(csv.DictReader(file), 60)]
    assert_parity(chebi + qm9, "ogb9")


def test_atoms_permute_with_the_input(encoder):
    atoms, index, bonds = tensors(real_molecules()[7])
    order = torch.randperm(len(atoms))
    place = torch.argsort(order)
    shuffle = torch.randperm(len(bonds))
    permuted = encoder(atoms[order], place[index][:, shuffle], bonds[shuffle])
    torch.testing.assert_close(permuted, encoder(atoms, index, bonds)[order])


def test_messages_go_from_source_to_target(encoder):
    atoms, index, bonds = tensors("CO")
    alone = encoder(atoms, index[:, :0], bonds[:0])
    source, target = index[:, 0].tolist()
    difference = (encoder(atoms, index[:, :1], bonds[:1]) - alone).abs().amax(1)
    assert difference[source] < 1e-6 < difference[target]


def test_each_layer_reaches_one_bond_further():
    """With L layers an atom sees what changes L bonds away and nothing further."""
    encoder = OmniMolGraphEncoder(OmniMolGraphConfig(**SMALL))
    atoms, index, bonds = tensors("C" * 9)
    changed = atoms.clone()
    changed[4, 0] = 7
    difference = (encoder(atoms, index, bonds) - encoder(changed, index, bonds)).abs().amax(1)
    assert (difference > 1e-6).tolist() == [False] + [True] * 7 + [False]


@pytest.mark.parametrize(
    ("smiles", "kinds"),
    [
        (["c1ccccc1"], 1),
        (["Cc1ccccc1"], 5),
        (["CCCCCCCCCC"], 5),
        (["CCO", "OCC", "CCO"], 3),  # the same in any order of atoms
        (["[Na+].[Cl-]", "[Cl-]"], 2),
        (["C", "[13CH4]", "[CH3]"], 2),  # isotopes have no feature
        (["C" * 40 + "O", "C" * 41 + "O"], 83),  # told apart by ends that are 40 bonds away
        (["C1CCCCCCCCC1", "C1CCCC1.C1CCCC1"], 1),  # as many message-passing layers as there may be see no difference
    ],
)
def test_atoms_that_are_alike(smiles, kinds):
    first, of_atom = distinct_atoms(*(part.numpy() for part in batched([tensors(one) for one in smiles])))
    assert len(first) == kinds
    assert (of_atom[first] == torch.arange(kinds)).all()


def test_atoms_that_rdkit_calls_equal_and_others():
    """Where symmetry is all that makes atoms alike, RDKit's classes are the same partition."""
    for smiles in (
        "Cc1ccc(O)cc1",
        "CC(C)(C)C(=O)O",
        "c1ccc2ccccc2c1",
        "C1CC1C(F)(F)F",
        "CN1CCN(C)CC1",
        "OC(=O)CCC(O)=O",
    ):
        mol = mol_from_smiles(smiles)
        _, of_atom = distinct_atoms(*(part.numpy() for part in tensors(smiles)))
        ours, theirs = of_atom.tolist(), list(Chem.CanonicalRankAtoms(mol, breakTies=False))
        assert len(set(ours)) == len(set(theirs)) == len(set(zip(ours, theirs, strict=True)))


def test_alike_atoms_are_encoded_as_if_they_were_not():
    encoder = OmniMolGraphEncoder(OmniMolGraphConfig())
    graph = batched([tensors(one) for one in real_molecules() + ODD + real_molecules()[:10]])
    first, _ = distinct_atoms(*(part.numpy() for part in graph))
    assert len(first) < 0.9 * len(graph[0])
    torch.testing.assert_close(encoder(*graph), encoder.message_passing(*graph), rtol=1e-5, atol=1e-5)


def test_a_bond_to_no_atom_is_named(encoder):
    atoms, index, bonds = tensors("CO")
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=rf"bond_index names atoms .*{wrong}.*; there are 2"):
            encoder(atoms, torch.where(index == 1, wrong, index), bonds)


@pytest.mark.parametrize("feature", [-256, -1, 119, 256])
def test_a_feature_that_no_table_has_is_refused(encoder, feature):
    """Also where 256 in one column might be taken for 1 in the next."""
    atoms, index, bonds = tensors("C.C")
    atoms[0, 0], atoms[0, 1] = 0, feature // 256
    atoms[1, 0], atoms[1, 1] = feature, 0
    with pytest.raises(IndexError):
        encoder(atoms, index, bonds)


def test_no_bonds_and_no_atoms(encoder):
    long = {"dtype": torch.long}
    assert encoder(torch.zeros(0, 9, **long), torch.zeros(2, 0, **long), torch.zeros(0, 3, **long)).shape == (0, 16)
    assert encoder(*tensors("C")).shape == (1, 16)
    torch.testing.assert_close(encoder(*tensors("C.C.O"))[0], encoder(*tensors("C"))[0])


def test_random_weights_tell_atoms_apart_at_unit_scale():
    vectors = OmniMolGraphEncoder(OmniMolGraphConfig())(*batched([tensors(smiles) for smiles in real_molecules()]))
    assert 0.3 < vectors.pow(2).mean().sqrt() < 3
    assert vectors.var(0).sum() > 0.3 * vectors.pow(2).mean(0).sum()


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("atoms", "index", "bonds", "reason"),
    [
        ((4, 8), (2, 6), (6, 3), r"\(4, 8\)"),
        ((4, 9), (2, 6), (6, 2), r"\(6, 2\)"),
        ((4, 2), (2, 6), (6, 3), r"\(6, 3\)"),
        ((4, 9), (2, 6), (5, 3), r"\(5, 3\)"),
        ((4, 9), (6, 2), (6, 3), r"\(6, 2\)"),
        ((9,), (2, 6), (6, 3), r"\(9,\)"),
    ],
)
def test_wrong_shapes_are_named(encoder, atoms, index, bonds, reason):
    with pytest.raises(ValueError, match=reason):
        encoder(*(torch.zeros(shape, dtype=torch.long) for shape in (atoms, index, bonds)))


def test_wrong_dtypes_are_named(encoder):
    atoms, index, bonds = tensors("CO")
    with pytest.raises(ValueError, match=r"must be int64, got .*torch\.float32"):
        encoder(atoms.float(), index, bonds)


# --- frozen, fp32, eval ----------------------------------------------------------------------------------------------


def test_training_mode_moves_nothing(encoder):
    graph = tensors("CC(=O)Oc1ccccc1C(=O)O")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    expected = encoder(*graph)
    model = nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    torch.testing.assert_close(model[0](*graph), expected, rtol=0, atol=0)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_nothing_in_it_can_be_trained(encoder):
    model = nn.Sequential(encoder, nn.Linear(16, 1)).requires_grad_(True)
    assert [name for name, _ in model.named_parameters()] == ["1.weight", "1.bias"]
    output = model[0](*tensors("CO"))
    assert not output.requires_grad
    assert encoder.device == torch.device("cpu")
    assert encoder.dtype == torch.float32


@pytest.mark.parametrize(
    "cast",
    [
        lambda model: model.to(torch.bfloat16),
        lambda model: model.half(),
        lambda model: model.double(),
        # what DeepSpeed's engine does before bf16 training
        lambda model: [setattr(weight, "data", weight.data.bfloat16()) for weight in model.parameters()],
    ],
)
def test_no_cast_reaches_it(encoder, cast):
    model = nn.Sequential(encoder, nn.Linear(16, 1))
    graph = tensors("CC(=O)Oc1ccccc1C(=O)O")
    expected = encoder(*graph)
    cast(model)
    assert model[1].weight.dtype != torch.float32
    assert torch.equal(encoder(*graph), expected)


def test_autocast_does_not_reach_it(encoder):
    graph = tensors("CC(=O)Oc1ccccc1C(=O)O")
    expected = encoder(*graph)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(*graph), expected)


def test_the_meta_device_and_back(encoder):
    with torch.device("meta"):
        empty = OmniMolGraphEncoder(encoder.config)
    assert empty.to(torch.bfloat16).device.type == "meta"
    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(encoder.state_dict())
    assert torch.equal(filled(*tensors("CCO")), encoder(*tensors("CCO")))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16, "auto"])
def test_save_and_load_in_any_dtype(encoder, dtype, tmp_path):
    encoder.load_state_dict(reference(encoder.config).state_dict())
    encoder.save_pretrained(tmp_path)
    loaded = OmniMolGraphEncoder.from_pretrained(tmp_path, dtype=dtype)
    assert loaded.state_dict().keys() == encoder.state_dict().keys()
    for name, value in encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert list(loaded.parameters()) == []
    assert not loaded.training


# --- MoleculeSTM's file ----------------------------------------------------------------------------------------------


def test_the_published_layout_loads(tmp_path):
    config = OmniMolGraphConfig()
    state = moleculestm_state(config)
    torch.save(state, tmp_path / "molecule_model.pth")
    encoder = load_moleculestm(tmp_path / "molecule_model.pth")
    weights = [value for name, value in encoder.state_dict().items() if "running" not in name and "num_" not in name]
    assert sum(value.numel() for value in weights) == 1_884_905
    theirs = PyGReference(config.hidden_size, config.num_layers).eval()
    theirs.load_state_dict({name.removeprefix("molecule_node_model."): state[name] for name in list(state)[:-2]})
    graph = tensors("CC(=O)Oc1ccccc1C(=O)O")
    torch.testing.assert_close(encoder(*graph), theirs(*graph), rtol=1e-5, atol=1e-5)


def test_the_prefix_is_optional(tmp_path, encoder):
    torch.save(reference(encoder.config).state_dict(), tmp_path / "gin.pth")
    loaded = load_moleculestm(tmp_path / "gin.pth", encoder.config)
    assert loaded.config.num_layers == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": 32}, "width 16, but the config's hidden_size is 32"),
        ({"num_layers": 5}, "3 layers, but the config's num_layers is 5"),
    ],
)
def test_another_size_names_both_numbers(tmp_path, change, reason):
    torch.save(moleculestm_state(OmniMolGraphConfig(**SMALL)), tmp_path / "gin.pth")
    with pytest.raises(ValueError, match=reason):
        load_moleculestm(tmp_path / "gin.pth", OmniMolGraphConfig(**SMALL | change))


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path):
    config, path = OmniMolGraphConfig(**SMALL), tmp_path / "gin.pth"
    state = moleculestm_state(config)
    key = "molecule_node_model.gnns.1.mlp.3.bias"
    torch.save({name: value for name, value in state.items() if name != key} | {"extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"missing \['gnns.1.mlp.3.bias'\], unexpected \['extra'\]"):
        load_moleculestm(path, config)
    key = "molecule_node_model.atom_encoder.atom_embedding_list.1.weight"
    torch.save(state | {key: torch.zeros(5, 16)}, path)  # the chirality list of OGB 1.3 is longer
    with pytest.raises(ValueError, match=r"atom_embedding_list.1.weight is \(5, 16\), expected \(4, 16\)"):
        load_moleculestm(path, config)


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_that_holds_code_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "gin.pth", tmp_path / "trace"
    torch.save({"molecule_node_model.x": Malicious(f"touch {trace}")}, path)
    with pytest.raises(ValueError, match="not a PyTorch file of plain tensors"):
        load_moleculestm(path)
    assert not trace.exists()


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "gin.pth"
    for content in (b"", b"hello", b"PK\x03\x04broken"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"gin\.pth is not a PyTorch file"):
            load_moleculestm(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(ValueError, match="not a state dict"):
        load_moleculestm(path)
    with pytest.raises(FileNotFoundError):
        load_moleculestm(tmp_path / "absent.pth")
