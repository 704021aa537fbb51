"""From a source's record to a row: canonical molecules, SELFIES that read back, text, split and keys."""

import json

import pytest
from rdkit import Chem

from dataset_builders.clean import Origin, clean
from dataset_builders.schema import Drop, Record, split_of
from omnimol_hf.chemistry_omnimol import graph_components, selfies_to_smiles
from omnimol_hf.tasks import TASKS

ORIGIN = Origin("book", "CC0", "book/page.csv")


def row(task, molecules, skeletons=False, **fields):
    result = clean("book-1", Record(task, "7", molecules, **fields), ORIGIN, skeletons)
    assert isinstance(result, dict), result
    return result


def reason(task, molecules, **fields):
    result = clean("book-1", Record(task, "7", molecules, **fields), ORIGIN, False)
    assert isinstance(result, Drop)
    assert (result.task, result.place, result.source) == (task, "7", "book")
    return result.reason


def same(selfies, smiles):
    return Chem.CanonSmiles(selfies_to_smiles(selfies)) == Chem.CanonSmiles(smiles)


def test_columns():
    made = row("logp", {"molecule": "OCC"}, value=-0.18, publisher_id="CID 702")
    assert made["output"] == "The LogP for the input molecule is -0.18."
    assert (made["input"], made["graph_smiles"]) == ("[C][C][O]", ["CCO"])
    assert made["source_id"] == "book/page.csv#7:CID 702"
    assert (made["source"], made["license"], made["label_source"]) == ("book", "CC0", "published")
    assert made["instruction"] in TASKS["logp"].instructions
    own = row("logp", {"molecule": "OCC"}, value=0.0, source="other", license="MIT", instruction="How greasy?")
    assert (own["source"], own["license"], own["instruction"]) == ("other", "MIT", "How greasy?")


def test_components_keep_their_order_and_ions_are_apart():
    made = row("forward_prediction", {"reactants": "c1ccccc1O.[OH-]~[K+].CI", "product": "COc1ccccc1"})
    assert [selfies_to_smiles(part) for part in made["input"].split(".")] == ["Oc1ccccc1", "[OH-]", "[K+]", "CI"]
    assert made["graph_smiles"] == ["Oc1ccccc1"]  # the first component only, as in the authors' data
    assert same(made["output"], "COc1ccccc1")


def test_atom_maps_go_and_stereo_stays():
    made = row("retrosynthesis", {"product": "[CH3:1][C@H:2]([OH:3])[F:4]", "reactants": "F/C=C/F"})
    assert same(made["input"], "C[C@H](O)F")
    assert same(made["output"], "F/C=C/F")
    assert ":" not in made["graph_smiles"][0]


def test_ring_bond_across_a_dot():
    assert same(row("retrosynthesis", {"product": "C1.C1", "reactants": "C=C"})["input"], "CC")


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if task.graph_rule != "placeholders"])
def test_graph_is_what_the_processor_makes_of_the_input(task):
    molecules = {"molecule": "C[N+](C)(C)C.[Cl-]", "reactants": "CC(=O)Cl.OCC.[Na+]~[OH-]", "product": "CC(=O)OCC.Cl"}
    molecules |= {"reagents": "CCN(CC)CC", "solvents": "ClCCl", "catalysts": "[Pd]"}
    asks_molecule = TASKS[task].record_input == "{molecule}"
    chosen = {role: smiles for role, smiles in molecules.items() if (role == "molecule") == asks_molecule}
    subset = next(iter(TASKS[task].properties), "")
    made = row(task, chosen, value=0.5, text="" if TASKS[task].answer == "number" else "words", subset=subset)
    parts = graph_components(made["input"], TASKS[task].graph_rule)
    assert made["graph_smiles"] == [selfies_to_smiles(part) for part in parts]


def test_procedure():
    molecules = {"$1$": "CCO", "$2$": "[Na+]~[OH-]", "$-1$": "CCOC"}
    made = row(
        "experiment_procedure",
        molecules,
        roles={"Reactants": ("$1$", "$2$"), "Product": ("$-1$",), "Catalysts": ()},
        text="ADD $1$ ; YIELD $-1$",
    )
    assert made["input"] == (
        "Reactants:$1$:[START_SELFIES][C][C][O][END_SELFIES] $2$:[START_SELFIES][Na+1].[OH1-1][END_SELFIES] "
        "Product:$-1$:[START_SELFIES][C][C][O][C][END_SELFIES]"
    )
    assert made["output"] == "ADD $1$ ; YIELD $-1$"
    assert json.loads(made["components"]) == {"$1$": "CCO", "$2$": "[Na+].[OH-]", "$-1$": "CCOC"}
    assert made["graph_smiles"] == ["CCO", "[Na+]", "[OH-]"]


def test_graph_of_a_procedure_is_what_its_input_lists():
    """A name in two roles stands there twice; of several products none is in the graph."""
    result = row(
        "experiment_procedure",
        {"$1$": "CCO", "$2$": "CC(=O)Cl", "$-1$": "CCOC(C)=O", "$-2$": "Cl"},
        roles={"Reactants": ("$1$", "$2$"), "Product": ("$-1$", "$-2$"), "Solvents": ("$1$",)},
        text="ADD $1$ ; YIELD $-1$",
    )
    listed = [selfies_to_smiles(one) for one in graph_components(result["input"], "placeholders")]
    assert result["graph_smiles"] == listed == ["CCO", "CC(=O)Cl", "CCO"]


def test_further_products_are_not_given():
    molecules = {"$1$": "CCO", "$2$": "CC(=O)Cl", "$-1$": "CCOC(C)=O"}
    one = row(
        "experiment_procedure", molecules, roles={"Reactants": ("$1$", "$2$"), "Product": ("$-1$",)}, text="STIR"
    )
    roles = {"Reactants": ("$1$", "$2$"), "Product": ("$-1$", "$-2$")}
    two = row("experiment_procedure", molecules | {"$-2$": "Cl"}, roles=roles, text="STIR")
    assert [one[key] for key in ("subject", "given", "known")] == [two[key] for key in ("subject", "given", "known")]


def test_selfies_are_read_and_written_anew():
    made = row("retrosynthesis", {"product": "[O][C][C]", "reactants": "[C][=C].[O]"}, notation="selfies")
    assert (made["input"], made["output"]) == ("[C][C][O]", "[C][=C].[O]")


@pytest.mark.parametrize(
    ("value", "text", "answer"),
    [
        (0.5, "", "0.5000"),
        (-0.00001, "", "0.0000"),
        (-0.2482, "", "-0.2482"),
        (0.5, "about a half", "about a half"),
    ],
)
def test_numbers(value, text, answer):
    assert row("homo_lumo", {"molecule": "C"}, value=value, text=text, subset="HOMO")["output"] == answer


@pytest.mark.parametrize(
    ("molecules", "expected"),
    [
        ({"product": "CC", "reactants": ""}, "no reactants"),
        ({"product": "CC"}, "no reactants"),
        ({"product": "c1cccc1", "reactants": "C"}, "product: RDKit cannot read it"),
        ({"product": "CC", "reactants": "C..C"}, "reactants: empty component between dots"),
        ({"product": "CC", "reactants": "*C"}, "reactants: SELFIES cannot write it: it has a wildcard atom"),
        ({"product": "C" * 1025, "reactants": "C"}, "product: more than 1024 atoms"),
        (
            {"product": "CC", "reactants": "[NH3]->[Cu]"},
            "reactants: SELFIES cannot write it: it has a bond of type DATIVE",
        ),
    ],
)
def test_reasons(molecules, expected):
    assert reason("retrosynthesis", molecules) == expected


def test_role_is_named_for_one_of_several_components():
    expected = "reactants: SELFIES cannot write it: it has a wildcard atom"
    assert reason("retrosynthesis", {"product": "CC", "reactants": "CO.*C"}) == expected


def test_other_reasons():
    assert reason("retrosynthesis", {"product": "[C][O", "reactants": "[C]"}, notation="selfies").endswith(
        "not SELFIES of a molecule"
    )
    assert reason("logp", {"molecule": "C"}) == "no answer"
    assert reason("molecular_captioning", {"molecule": "C"}, text="  ") == "no text"
    assert reason("logp", {"molecule": "C"}, value=1.0, split="dev") == "unknown split"


def test_split_is_the_publishers_or_the_hash_of_all_molecules():
    assert row("logp", {"molecule": "C"}, value=1.0, split="validation")["split"] == "validation"
    smiles = [f"{'C' * n}O.Cl" for n in range(1, 60)]
    splits = [row("logp", {"molecule": one}, value=1.0)["split"] for one in smiles]
    assert splits == [split_of(".".join(sorted(["Cl", Chem.CanonSmiles("C" * n + "O")]))) for n in range(1, 60)]
    # The same molecule written otherwise, with another label and task, lands in the same split.
    again = [row("tpsa", {"molecule": "Cl.O" + "C" * n}, value=2.0)["split"] for n in range(1, 60)]
    assert again == splits
    assert set(splits) == {"train", "test"}


def test_keys():
    one = row("logp", {"molecule": "F/C=C/F"}, value=1.0, skeletons=True)
    two = row("tpsa", {"molecule": "F/C=C\\F"}, value=1.0, skeletons=True)
    assert one["subject"] != two["subject"]
    assert one["subject_skeleton"] == two["subject_skeleton"]
    assert one["given"] == one["known"] == []
    forward = row("forward_prediction", {"reactants": "CCO.CC(=O)O.Cl", "product": "CCOC(C)=O"})
    retro = row("retrosynthesis", {"reactants": "CC(=O)O.OCC", "product": "CCOC(=O)C"})
    reagent = row("reagent_prediction", {"reactants": "OCC.CC(=O)O", "reagents": "Cl", "product": "CCOC(=O)C"})
    assert forward["subject"] == retro["subject"] == reagent["subject"]
    assert set(retro["given"]) == set(reagent["given"]) < set(forward["given"])
    assert set(reagent["known"]) == set(forward["known"])


def test_editing_is_keyed_on_the_molecule_that_is_asked_about():
    edit = row("molecule_editing", {"molecule": "CCO", "edited": "CCN"}, instruction="Make it an amine.")
    assert edit["subject"] == row("logp", {"molecule": "CCO"}, value=0.0)["subject"]
    named = row("iupac_to_selfies", {"molecule": "CCO"}, text="ethanol")
    assert named["subject"] == edit["subject"]  # asked in words: the molecule is the answer


def test_split_of_a_reaction_does_not_depend_on_the_order_of_its_components():
    for n in range(1, 40):
        one, two = f"{'C' * n}O", "CC(=O)Cl"
        splits = {
            row("retrosynthesis", {"reactants": f"{a}.{b}", "product": f"{'C' * n}OC(C)=O"})["split"]
            for a, b in ((one, two), (two, one))
        }
        assert len(splits) == 1
