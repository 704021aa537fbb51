"""Raw folders of any size in publishers' layouts: made-up molecules, with planted repeats and leaks.

The tasks stand in the proportions of the paper's. Every molecule and reaction is written once, apart from what is
planted, so that it is known beforehand, task by task, what a build must keep and what it must remove, and why.
"""

import csv
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path

from rdkit import Chem

from benchmarks.synthetic_molecules import Reaction, molecule, reaction
from dataset_builders.schema import split_of

PROPERTIES = ("molecular_weight", "logp", "tpsa", "complexity")
TEXTS = ("molecular_captioning", "alignment", "text_guided_generation")
QUESTIONS = 10
_QM9 = "mol_id smiles A B C mu alpha homo lumo gap r2 zpve u0 u298 h298 g298 cv u0_atom u298_atom h298_atom g298_atom"
_PUBCHEM = (
    "PUBCHEM_COMPOUND_CID PUBCHEM_CACTVS_COMPLEXITY PUBCHEM_IUPAC_NAME PUBCHEM_XLOGP3_AA PUBCHEM_MOLECULAR_WEIGHT "
    "PUBCHEM_SMILES PUBCHEM_CACTVS_TPSA"
)
_ASK = "Predict the experimental procedure of the following reaction:"


@dataclass
class Plan:
    """What was written: task -> rows that a build keeps, removes as repeats, and removes as leaks."""

    kept: Counter = field(default_factory=Counter)
    repeats: Counter = field(default_factory=Counter)
    leaks: Counter = field(default_factory=Counter)
    numbers: Iterator[int] = field(default_factory=count)
    """Of molecules and reactions not yet used."""
    held_out: list[int] = field(default_factory=list)
    """Molecules of a published test split which, in a source without splits, the hash would send to train."""

    def take(self, size: int) -> list[int]:
        return list(islice(self.numbers, size))

    def add(self, tasks: Iterable[str], kept: int, repeats: int, leaks: int) -> None:
        """`kept`, `repeats` and `leaks` rows of each of the tasks."""
        for task in tasks:
            self.kept[task] += kept
            self.repeats[task] += repeats
            self.leaks[task] += leaks


@dataclass(frozen=True)
class Splits:
    """Numbers by split; `repeats` are train's again, `leaks` are test's, and both are to be written into train."""

    train: list[int]
    validation: list[int]
    test: list[int]
    repeats: list[int]
    leaks: list[int]


def write_sources(raw: Path, rows: int) -> Plan:
    """Writes about `rows` rows of the fifteen tasks into `raw/<source>/`, and says what to expect of them."""
    plan = Plan()
    whole = sum(share for share, _ in SOURCES.values())
    for name, (share, write) in SOURCES.items():
        folder = raw / name
        folder.mkdir(parents=True)
        write(folder, max(1, round(share / whole * rows)), plan)
    return plan


def planted(size: int) -> int:
    """How many repeats, and how many leaks, go into a source with so many examples."""
    return size // 500 + 1


def _split(size: int, plan: Plan, tasks: Iterable[str], rows: int = 1) -> Splits:
    """`size` examples, each of `rows` rows a task, a fiftieth of them for validation and for test."""
    more, aside = planted(size), size // 50 + 2
    numbers = plan.take(max(size, 2 * aside + more))
    train = numbers[2 * aside :]
    plan.add(tasks, rows * len(numbers), rows * more, rows * more)
    return Splits(train, numbers[:aside], numbers[aside : 2 * aside], train[:more], numbers[aside : aside + more])


def _lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _json_list(path: Path, objects: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        separator = "["
        for one in objects:
            file.write(separator + json.dumps(one))
            separator = ",\n"
        file.write("]\n")


def _table(path: Path, columns: str, rows: Iterable[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns.split(), restval="0", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# --- molecules -------------------------------------------------------------------------------------------------------


def _chebi_20(folder: Path, rows: int, plan: Plan) -> None:
    splits = _split(rows, plan, TEXTS)
    plan.held_out = [number for number in splits.test if split_of(Chem.CanonSmiles(molecule(number))) == "train"]

    def line(number: int, word: str = "described") -> str:
        return f"{number}\t{molecule(number)}\tThe molecule is number {number}, {word} here in one sentence."

    parts = {
        "train": chain(map(line, splits.train), map(line, splits.repeats), (line(n, "leaked") for n in splits.leaks)),
        "validation": map(line, splits.validation),
        "test": map(line, splits.test),
    }
    for name, lines in parts.items():
        _lines(folder / f"{name}.txt", chain(["CID\tSMILES\tdescription"], lines))


def _qm9(folder: Path, rows: int, plan: Plan) -> None:
    numbers, more = plan.take(rows // 4 + 1), planted(rows // 4)
    leaks = plan.held_out[:more]
    plan.add(["homo_lumo"], 3 * len(numbers), 3 * len(numbers[:more]), 3 * len(leaks))
    plan.add(["scf_energy"], len(numbers), len(numbers[:more]), len(leaks))

    def row(number: int) -> dict:
        homo, gap = -2000 - number % 900, 2000 + number % 700
        values = {"homo": homo / 1e4, "lumo": (homo + gap) / 1e4, "gap": gap / 1e4}
        return {
            "mol_id": f"made_{number}",
            "smiles": molecule(number),
            **values,
            "zpve": 0.25,
            "u0": -900 - number / 1e4,
        }

    _table(folder / "qm9.csv", _QM9, map(row, chain(numbers, numbers[:more], leaks)))


def _pubchem(folder: Path, rows: int, plan: Plan) -> None:
    numbers, more = plan.take(rows // 4 + 1), planted(rows // 4)
    leaks = plan.held_out[:more]
    plan.add([*PROPERTIES, "iupac_to_selfies"], len(numbers), len(numbers[:more]), len(leaks))

    def row(number: int) -> dict:
        return {
            "PUBCHEM_COMPOUND_CID": number,
            "PUBCHEM_CACTVS_COMPLEXITY": 200 + number % 700,
            "PUBCHEM_IUPAC_NAME": f"made-up molecule {number}",
            "PUBCHEM_XLOGP3_AA": number % 90 / 10,
            "PUBCHEM_MOLECULAR_WEIGHT": 250 + number % 30000 / 100,
            "PUBCHEM_SMILES": molecule(number),
            "PUBCHEM_CACTVS_TPSA": 40 + number % 900 / 10,
        }

    _table(folder / "Compound_made_up.csv", _PUBCHEM, map(row, chain(numbers, numbers[:more], leaks)))


def _three_d_moit(folder: Path, rows: int, plan: Plan) -> None:
    splits = _split(rows, plan, ["scf_energy"])
    across = plan.held_out[: len(splits.leaks)]
    plan.add(["scf_energy"], 0, 0, len(across))
    _lines(
        folder / "indices.csv",
        chain(
            ["index,smiles"],
            (f"{n},{molecule(n)}" for n in chain(splits.train, splits.validation, splits.test, across)),
        ),
    )

    def energy(number: int, shift: int = 0) -> dict:
        value = -20000 - number % 30000 - shift
        return {"input": str(number), "output": f"{value:.3e} eV", "instruction": "SCF energy?", "task": "SCF Energy"}

    parts = {
        "train": chain(
            map(energy, splits.train), map(energy, splits.repeats), (energy(n, 9) for n in [*splits.leaks, *across])
        ),
        "valid": map(energy, splits.validation),
        "test": map(energy, splits.test),
    }
    for name, records in parts.items():
        _json_list(folder / "pubchemqc" / name / "3d_computed_properties_unit.json", records)


def _drugchat(folder: Path, rows: int, plan: Plan) -> None:
    splits = _split(rows // QUESTIONS + 1, plan, ["description_qa"], QUESTIONS)

    def member(number: int, asked: str = "say") -> str:
        pairs = [[f"What does line {line} {asked}?", f"Molecule {number}, line {line}."] for line in range(QUESTIONS)]
        return f"{json.dumps(molecule(number))}: {json.dumps(pairs)}"

    train = [*map(member, splits.train), *map(member, splits.repeats), *(member(n, "leak") for n in splits.leaks)]
    held_out = map(member, [*splits.validation, *splits.test])
    for name, members in {"train": train, "test": held_out}.items():
        _lines(folder / f"ChEMBL_QA_{name}.json", ["{" + ",\n".join(members) + "}"])


# --- reactions -------------------------------------------------------------------------------------------------------


def _uspto_500_mt(folder: Path, rows: int, plan: Plan) -> None:
    """The same reactions for three tasks."""
    splits = _split(rows // 3 + 1, plan, ["forward_prediction", "retrosynthesis", "reagent_prediction"])
    parts = {
        "train": [*splits.train, *splits.repeats, *splits.leaks],
        "val": splits.validation,
        "test": splits.test,
    }
    sides: dict[str, Callable[[Reaction], str]] = {
        "product/{}.source": lambda one: f"{one.reactants}.{one.reagents}>>",
        "product/{}.target": lambda one: one.product,
        "reactants/{}.source": lambda one: one.product,
        "reactants/{}.target": lambda one: one.reactants,
        "reagents/{}.source": lambda one: f"{one.reactants}>>{one.product}",
        "reagents/{}.target": lambda one: one.reagents,
    }
    with tarfile.open(folder / "made_up.tar.bz2", "w:bz2", compresslevel=1) as archive:
        for split, numbers in parts.items():
            for name, side in sides.items():
                data = "".join(f"{side(reaction(number))}\n" for number in numbers).encode()
                info = tarfile.TarInfo(f"data/made_up/{name.format(split)}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def _presto(folder: Path, rows: int, plan: Plan) -> None:
    """Solvents and catalysts, seven to one, of different reactions."""
    for kind, size in {"solvent": rows * 7 // 8, "catalyst": rows // 8}.items():
        splits = _split(size, plan, [f"{kind}_prediction"])
        parts = {
            "train": [*splits.train, *splits.repeats, *splits.leaks],
            "dev": splits.validation,
            "test": splits.test,
        }
        for name, numbers in parts.items():
            made = map(reaction, numbers)
            _json_list(
                folder / name / f"{kind}.json",
                ({"canonical_rxn": f"{one.reactants}>>{one.product}", kind: getattr(one, f"{kind}s")} for one in made),
            )


def _rxn_yields(folder: Path, rows: int, plan: Plan) -> None:
    """The first seven tenths of the file are train. What is planted stands far from where they end."""
    splits = _split(rows * 7 // 10, plan, ["yield_regression"])
    train = [*splits.repeats, *splits.leaks, *splits.train]
    more = plan.take(max(0, len(train) * 3 // 7 + 2 - len(splits.test) - len(splits.validation)))
    plan.add(["yield_regression"], len(more), 0, 0)

    def line(number: int) -> str:
        one = reaction(number)
        left = f"{one.reactants}.{one.reagents.replace('.', '~')}.{one.solvents}"
        return f"{number}\t{left}>>{one.product}\t{number % 1000 / 1000}"

    lines = map(line, [*train, *splits.validation, *more, *splits.test])
    _lines(folder / "random_split_0.tsv", chain(["\trxn\ty"], lines))


def _orgsyn_procedures(folder: Path, rows: int, plan: Plan) -> None:
    splits = _split(rows, plan, ["experiment_procedure"])
    actions = "ADD ${}$ ; ADD $1$ ; ADD $2$ ; STIR for 12 hours ; CONCENTRATE ; YIELD $-1$"

    def line(number: int) -> str:
        one = reaction(number)
        left = f"{one.reactants}.{one.reagents.replace('.', '~')}.{one.solvents}"
        parts = left.count(".") + 1
        row = {"rxID": f"M{number}", "source": f"{_ASK}{left}>>{one.product}", "target": actions.format(parts)}
        return json.dumps(row | {"idx": number, "num_reactants": parts, "num_products": 1})

    parts = {
        "train": [*splits.train, *splits.repeats, *splits.leaks],
        "valid": splits.validation,
        "test": splits.test,
    }
    for name, numbers in parts.items():
        _lines(folder / f"{name}.jsonl", map(line, numbers))


SOURCES: dict[str, tuple[int, Callable[[Path, int, Plan], None]]] = {
    "chebi_20": (33_000, _chebi_20),
    "qm9": (482_800, _qm9),
    "pubchem": (55_900, _pubchem),
    "three_d_moit": (580_700, _three_d_moit),
    "drugchat": (66_900, _drugchat),
    "uspto_500_mt": (379_500, _uspto_500_mt),
    "presto": (86_000, _presto),
    "rxn_yields": (9_700, _rxn_yields),
    "orgsyn_procedures": (241_000, _orgsyn_procedures),
}
"""Source -> rows of the fifteen tasks that the paper has from it, or from what it stands for, and its writer."""
