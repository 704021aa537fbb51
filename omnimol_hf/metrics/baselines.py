"""Answers without a language model, which every score is printed beside.

Each task has the baselines that make sense for it (`baseline_names`), the trivial one first:

- numbers: the training median and mean; all other answers: the most frequent training answer;
- tasks whose input holds molecules: the answer of the training row with the most similar input;
- `molecular_weight`, `tpsa`, `logp`, `complexity`: what RDKit computes. Only the weight is the same quantity as
  PubChem's labels; XLogP3, Cactvs TPSA and Cactvs complexity are others of the same name;
- `scf_energy`, `homo_lumo`: a linear model on the numbers of atoms of each element.

There is no trained graph network among them.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from statistics import mean, median

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.Chem import Crippen, Descriptors, GraphDescriptors, rdFingerprintGenerator, rdMolDescriptors

from omnimol_hf.chemistry_omnimol import mol_from_selfies
from omnimol_hf.metrics.numbers import read_number
from omnimol_hf.tasks import Task

Rows = Iterable[Mapping[str, str]]

NEAREST = "nearest neighbour"
LINEAR = "linear model on the formula"
_LINEAR_TASKS = ("scf_energy", "homo_lumo")
_RDKIT: dict[str, tuple[str, Callable[[Chem.Mol], float]]] = {
    "molecular_weight": ("RDKit MolWt", Descriptors.MolWt),
    "tpsa": ("RDKit TPSA", rdMolDescriptors.CalcTPSA),
    "logp": ("RDKit Crippen LogP", Crippen.MolLogP),
    "complexity": ("RDKit BertzCT", GraphDescriptors.BertzCT),
}
_MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
_COMPONENT = re.compile(r"\[START_SELFIES\](.*?)\[END_SELFIES\]", re.DOTALL)


def baseline_name(task: Task) -> str:
    """What `baseline_predictions` answers with, in words."""
    return "training median" if task.answer == "number" else "most frequent training answer"


def baseline_names(task: Task) -> tuple[str, ...]:
    """The baselines of a task, the trivial one of `baseline_predictions` first."""
    names = [baseline_name(task)]
    if task.answer == "number":
        names.append("training mean")
    if task.graph_rule != "none":
        names.append(NEAREST)
    if task.name in _RDKIT:
        names.append(_RDKIT[task.name][0])
    if task.name in _LINEAR_TASKS:
        names.append(LINEAR)
    return tuple(names)


def _subset(task: Task, row: Mapping[str, str]) -> str:
    return row.get("subset", "") if task.answer == "number" else ""


def _label(task: Task, row: Mapping[str, str]) -> float:
    try:
        return read_number(row["output"])
    except ValueError as error:
        raise ValueError(f"{task.name}: a training answer is not a number ({error}).") from error


def _by(group: Callable[[Mapping[str, str]], str], rows: Rows) -> dict[str, list[Mapping[str, str]]]:
    groups = defaultdict(list)
    for row in rows:
        groups[group(row)].append(row)
    return groups


def _constants(
    task: Task, train_rows: Rows, test_rows: Rows, average: Callable[[Iterable[float]], float]
) -> list[str]:
    groups = _by(lambda row: _subset(task, row), train_rows)
    if not groups:
        raise ValueError(f"{task.name}: a baseline needs training rows, and there are none.")

    def constant(rows: Sequence[Mapping[str, str]]) -> str:
        if task.answer != "number":
            return Counter(row["output"] for row in rows).most_common(1)[0][0]
        return task.answer_text(average([_label(task, row) for row in rows]))

    constants = {subset: constant(rows) for subset, rows in groups.items()}
    overall = constant([row for rows in groups.values() for row in rows])
    return [constants.get(_subset(task, row), overall) for row in test_rows]


def baseline_predictions(task: Task, train_rows: Rows, test_rows: Rows) -> list[str]:
    """One constant answer for each test row: the median of the training numbers, or the commonest training answer.

    Numbers with a `subset` (HOMO, LUMO, gap; B-H, S-M) take the median of their subset.

    Raises:
        ValueError: If there is no training row, or a training number cannot be read.
    """
    return _constants(task, train_rows, test_rows, median)


# --- from the input's molecules --------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 12)
def _mol(selfies: str) -> Chem.Mol | None:
    try:
        return mol_from_selfies(selfies)
    except ValueError:
        return None


def _sides(task: Task, row: Mapping[str, str]) -> list[str]:
    """The molecules of an input: one text, or two for `reactants>>product`."""
    if task.graph_rule == "placeholders":
        return [".".join(molecule.strip() for molecule in _COMPONENT.findall(row["input"]))]
    return row["input"].split(">>")


def _fingerprint(task: Task, row: Mapping[str, str]) -> DataStructs.ExplicitBitVect | None:
    """Morgan bits of the input, those of a reaction's two sides one after the other; None if it cannot be read."""
    mols = [_mol(side.strip()) for side in _sides(task, row)]
    if None in mols:
        return None
    left, *right = map(_MORGAN.GetFingerprint, mols)
    return sum(right, start=left)


def _nearest_answers(task: Task, train_rows: Rows, test_rows: Rows, fallback: Sequence[str]) -> list[str]:
    """The answer of the training row with the most similar input, the first of several.

    Only rows that ask for the same thing count, where there are some: the same subset, or the same question.
    """

    def question(row: Mapping[str, str]) -> str:
        return row["instruction"] if task.name == "description_qa" else _subset(task, row)

    everything: tuple[list[str], list] = [], []  # outputs and fingerprints
    groups: dict[str, tuple[list[str], list]] = defaultdict(lambda: ([], []))
    for row in train_rows:
        if (one := _fingerprint(task, row)) is not None:
            for outputs, prints in (everything, groups[question(row)]):
                outputs.append(row["output"])
                prints.append(one)
    answers = []
    for row, other in zip(test_rows, fallback, strict=True):
        query, (outputs, prints) = _fingerprint(task, row), groups.get(question(row), everything)
        if query is None or not outputs:
            answers.append(other)
        else:
            answers.append(outputs[int(np.argmax(DataStructs.BulkTanimotoSimilarity(query, prints)))])
    return answers


def _atom_counts(mol: Chem.Mol) -> Counter:
    counts = Counter(atom.GetSymbol() for atom in mol.GetAtoms())
    counts["H"] += sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    return counts


def _linear_answers(task: Task, train_rows: Rows, test_rows: Rows, fallback: Sequence[str]) -> list[str]:
    """Least squares on the numbers of atoms of each element, one model a subset."""
    from sklearn.feature_extraction import DictVectorizer  # slow to import, and few tasks need it
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline

    models = {}
    for subset, rows in _by(lambda row: _subset(task, row), train_rows).items():
        known = [(_mol(row["input"]), _label(task, row)) for row in rows]
        known = [(_atom_counts(mol), label) for mol, label in known if mol is not None]
        if known:
            models[subset] = make_pipeline(DictVectorizer(sparse=False), LinearRegression()).fit(
                *zip(*known, strict=True)
            )
    answers = []
    for row, other in zip(test_rows, fallback, strict=True):
        mol, model = _mol(row["input"]), models.get(_subset(task, row))
        answers.append(task.answer_text(model.predict([_atom_counts(mol)])[0]) if mol and model else other)
    return answers


def _rdkit_answers(task: Task, test_rows: Rows, fallback: Sequence[str]) -> list[str]:
    compute = _RDKIT[task.name][1]
    mols = [_mol(row["input"]) for row in test_rows]
    return [task.answer_text(compute(mol)) if mol else other for mol, other in zip(mols, fallback, strict=True)]


def baseline_answers(task: Task, train_rows: Rows, test_rows: Rows) -> dict[str, list[str]]:
    """Name -> one answer for each test row, for all of `baseline_names`, in that order.

    Args:
        train_rows, test_rows: With `input`, `output`, `instruction` and `subset`; molecules in SELFIES. Where an input
            cannot be read, the trivial baseline's answer stands in.

    Raises:
        ValueError: If there is no training row, or a training number cannot be read.
    """
    train_rows, test_rows = list(train_rows), list(test_rows)
    trivial = baseline_predictions(task, train_rows, test_rows)
    answers = {}
    for name in baseline_names(task):
        if name == baseline_name(task):
            answers[name] = trivial
        elif name == NEAREST:
            answers[name] = _nearest_answers(task, train_rows, test_rows, trivial)
        elif name == LINEAR:
            answers[name] = _linear_answers(task, train_rows, test_rows, trivial)
        elif name == "training mean":
            answers[name] = _constants(task, train_rows, test_rows, mean)
        else:
            answers[name] = _rdkit_answers(task, test_rows, trivial)
    return answers
