"""Leaks of every kind are planted, seen, counted and removed; what is no leak stays."""

import numpy as np
import pyarrow as pa
import pytest

from dataset_builders.clean import Origin, clean
from dataset_builders.decontaminate import decide
from dataset_builders.parts import SCHEMA
from dataset_builders.schema import Record, split_of
from omnimol_hf.tasks import ALL_TASKS

ESTER = {"reactants": "CCO.CC(=O)O", "product": "CCOC(C)=O"}
FIELDS = {
    "reagent_prediction": {"reagents": "Cl"},
    "solvent_prediction": {"solvents": "O"},
    "catalyst_prediction": {"catalysts": "[Pd]"},
}


def molecule(task, smiles, split, text="words"):
    if ALL_TASKS[task].answer == "number":
        return Record(
            task, "1", {"molecule": smiles}, value=1.0, split=split, subset="gap" if task == "homo_lumo" else ""
        )
    return Record(task, "1", {"molecule": smiles}, text=text, split=split)


def reaction(task, split, reactants=ESTER["reactants"], product=ESTER["product"], value=0.5, **more):
    if task == "experiment_procedure":
        names = {f"${n}$": one for n, one in enumerate(reactants.split("."), 1)} | {"$-1$": product}
        roles = {"Reactants": tuple(names)[:-1], "Product": ("$-1$",)}
        return Record(task, "1", names, roles, text="STIR", split=split)
    molecules = {"reactants": reactants, "product": product} | FIELDS.get(task, {}) | more
    return Record(task, "1", molecules, value=value if task == "yield_regression" else None, split=split)


def decision(records, level="exact"):
    rows = [clean(f"r-{n}", record, Origin("s", "l", "f"), level == "strict") for n, record in enumerate(records)]
    assert all(isinstance(row, dict) for row in rows), rows
    return decide(pa.Table.from_pylist(rows, schema=SCHEMA), level, list(ALL_TASKS))


MOLECULE_TASKS = [
    name
    for name, task in ALL_TASKS.items()
    if task.record_input == "{molecule}"
    and name
    in (
        "homo_lumo",
        "scf_energy",
        "logp",
        "tpsa",
        "complexity",
        "molecular_weight",
        "molecular_captioning",
        "description_qa",
    )
]
REACTION_TASKS = [
    "forward_prediction",
    "retrosynthesis",
    "reagent_prediction",
    "solvent_prediction",
    "catalyst_prediction",
    "experiment_procedure",
]


def test_there_are_eight_molecule_tasks():
    assert len(MOLECULE_TASKS) == 8


@pytest.mark.parametrize("held_out", ["test", "validation"])
@pytest.mark.parametrize("task", MOLECULE_TASKS)
def test_same_molecule_in_any_task(task, held_out):
    trains = [molecule(other, "C(O)C", "train") for other in MOLECULE_TASKS]
    found = decision([molecule(task, "CCO", held_out), *trains, molecule("logp", "CCN", "train")])
    assert found.keep.tolist() == [True, *[False] * 8, True]
    assert {other: found.before[other][task] for other in MOLECULE_TASKS} == dict.fromkeys(MOLECULE_TASKS, 1)
    assert not any(count for row in found.after.values() for count in row.values())


@pytest.mark.parametrize("task", REACTION_TASKS)
def test_same_reaction_in_any_task(task):
    trains = [reaction(other, "train", "CC(=O)O.OCC") for other in REACTION_TASKS]
    found = decision([reaction(task, "test"), *trains])
    assert found.keep.tolist() == [True, *[False] * 6]
    assert [found.before[other][task] for other in REACTION_TASKS] == [1] * 6


def test_one_row_lists_more_than_the_other():
    more, less = "CCO.CC(=O)O.[H+].ClCCl", "CCO.CC(=O)O"
    for train, test in ((more, less), (less, more)):
        assert decision(
            [reaction("forward_prediction", "test", test), reaction("forward_prediction", "train", train)]
        ).leaks[1]
    # The reagent is an answer in one row, and given in the other.
    test = reaction("reagent_prediction", "test")
    assert decision([test, reaction("forward_prediction", "train", "CCO.CC(=O)O.Cl.ClCCl")]).leaks[1]


def test_another_way_to_the_product_is_no_leak_unless_strict():
    records = [reaction("retrosynthesis", "test"), reaction("retrosynthesis", "train", "CCO.CC(=O)Cl")]
    assert decision(records).keep.tolist() == [True, True]
    assert decision(records, "strict").keep.tolist() == [True, False]


def test_stereo_is_no_leak_unless_strict():
    records = [molecule("logp", "C[C@H](F)O", "test"), molecule("tpsa", "C[C@@H](F)O", "train")]
    assert decision(records).keep.tolist() == [True, True]
    found = decision(records, "strict")
    assert found.keep.tolist() == [True, False]
    assert found.before["tpsa"]["logp"] == 1


def test_yields_compare_reaction_and_conditions():
    bromide = "Brc1ccccc1.Nc1ccccc1"
    test = reaction("yield_regression", "test", f"{bromide}.CCN", "c1ccc(Nc2ccccc2)cc1")
    other_base = reaction("yield_regression", "train", f"{bromide}.CCCN", "c1ccc(Nc2ccccc2)cc1")
    no_base = reaction("yield_regression", "train", bromide, "c1ccc(Nc2ccccc2)cc1")
    same = reaction("yield_regression", "train", f"CCN.{bromide}", "c1ccc(Nc2ccccc2)cc1", value=0.9)
    for level in ("exact", "strict"):
        assert decision([test, other_base, no_base, same], level).keep.tolist() == [True, True, True, False]
    # A retrosynthesis test row is answered by every yield row of its reaction.
    retro = reaction("retrosynthesis", "test", bromide, "c1ccc(Nc2ccccc2)cc1")
    found = decision([retro, other_base, no_base])
    assert found.keep.tolist() == [True, False, False]
    assert found.before["yield_regression"]["retrosynthesis"] == 2


def test_whole_input_counts_not_only_the_graph():
    """The graph of these rows is sodium alone: rows of other sodium salts are no leaks."""
    records = [molecule("tpsa", "[Na+].[Cl-]", "test"), molecule("tpsa", "[Na+].[Br-]", "train")]
    assert decision(records).keep.tolist() == [True, True]
    records.append(molecule("complexity", "[Cl-].[Na+]", "train"))
    assert decision(records).keep.tolist() == [True, True, False]


def test_molecules_and_products_are_not_compared():
    records = [molecule("molecular_captioning", ESTER["product"], "test"), reaction("retrosynthesis", "train")]
    assert decision(records).keep.tolist() == [True, True]


def test_repeats_go_but_not_from_published_held_out_splits():
    twice = [
        molecule("logp", "CCO", split) for split in ("train", "train", "test", "test", "validation", "validation")
    ]
    found = decision([*twice, molecule("logp", "CCC", "train"), molecule("logp", "CCC", "train")])
    assert found.repeats.tolist() == [False, True, False, False, False, False, False, True]
    assert found.keep.tolist() == [False, False, True, True, True, True, True, False]
    unpublished = [molecule("logp", "C" * 40 + "O", "") for _ in range(3)]
    assert decision(unpublished).keep.tolist() == [True, False, False]


def test_same_question_with_another_answer_stays():
    records = [molecule("molecular_captioning", "CCO", "train", text) for text in ("an alcohol", "a solvent")]
    assert decision(records).keep.all()


def test_none_removes_nothing_and_counts_as_exact_does():
    records = [
        molecule("logp", "CCO", "test"),
        molecule("tpsa", "CCO", "train"),
        reaction("retrosynthesis", "train"),
        reaction("forward_prediction", "validation"),
        molecule("tpsa", "CCN", "train"),
    ]
    exact, none = decision(records), decision(records, "none")
    assert none.keep.all()
    assert none.before == none.after == exact.before
    assert np.array_equal(none.leaks, ~exact.keep)


def test_a_repeat_in_another_split_is_a_leak_not_a_repeat():
    held_out = next("C" * n for n in range(1, 100) if split_of("C" * n) == "test")
    found = decision([molecule("logp", held_out, "train"), molecule("logp", held_out, "")])
    assert found.repeats.tolist() == [False, False]
    assert found.keep.tolist() == [False, True]
