"""Baselines other than a constant: each against the value that RDKit, scikit-learn or a brute-force search gives."""

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import Crippen, Descriptors, GraphDescriptors, rdMolDescriptors
from sklearn.linear_model import LinearRegression

from omnimol_hf.chemistry_omnimol import smiles_to_selfies
from omnimol_hf.metrics import baseline_answers, baseline_names, baseline_predictions, score_baselines, score_task
from omnimol_hf.metrics.numbers import read_number
from omnimol_hf.tasks import ALL_TASKS, TASKS

SMILES = ["CCO", "CCN", "c1ccccc1", "Cc1ccccc1", "CC(=O)O", "CCCCCC", "OCCO", "CC(C)=O", "Clc1ccccc1", "CCSC", "NCC=O"]
TEST = ["CCCO", "Oc1ccccc1", "CCC(=O)O"]


def rows(smiles, outputs, subset="", instruction="?"):
    return [
        {"input": smiles_to_selfies(one), "output": output, "subset": subset, "instruction": instruction}
        for one, output in zip(smiles, outputs, strict=True)
    ]


def test_each_task_names_its_baselines():
    assert baseline_names(TASKS["logp"]) == (
        "training median",
        "training mean",
        "nearest neighbour",
        "RDKit Crippen LogP",
    )
    assert baseline_names(TASKS["scf_energy"])[-1] == "linear model on the formula"
    assert baseline_names(TASKS["retrosynthesis"]) == ("most frequent training answer", "nearest neighbour")
    assert baseline_names(ALL_TASKS["iupac_to_selfies"]) == ("most frequent training answer",)
    for task in TASKS.values():
        assert "nearest neighbour" in baseline_names(task)


@pytest.mark.parametrize(
    ("name", "compute"),
    [
        ("molecular_weight", Descriptors.MolWt),
        ("tpsa", rdMolDescriptors.CalcTPSA),
        ("logp", Crippen.MolLogP),
        ("complexity", GraphDescriptors.BertzCT),
    ],
)
def test_what_rdkit_computes(name, compute):
    task = TASKS[name]
    answers = baseline_answers(task, rows(["C"], ["1.0"]), rows(TEST, ["1.0"] * 3))
    found = [read_number(text) for text in list(answers.values())[-1]]
    assert found == pytest.approx([compute(Chem.MolFromSmiles(smiles)) for smiles in TEST], abs=0.005)


def test_mean_of_each_subset():
    train = rows(SMILES[:3], ["1", "2", "6"], "HOMO") + rows(SMILES[:2], ["10", "20"], "gap")
    test = rows(TEST[:1], ["0"], "gap") + rows(TEST[:1], ["0"], "HOMO")
    answers = baseline_answers(TASKS["homo_lumo"], train, test)
    assert answers["training mean"] == ["15.0000", "3.0000"]
    assert answers["training median"] == baseline_predictions(TASKS["homo_lumo"], train, test) == ["15.0000", "2.0000"]


def test_linear_model_equals_least_squares():
    rng = np.random.default_rng(0)
    labels = rng.normal(-100, 20, len(SMILES)).round(4)
    answers = baseline_answers(TASKS["scf_energy"], rows(SMILES, [str(x) for x in labels]), rows(TEST, ["0"] * 3))

    def counts(smiles):
        atoms = [atom.GetSymbol() for atom in Chem.AddHs(Chem.MolFromSmiles(smiles)).GetAtoms()]
        return [atoms.count(element) for element in ("C", "Cl", "H", "N", "O", "S")]

    direct = LinearRegression().fit([*map(counts, SMILES)], labels).predict([*map(counts, TEST)])
    found = [read_number(text) for text in answers["linear model on the formula"]]
    assert found == pytest.approx(direct, abs=1e-4)


def test_linear_model_finds_a_sum_over_atoms():
    energy = {"C": -38.0, "H": -0.5, "O": -75.0, "N": -54.0, "Cl": -460.0, "S": -398.0}

    def total(smiles):
        return sum(energy[atom.GetSymbol()] for atom in Chem.AddHs(Chem.MolFromSmiles(smiles)).GetAtoms())

    train, test = (rows(part, [str(total(one)) for one in part]) for part in (SMILES, TEST))
    answers = baseline_answers(TASKS["scf_energy"], train, test)
    scored = score_baselines(TASKS["scf_energy"], answers, [row["output"] for row in test])
    assert scored["linear model on the formula"]["strict"]["mae"] == pytest.approx(0, abs=1e-3)
    assert scored["training median"]["strict"]["mae"] > 10


def most_similar(query, candidates):
    prints = [rdMolDescriptors.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(one), 2, 2048) for one in candidates]
    one = rdMolDescriptors.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(query), 2, 2048)
    return int(np.argmax([DataStructs.TanimotoSimilarity(one, other) for other in prints]))


def test_nearest_neighbour_of_a_molecule():
    names = [f"caption {i}" for i in range(len(SMILES))]
    answers = baseline_answers(TASKS["molecular_captioning"], rows(SMILES, names), rows(TEST, [""] * 3))
    assert answers["nearest neighbour"] == [names[most_similar(smiles, SMILES)] for smiles in TEST]
    itself = baseline_answers(TASKS["molecular_captioning"], rows(SMILES, names), rows(SMILES, names))
    assert itself["nearest neighbour"] == names


def test_nearest_neighbour_is_asked_the_same_thing():
    train = rows(["CCCO"], ["yes"], instruction="Is it an acid?") + rows(["CCSC"], ["5 K"], instruction="Melting?")
    test = rows(["CCCO"], [""], instruction="Melting?") + rows(["CCCO"], [""], instruction="Colour?")
    answers = baseline_answers(TASKS["description_qa"], train, test)
    assert answers["nearest neighbour"] == ["5 K", "yes"]
    train = rows(["CCCO"], ["1.0"], "HOMO") + rows(["CCSC"], ["2.0"], "gap")
    answers = baseline_answers(TASKS["homo_lumo"], train, rows(["CCCO"], ["0"], "gap"))
    assert answers["nearest neighbour"] == ["2.0"]


def test_nearest_neighbour_of_a_reaction_looks_at_both_sides():
    def reaction(left, right, output):
        text = f"{smiles_to_selfies(left)}>>{smiles_to_selfies(right)}"
        return {"input": text, "output": output, "subset": "", "instruction": "?"}

    train = [reaction("CCO.CN", "CCNC", "A"), reaction("CCO.CN", "c1ccccc1", "B"), reaction("CCS", "CCNC", "C")]
    answers = baseline_answers(TASKS["solvent_prediction"], train, [reaction("CN.CCO", "Cc1ccccc1", "")])
    assert answers["nearest neighbour"] == ["B"]


def test_nearest_neighbour_of_a_procedure():
    def procedure(smiles, output):
        text = f"Reactants:$1$:[START_SELFIES]{smiles_to_selfies(smiles)}[END_SELFIES]"
        return {"input": text, "output": output, "subset": "", "instruction": "?"}

    train = [procedure("CCO", "STIR"), procedure("c1ccccc1", "FILTER")]
    answers = baseline_answers(TASKS["experiment_procedure"], train, [procedure("Cc1ccccc1", "")])
    assert answers["nearest neighbour"] == ["FILTER"]


def test_unreadable_inputs_get_the_constant():
    train = rows(SMILES[:3], ["1.0", "2.0", "6.0"])
    test = [{"input": "[Foo]", "output": "1.0", "subset": "", "instruction": "?"}]
    answers = baseline_answers(TASKS["logp"], [*train, {**test[0], "output": "2.0"}], test)
    assert answers["nearest neighbour"] == answers["RDKit Crippen LogP"] == answers["training median"]
    assert (
        baseline_answers(TASKS["logp"], test, rows(TEST, ["0"] * 3))["nearest neighbour"]
        == ["The LogP for the input molecule is 1.00."] * 3
    )


def test_baselines_are_scored_by_the_same_code():
    task, references = TASKS["logp"], ["1.0", "-2.0", "4.0"]
    answers = baseline_answers(task, rows(SMILES[:3], ["1.0", "2.0", "6.0"]), rows(TEST, references))
    scored = score_baselines(task, answers, references)
    assert list(scored) == list(baseline_names(task))
    for name, one in answers.items():
        expected = score_task(task, one, references, answers["training median"])
        for protocol, metrics in scored[name].items():
            assert metrics == {metric: fields["value"] for metric, fields in expected[protocol].items()}
    as_baseline = score_task(task, ["1", "1", "1"], references, answers["training median"])
    assert as_baseline["strict"]["mae"]["baseline"] == scored["training median"]["strict"]["mae"]


def test_without_training_rows():
    with pytest.raises(ValueError, match="logp: a baseline needs training rows"):
        baseline_answers(TASKS["logp"], [], rows(TEST, ["0"] * 3))
