"""Checks of a built dataset against chemistry and against itself, gathered table by table.

They find faults, they do not remove rows: what fails is counted in the report and listed there and in the card.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product

import numpy as np
import pyarrow as pa
from rdkit import Chem, rdBase
from rdkit.Chem.Descriptors import MolWt

from dataset_builders.schema import stable_hash
from omnimol_hf.chemistry_omnimol import graph_components, selfies_to_smiles
from omnimol_hf.tasks import Task

LISTED = 50
"""Faults that a check names."""

SAMPLE = 1_000
"""Rows of a task whose molecules are read back."""

WEIGHTS = 20_000
"""Molecular weights that are computed again."""

GAP_TOLERANCE = 1.6e-4
"""Hartree: three numbers rounded to four decimals, and a rounding error of floats."""

_COMPONENT = re.compile(r"\[START_SELFIES\](.*?)\[END_SELFIES\]")


@dataclass
class Check:
    """What is checked, in words, and what came out."""

    what: str
    checked: int = 0
    failed: int = 0
    listed: list[str] = field(default_factory=list)

    def note(self, fault: str) -> None:
        """Counts one more case; an empty `fault` says that all is well."""
        self.checked += 1
        if fault:
            self.failed += 1
            if len(self.listed) < LISTED:
                self.listed.append(fault)


def weight_agrees(published: float, computed: float) -> bool:
    """PubChem prints one decimal where an element's natural weight varies; tables of weights differ a little, too."""
    return abs(published - computed) <= 0.055 + 1e-4 * computed


class Checks:
    """All checks.

    Args:
        rows: task -> split -> rows, to sample evenly: by the hash of the id, so that the same rows are looked at in
            every build.
    """

    def __init__(self, rows: dict[str, dict[str, int]]) -> None:
        self.totals = {task: sum(splits.values()) for task, splits in rows.items()}
        self.numbers = Check("every answer of a number task holds a number")
        self.yields = Check("yields lie between 0 and 1")
        self.gaps = Check("of each molecule, gap = LUMO - HOMO within rounding")
        self.weights = Check(
            "molecular weights equal RDKit's within 0.055 g/mol plus 0.01 % (of at most about 20,000)"
        )
        self.molecules = Check(
            "input, output and graph hold the same molecules: SELFIES read back, about 1,000 rows a task"
        )
        self._orbitals: list[pa.Table] = []

    def add(self, task: Task, table: pa.Table, values: np.ndarray | None) -> None:
        """Takes in some rows of a task; `values` as in `TaskStatistics.add`."""
        if values is not None:
            self._add_values(task, table, values)
        for row in self._sample(task, table, SAMPLE):
            self.molecules.note(_molecule_fault(task, row))

    def _sample(self, task: Task, table: pa.Table, rows: int) -> list[dict]:
        every = max(1, self.totals[task.name] // rows)
        places = [place for place, row_id in enumerate(table["id"].to_pylist()) if stable_hash(row_id) % every == 0]
        return table.take(pa.array(places, pa.int64())).to_pylist()

    def _add_values(self, task: Task, table: pa.Table, values: np.ndarray) -> None:
        ids = table["id"]
        unreadable = np.flatnonzero(~np.isfinite(values))
        self.numbers.checked += len(values) - len(unreadable)
        for place in unreadable:
            self.numbers.note(f"{ids[int(place)]}: {table['output'][int(place)]}")
        if task.name == "yield_regression":
            outside = np.flatnonzero((values < 0) | (values > 1))
            self.yields.checked += len(values) - len(outside)
            for place in outside:
                self.yields.note(f"{ids[int(place)]}: {values[place]:.6g}")
        elif task.name == "homo_lumo":
            self._orbitals.append(_orbitals(table, values))
        elif task.name == "molecular_weight":
            rows = table.append_column("value", pa.array(values))
            for row in self._sample(task, rows, WEIGHTS):
                self.weights.note(_weight_fault(row))

    def result(self) -> dict[str, dict]:
        """Name -> what is checked, how many cases, how many failed, and the first of those, as plain data."""
        for fault in _gap_faults(self._orbitals):
            self.gaps.note(fault)
        self._orbitals = []
        named = ("numbers", "yields", "gaps", "weights", "molecules")
        return {name: vars(check) for name in named if (check := getattr(self, name)).checked}


def _orbitals(table: pa.Table, values: np.ndarray) -> pa.Table:
    """Rows with a key of source and molecule."""
    pairs = zip(table["source"].to_pylist(), table["input"].to_pylist(), strict=True)
    keys = pa.array([stable_hash(*pair) for pair in pairs], pa.uint64())
    return table.select(["id", "subset"]).append_column("key", keys).append_column("value", pa.array(values))


def _gap_faults(tables: list[pa.Table]) -> Iterator[str]:
    """For every molecule of a source that has all three energies, what is wrong with them, or nothing.

    A molecule may have been computed several times: one set of three that fits is enough.
    """
    if not tables:
        return
    rows = pa.concat_tables(tables).combine_chunks().sort_by("key")
    keys, subsets, values = (rows[name].to_numpy() for name in ("key", "subset", "value"))
    for group in np.split(np.arange(len(keys)), np.flatnonzero(np.diff(keys)) + 1):
        energies = [np.unique(values[group[subsets[group] == name]]) for name in ("HOMO", "LUMO", "gap")]
        if sets := list(product(*energies)):
            homo, lumo, gap = min(sets, key=lambda one: abs(one[1] - one[0] - one[2]))
            fits = abs(lumo - homo - gap) <= GAP_TOLERANCE
            yield "" if fits else f"{rows['id'][int(group[0])]}: HOMO {homo:.6g}, LUMO {lumo:.6g}, gap {gap:.6g}"


def _weight_fault(row: dict) -> str:
    with rdBase.BlockLogs():
        computed = MolWt(Chem.MolFromSmiles(".".join(row["graph_smiles"])))
    fits = weight_agrees(row["value"], computed)
    return "" if fits else f"{row['id']} ({row['source_id']}): {row['value']:.6g}, RDKit {computed:.6g}"


def _molecule_fault(task: Task, row: dict) -> str:
    try:
        molecules = [_read(component) for component in graph_components(row["input"], task.graph_rule)]
        if molecules != row["graph_smiles"]:
            return f"{row['id']}: the graph is not of the input's molecules"
        for component in _components(task, row):
            _read(component)
    except ValueError as error:
        return f"{row['id']}: {error}"
    return ""


_read = lru_cache(20_000)(selfies_to_smiles)
"""Molecules come again: in several tasks, and solvents in many rows."""


def _components(task: Task, row: dict) -> list[str]:
    """All SELFIES that the row holds, molecule by molecule."""
    sequences = [row["output"]] if task.answer == "molecule" else []
    if task.graph_rule == "placeholders":
        sequences += _COMPONENT.findall(row["input"])
    elif task.graph_rule != "none":
        sequences += row["input"].split(">>")
    return [component for sequence in sequences for component in sequence.split(".")]
