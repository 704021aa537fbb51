"""Made-up raw data: molecules valid, different and of usual size; the counts that a build is checked against."""

import random
from itertools import cycle
from statistics import mean

import pytest
from rdkit import Chem

from benchmarks.dataset_build import check
from benchmarks.synthetic_molecules import AMINES, CORES, COUNT, GROUPS, molecule, reaction
from benchmarks.synthetic_sources import SOURCES, Plan, write_sources
from dataset_builders.shards import LEAK, REPEAT
from omnimol_hf.chemistry_omnimol import smiles_to_selfies
from omnimol_hf.tasks import TASKS


@pytest.fixture(scope="module")
def numbers():
    return random.Random(0).sample(range(COUNT), 1500)


def test_molecules_are_valid_different_and_of_usual_size(numbers):
    mols = [Chem.MolFromSmiles(molecule(number)) for number in numbers]
    assert all(mols)
    assert len({Chem.MolToSmiles(mol) for mol in mols}) == len(numbers)
    assert 22 < mean(mol.GetNumHeavyAtoms() for mol in mols) < 28
    with pytest.raises(ValueError, match=str(COUNT)):
        molecule(COUNT)


def test_every_group_can_be_written_as_selfies():
    assert len(set(GROUPS)) == len(GROUPS)
    assert len(set(AMINES)) == len(AMINES)
    for core, group, amine in zip(cycle(CORES), GROUPS, AMINES, strict=False):
        smiles_to_selfies(core.format(group, group, f"C(=O){amine}"))


def test_reactions_are_balanced_but_for_water(numbers):
    for number in numbers[:200]:
        made = reaction(number)
        assert made.product == molecule(number)
        left, right = (Chem.MolFromSmiles(smiles) for smiles in (made.reactants, made.product))
        assert left.GetNumHeavyAtoms() == right.GetNumHeavyAtoms() + 1


def test_sources_have_the_planned_size(tmp_path):
    plan = write_sources(tmp_path / "raw", 3000)
    assert {folder.name for folder in (tmp_path / "raw").iterdir()} == set(SOURCES)
    assert set(TASKS) <= set(plan.kept)
    assert sum(plan.kept[task] for task in TASKS) == pytest.approx(3000, rel=0.05)
    assert all(plan.repeats[task] and plan.leaks[task] for task in TASKS)
    again = write_sources(tmp_path / "again", 3000)
    assert (again.kept, again.leaks) == (plan.kept, plan.leaks)
    files = [file for file in (tmp_path / "raw").rglob("*") if file.suffix in (".txt", ".csv", ".json", ".jsonl")]
    assert len(files) > 10
    for file in files:
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(tmp_path / "raw")).read_bytes()


def report_of(plan):
    drops = [(REPEAT, plan.repeats), (LEAK, plan.leaks)]
    return {
        "rows": {task: {"train": count - 1, "test": 1} for task, count in plan.kept.items()},
        "drops": [
            {"task": task, "source": "x", "reason": reason, "count": count}
            for reason, counts in drops
            for task, count in counts.items()
        ],
        "overlaps": {"after": {"logp": {"logp": 0}}},
    }


def test_a_build_is_checked_against_the_plan():
    plan = Plan()
    plan.add(["logp", "tpsa"], 10, 2, 1)
    check(report_of(plan), plan)
    for what, place in (("rows", "kept"), ("repeats", "repeats"), ("leaks", "leaks")):
        report = report_of(plan)
        getattr(plan, place)["tpsa"] += 1
        with pytest.raises(ValueError, match=f"^{what} .*'tpsa'"):
            check(report, plan)
        getattr(plan, place)["tpsa"] -= 1
    with pytest.raises(ValueError, match="overlaps"):
        check(report_of(plan) | {"overlaps": {"after": {"logp": {"tpsa": 3}}}}, plan)
