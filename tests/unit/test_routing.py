"""Router scores traced back to atoms, functional groups and tasks."""

import re

import numpy as np
import pytest
import torch
from rdkit import Chem

from omnimol_hf.analysis import routing_plots
from omnimol_hf.analysis.routing import (
    RoutedMolecule,
    atom_tokens,
    expert_load,
    group_patterns,
    group_scores,
    matching_atoms,
    molecule_row,
    route,
    selfies_atoms,
)
from omnimol_hf.chemistry_omnimol import graph_components, selfies_to_smiles, smiles_to_selfies
from omnimol_hf.tasks import ALL_TASKS
from tests import tiny

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
MOLECULES = [
    ASPIRIN,
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "C[C@H](N)C(=O)O.[Na+].Cl",
    "[2H]C([2H])Cl",
    "C1=CN2N=NN=C2C=C1",  # a ring that a double bond closes
    "C/C=C\\C(F)(Br)C#N",
    "OB(O)c1ccc([N+](=O)[O-])c(S(=O)(=O)N)c1",
]


def row(smiles: str, task: str = "molecular_weight") -> dict:
    """A row as the dataset has it: the graph is canonical, the SELFIES as they were written."""
    sequence = ">>".join(".".join(map(smiles_to_selfies, side.split("."))) for side in smiles.split(">>"))
    parts = graph_components(sequence, ALL_TASKS[task].graph_rule)
    return {"task": task, "instruction": "?", "input": sequence, "graph_smiles": [selfies_to_smiles(p) for p in parts]}


def encoded(processor, one: dict) -> list[int]:
    messages = processor.row_messages(one, with_answer=False)
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)


def test_selfies_atoms_by_hand():
    selfies = "[C][C][=Branch1][C][=O][O][C][=C][C][Ring1][Ring1]"
    written = [selfies[start:end] for start, end in selfies_atoms(selfies)]
    assert written == ["[C]", "[C]", "[=O]", "[O]", "[C]", "[=C]", "[C]"]  # no branch, ring or length
    assert selfies_atoms(selfies)[2] == (19, 23)  # behind [C][C][=Branch1][C]: 3 + 3 + 10 + 3 characters


@pytest.mark.parametrize("multi_graph", [False, True])
@pytest.mark.parametrize("smiles", MOLECULES)
def test_tokens_of_each_atom(smiles, multi_graph):
    processor, one = tiny.processor(multi_graph=multi_graph), row(smiles)
    mol, graph, text = atom_tokens(processor, one)
    ids = encoded(processor, one)
    assert graph == [i for i, token in enumerate(ids) if token == processor.graph_token_id]
    assert len(graph) == len(text) == mol.GetNumAtoms()
    for atom, tokens in zip(mol.GetAtoms(), text, strict=True):
        assert tokens == list(range(tokens[0], tokens[-1] + 1))
        written = processor.tokenizer.decode([ids[i] for i in tokens])
        symbol = re.search(r"[\[=#/\\-]\d*([A-Z][a-z]?)", written).group(1)
        assert symbol == atom.GetSymbol()


def test_placeholder_i_is_atom_i():
    """The model reads the atoms in the order of the drawn molecule: their features say which element each is."""
    processor, one = tiny.processor(), row("OB(O)c1ccc(Br)cc1.Cl")
    mol, _, _ = atom_tokens(processor, one)
    messages = processor.row_messages(one, with_answer=False)
    features = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    assert (features["atom_features"][:, 0] + 1).tolist() == [atom.GetAtomicNum() for atom in mol.GetAtoms()]


@pytest.mark.parametrize(
    ("task", "smiles", "atoms"),
    [
        ("yield_regression", "CCBr.CN>>CCNC", 5),  # the reactants
        ("forward_prediction", "CCBr.CN", 3),  # the first one
    ],
)
def test_graph_rules(task, smiles, atoms):
    processor, one = tiny.processor(), row(smiles, task)
    mol, graph, text = atom_tokens(processor, one)
    ids = encoded(processor, one)
    assert mol.GetNumAtoms() == len(graph) == atoms
    bromine = next(atom.GetIdx() for atom in mol.GetAtoms() if atom.GetSymbol() == "Br")
    assert "Br" in processor.tokenizer.decode([ids[i] for i in text[bromine]])


def test_a_procedure_s_molecules():
    product = "$-1$:[START_SELFIES][C][C][Br][O][END_SELFIES]"  # holds the same run of symbols
    names = f"{product} $1$:[START_SELFIES][C][C][Br][END_SELFIES] $2$:[START_SELFIES][C][N][END_SELFIES]"
    one = {"task": "experiment_procedure", "instruction": "?", "input": names, "graph_smiles": ["CCBr", "CN"]}
    processor = tiny.processor()
    mol, _, text = atom_tokens(processor, one)
    ids = encoded(processor, one)
    assert [atom.GetSymbol() for atom in mol.GetAtoms()] == ["C", "C", "Br", "C", "N"]
    assert processor.tokenizer.decode(ids[: text[0][0]]).endswith("$1$:[START_SELFIES")
    assert "[N]" in processor.tokenizer.decode([ids[i] for i in text[4]])


def test_same_atoms_have_the_same_neighbours():
    graph, text = Chem.MolFromSmiles("O=C(O)c1ccccc1OC(C)=O"), Chem.MolFromSmiles(ASPIRIN)
    same = matching_atoms(graph, text)
    assert sorted(same) == list(range(13))
    for bond in graph.GetBonds():
        ends = int(same[bond.GetBeginAtomIdx()]), int(same[bond.GetEndAtomIdx()])
        assert text.GetBondBetweenAtoms(*ends).GetBondType() == bond.GetBondType()


def test_scores_are_the_router_s():
    """Against the router's own weight on the vectors that it is shown."""
    model, processor, one = tiny.model(), tiny.processor(), row("CC(N)C(=O)O")
    seen = []
    routers = [layer.mlp.router for layer in model.model.language_model.layers[1:]]
    hooks = [
        router.register_forward_hook(lambda module, args, _: seen.append((module, args[0]))) for router in routers
    ]
    routed = route(model, processor, one)
    for hook in hooks:
        hook.remove()
    _, graph, text = atom_tokens(processor, one)
    for layer, (router, states) in enumerate(seen):
        scores = torch.softmax(states[0].clone() @ router.weight.T.detach(), -1).numpy()
        np.testing.assert_allclose(routed.graph[layer], scores[graph], atol=1e-6)
        for atom, tokens in enumerate(text):
            np.testing.assert_allclose(
                routed.text[layer, atom], np.mean([scores[i] for i in tokens], axis=0), atol=1e-6
            )


def test_expert_load_counts_choices_and_no_padding():
    model, processor = tiny.model(), tiny.processor()
    rows = [row("CCO", "logp"), row("c1ccccc1", "molecular_weight"), row(ASPIRIN, "molecular_weight")]
    load = expert_load(model, processor, rows, batch_size=2)
    assert list(load) == ["logp", "molecular_weight"]
    counts = np.zeros((3, 3))
    for one in rows[1:]:
        inputs = tiny.prompts(processor.row_messages(one, with_answer=False))
        with torch.no_grad():
            logits = model(**inputs, output_router_logits=True).router_logits
        for layer, each in enumerate(logits):
            for token in each[0].numpy():
                counts[layer, np.argsort(token)[-2:]] += 1
    np.testing.assert_allclose(load["molecular_weight"], counts / counts.sum(1, keepdims=True), atol=1e-6)


def test_group_scores_of_aspirin():
    mol = Chem.MolFromSmiles(ASPIRIN)
    number = np.arange(13.0)  # atom i has the score i in layer 0 and -i in layer 1
    scores = np.stack([number, -number])[:, :, None]
    groups = group_scores([RoutedMolecule(mol, scores, scores)])
    assert next(iter(groups)) == "All atoms"
    assert groups["All atoms"]["count"] == 13
    assert groups["All atoms"]["scores"].tolist() == [[6.0], [-6.0]]
    # RDKit's patterns: [#6]C(=O)[O;H,-1] is atoms 9-12, c1ccccc1 is 4-9, [#6][CX3](=O)[OX2H0][#6] is 0-4.
    assert groups["Carboxylic acids"]["scores"].tolist() == [[10.5], [-10.5]]
    assert groups["Benzene rings"]["scores"].tolist() == [[6.5], [-6.5]]
    assert groups["Esters"] == {"count": 1, "scores": pytest.approx(np.array([[2.0], [-2.0]]))}
    assert "Amides" not in groups
    assert len(group_patterns()) == 30


def test_what_cannot_be_routed():
    processor = tiny.processor()
    with pytest.raises(ValueError, match="no MoE layers"):
        route(tiny.model(moe_layers=[]), processor, row("CCO"))
    with pytest.raises(ValueError, match="graph is CCN, but the SELFIES of the input say CCO"):
        atom_tokens(processor, row("CCO") | {"graph_smiles": ["CCN"]})
    with pytest.raises(ValueError, match="iupac_to_selfies has no graph"):
        atom_tokens(
            processor, {"task": "iupac_to_selfies", "instruction": "?", "input": "ethanol", "graph_smiles": []}
        )
    with pytest.raises(ValueError, match="unknown task 'weight'"):
        molecule_row(processor, "weight", "CCO")
    assert molecule_row(processor, "logp", "OCC")["graph_smiles"] == ["CCO"]


def test_heat_maps_show_the_numbers(monkeypatch):
    figures = []
    monkeypatch.setattr(routing_plots, "save_figure", lambda figure, path: figures.append(figure))
    load = {"logp": np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]), "tpsa": np.full((2, 3), 1 / 3)}
    routing_plots.plot_expert_load(load, [4, 7], "unused.png")
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["logp", "tpsa"]
    texts = [text.get_text() for text in axes.texts]
    assert texts[:2] == ["layer 4", "layer 7"]
    assert texts[2:] == ["0.50", "0.30", "0.20", "0.10", "0.20", "0.70", *["0.33"] * 6]
    image = axes.images[0]
    assert image.norm(1 / 3) == pytest.approx(0.5)  # even is white


def test_drawn_molecules(monkeypatch):
    """Each atom in its colour: a molecule of two atoms, one of which goes to expert 0 and the other to expert 1."""
    figures = []
    monkeypatch.setattr(routing_plots, "save_figure", lambda figure, path: figures.append(figure))
    scores = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    routing_plots.draw_routing(RoutedMolecule(Chem.MolFromSmiles("CO"), scores, scores[:, ::-1]), [3], "unused.png")
    pictures = [axes.images[0].get_array()[..., :3] for axes in figures[0].axes if axes.images]
    # Graph tokens with expert 0 and 1, then SELFIES tokens, the other way round. Carbon is on the left.
    for picture, left_is_red in zip(pictures, (True, False, False, True), strict=True):
        red = (picture[..., 0] > 0.5) & (picture[..., 1:] < 0.35).all(-1)
        blue = (picture[..., 2] > 0.5) & (picture[..., 0] < 0.35)
        red_place, blue_place = (np.flatnonzero(color.any(0)).mean() for color in (red, blue))
        assert (red_place < blue_place) == left_is_red
