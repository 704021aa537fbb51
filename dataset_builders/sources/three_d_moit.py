"""3D-MoIT, the instruction set of 3D-MoLM: properties of PubChem, questions on its descriptions, SCF energies.

JSON lists of `{"instruction", "input", "output", "task"}` in a folder a split; no record holds its molecule:

* `pubchem/{train,valid,test}/2d_computed_properties.json` and `2d_descriptive_properties.json`: `input` is a PubChem
  CID, looked up in `cids.csv` (columns cid, smiles).
* `pubchemqc/{train,valid,test}/3d_computed_properties_unit.json`: `input` is *not* a CID but counts, from 0, the
  molecules of Molecule3D's four SDF files `combined_mols_*.sdf`, in their order. It is looked up in `indices.csv`
  (columns index, smiles). Taken for a CID it would name another molecule.

Either table may lie beside the file or in a folder above it, up to the source's own. Answers are kept to the letter;
SCF energies are published in eV (`-1.880e+05 eV`), which the paper's figures give in units of 10^5 eV.

Known from 3D-MoLM's code and the rows that the Hub shows; the reader is tested on small files in that layout.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from dataset_builders.fields import SPLIT_WORDS, serving_split, text_field
from dataset_builders.reading import ALL_TASKS, json_items, table_rows
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Download, Source

_HUB = "Sihangli/3D-MoIT"
_FILES = {
    "pubchem": ("2d_computed_properties.json", "2d_descriptive_properties.json"),
    "pubchemqc": ("3d_computed_properties_unit.json",),
}

SOURCE = Source(
    name="three_d_moit",
    title="3D-MoIT",
    home=f"https://huggingface.co/datasets/{_HUB}",
    license="Apache-2.0",
    citation="Li et al., 3D-MoLM: Towards 3D Molecule-Text Interpretation in Language Models, ICLR 2024, "
    "arXiv:2401.13923",
    files=tuple(
        f"{folder}/{split}/{name}" for folder, names in _FILES.items() for split in SPLIT_WORDS for name in names
    ),
    tasks={
        "molecular_weight": "computed by PubChem, g/mol",
        "logp": "XLogP, computed by PubChem",
        "tpsa": "computed by PubChem, Å²",
        "complexity": "computed by PubChem, no unit",
        "scf_energy": "total energy in eV, B3LYP/6-31G*, from PubChemQC; answers as published, e.g. -1.880e+05 eV",
        "description_qa": "answer to a question, both drawn from a PubChem description by GPT-3.5",
    },
    paper_sizes={
        "molecular_weight": {"train": 11_979, "test": 2_000},
        "tpsa": {"train": 11_979, "test": 2_000},
        "complexity": {"train": 11_979, "test": 2_000},
        "logp": {"train": 10_673, "test": 1_785},
        "scf_energy": {"train": 623_418, "test": 77_993},
        "description_qa": {"train": 56_885, "test": 10_000},
    },
    downloads=tuple(
        Download(
            f"three_d_moit/{folder}/{split}/{name}",
            hub_id=_HUB,
            hub_file=f"3d-mol-dataset/{folder}/{split}/{name}",
        )
        for folder, names in _FILES.items()
        for split in SPLIT_WORDS
        for name in names
    ),
    how_to_get="The molecules come apart: put `cids.csv` (cid,smiles), which the PUG REST step writes, and "
    "`indices.csv` (index,smiles), written from Molecule3D's SDF files (https://github.com/divelab/MoleculeX), into "
    "three_d_moit/.",
    left_out="The pretrain folders (300,000 molecules that the paper does not take); HOMO, LUMO and gap, in eV here, "
    "while homo_lumo takes QM9's in Hartree; captions and conformers (LMDB).",
)

TASK_OF_WORD = {
    "Description": "description_qa",
    "Molecular Weight": "molecular_weight",
    "LogP": "logp",
    "Topological Polar Surface Area": "tpsa",
    "Complexity": "complexity",
    "SCF Energy": "scf_energy",
}
_IN_EV = ("HOMO", "LUMO", "HOMO-LUMO Gap")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def read(path: Path) -> Iterator[Record | Drop]:
    """The records of one file, each with the molecule that `cids.csv` or `indices.csv` gives for it."""
    if path.parent.name not in SPLIT_WORDS:
        raise ValueError(f"{path}: expected a folder {', '.join(SPLIT_WORDS)} around the file, which gives its split")
    folders = path.parents[1]
    split = serving_split(SPLIT_WORDS[path.parent.name], lambda other: (folders / other / path.name).is_file())
    kind = "index" if path.name in _FILES["pubchemqc"] else "cid"
    table = _table(path, kind)
    for place, record in json_items(path):
        if isinstance(record, Drop):
            yield record
            continue
        word = record.get("task")
        task = TASK_OF_WORD.get(word, ALL_TASKS) if isinstance(word, str) else ALL_TASKS
        try:
            yield Record(task, str(place), **_fields(task, record, kind, table), split=split)
        except ValueError as error:
            task = "homo_lumo" if word in _IN_EV else task
            yield Drop(task, str(place), str(error))


def _fields(task: str, record: Mapping[str, Any], kind: str, table: Mapping[int, str]) -> dict[str, Any]:
    if record.get("task") in _IN_EV:
        raise ValueError("HOMO, LUMO and gap are in eV here; homo_lumo takes QM9's, in Hartree")
    if task == ALL_TASKS:
        raise ValueError("`task` is none of 3D-MoIT's")
    key, text = text_field(record, "input"), text_field(record, "output")
    if not key.isdecimal():
        raise ValueError(f"the input is no {kind}")
    if int(key) not in table:
        raise ValueError("CID not found" if kind == "cid" else "index not found")
    fields = {
        "molecules": {"molecule": table[int(key)]},
        "text": text,
        "publisher_id": key if kind == "cid" else f"index {key}",
    }
    if task == "description_qa":
        return fields | {"instruction": text_field(record, "instruction")}
    if not NUMBER.search(text):
        raise ValueError("the answer has no number")
    return fields


def _table(path: Path, kind: str) -> Mapping[int, str]:
    """Key -> SMILES, from the nearest `cids.csv` or `indices.csv` in the file's folder and the two above it."""
    name = "cids.csv" if kind == "cid" else "indices.csv"
    file = next((folder / name for folder in list(path.parents)[:3] if (folder / name).is_file()), None)
    return _read_table(file, kind) if file else {}


@lru_cache(2)
def _read_table(file: Path, kind: str) -> Mapping[int, str]:
    table = {}
    for place, row in table_rows(file, (kind, "smiles")):
        if isinstance(row, Drop) or not row[kind].strip().isdecimal():
            raise ValueError(f"{file}, row {place}: expected {kind},smiles with a whole number as {kind}")
        if row["smiles"].strip():
            table[int(row[kind])] = row["smiles"].strip()
    return table
