"""PRESTO's solvent, catalyst and yield sets, in SMILES.

Two layouts, both known from PRESTO's builders, the first also from the rows that the Hub shows; the reader is tested
on small files in them:

* the Hub's conversations, `<task>/{train,dev,test}-*.parquet`: `molecules.smiles` lists the molecules in the order of
  the `<molecule_2d>` marks in the user's message (`<molecule_2d>.<molecule_2d>>><molecule_2d>`); the answer is
  `ground_truth` or, in training rows, the last word of the assistant's message (`The solvent can be CO .`).
* the JSON that the conversations are made of: `{train,dev,test}/{solvent,catalyst}.json` with `canonical_rxn` and
  `solvent` or `catalyst`, and `{Buchwald-Hartwig,Suzuki-Miyaura}/{train,test_100}.json` with `rxn` and `y`, each a
  list or one object a line.

The left side of a yield row is everything in the well.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from dataset_builders.fields import number, reaction, serving_split, text_field
from dataset_builders.reading import json_items, json_lines, open_binary
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Download, Source

_HUB = {
    "solvent_prediction": ("OpenMol/RCR_SP_70K_SMILES-MMChat", ("train", "dev", "test")),
    "catalyst_prediction": ("OpenMol/RCR_CP_10K_SMILES-MMChat", ("train", "dev", "test")),
    "yield_regression": ("OpenMol/BH-SM_YR_10K-MMChat", ("train", "test")),
}

SOURCE = Source(
    name="presto",
    title="PRESTO",
    home="https://github.com/IDEA-XL/PRESTO",
    license="CC-BY-NC-4.0",
    citation="Cao et al., PRESTO: Progressive Pretraining Enhances Synthetic Chemistry Outcomes, Findings of EMNLP "
    "2024, arXiv:2406.13193",
    files=(
        *(f"{task}/*.parquet" for task in _HUB),
        *(f"{split}/{name}.json" for split in ("train", "dev", "test") for name in ("solvent", "catalyst")),
        *(f"{name}/{part}.json" for name in ("Buchwald-Hartwig", "Suzuki-Miyaura") for part in ("train", "test_100")),
    ),
    tasks={
        "solvent_prediction": "solvents recorded in a US patent (USPTO)",
        "catalyst_prediction": "catalysts recorded in a US patent (USPTO)",
        "yield_regression": "measured yield as a fraction, 0 to 1 (high-throughput screens)",
    },
    paper_sizes={
        "solvent_prediction": {"train": 67_099, "test": 7_793},
        "catalyst_prediction": {"train": 10_079, "test": 1_015},
        "yield_regression": {"train": 9_515, "test": 200},
    },
    downloads=tuple(
        Download(f"presto/{task}/{file}", hub_id=hub_id, hub_file=f"data/{file}")
        for task, (hub_id, splits) in _HUB.items()
        for file in (f"{split}-00000-of-00001.parquet" for split in splits)
    ),
    left_out="Its forward, retrosynthesis and reagent sets (those of Mol-Instructions), reagent selection, reaction "
    "classes, name conversion; the -SFT copies on the Hub, which hold the same rows.",
    notes="The repository states CC BY-NC 4.0 for the data. In the Hub's yield set nothing says which rows are "
    "Buchwald-Hartwig and which Suzuki-Miyaura: their subset stays empty. It is the data of rxn_yields again.",
)

_MARK = "<molecule_2d>"
_MARKS = re.compile(rf"((?:{_MARK}\.)*{_MARK})>>((?:{_MARK}\.)*{_MARK})")
_ROLE = {"solvent_prediction": "solvents", "catalyst_prediction": "catalysts"}
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
_SUBSETS = {"Buchwald-Hartwig": "B-H", "Suzuki-Miyaura": "S-M"}
_COLUMNS = ("molecules", "messages")


def read(path: Path) -> Iterator[Record | Drop]:
    """The records of one file; task, split and subset are told by its name and folder."""
    subset = _SUBSETS.get(path.parent.name, "")
    if path.suffix == ".parquet":
        task, word, records = path.parent.name, path.stem.partition("-")[0], _conversations(path)
    else:
        task = "yield_regression" if subset else f"{path.stem}_prediction"
        word, records = (path.stem.partition("_")[0] if subset else path.parent.name), _json(path)
    if task not in SOURCE.tasks or word not in _SPLITS:
        raise ValueError(f"{path}: expected the name and folder of one of PRESTO's files, {', '.join(SOURCE.files)}")
    split = serving_split(_SPLITS[word], lambda other: _sibling(path, other))
    for place, record in records:
        try:
            if isinstance(record, Drop):
                raise ValueError(record.reason)
            equation, answer = (_said if path.suffix == ".parquet" else _plain)(task, record)
            fields = _answer(task, answer, reaction(equation))
            yield Record(task, str(place), **fields, subset=subset, split=split)
        except ValueError as error:
            yield Drop(task, str(place), str(error))


def _sibling(path: Path, other: str) -> bool:
    """Whether the same file of another split lies there: split in the name (Parquet), or in the folder's (JSON)."""
    if path.suffix == ".parquet":
        return any(path.parent.glob(f"{other}-*.parquet"))
    return (path.parents[1] / other / path.name).is_file()


def _answer(task: str, answer: Any, molecules: dict[str, str]) -> dict[str, Any]:
    if task in _ROLE:
        return {"molecules": molecules | {_ROLE[task]: text_field({"the answer": answer}, "the answer")}}
    value = number(answer)
    if not 0 <= value <= 1:
        raise ValueError("the yield is not between 0 and 1")
    return {"molecules": molecules, "value": value, "label_source": "measured"}


def _plain(task: str, record: Mapping[str, Any]) -> tuple[str, Any]:
    """Reaction and answer of a row of the JSON files."""
    if task == "yield_regression":
        return text_field(record, "rxn"), record.get("y")
    return text_field(record, "canonical_rxn"), record.get(task.partition("_")[0])


def _said(task: str, record: Mapping[str, Any]) -> tuple[str, Any]:
    """Reaction and answer of a conversation."""
    said = {turn["role"]: turn["content"] or "" for turn in record["messages"] or ()}
    marks = _MARKS.search(said.get("user", ""))
    if not marks:
        raise ValueError(f"no {_MARK}>>{_MARK} in the user's message")
    smiles = list((record["molecules"] or {}).get("smiles") or ())
    left = marks[1].count(_MARK)
    if len(smiles) != left + marks[2].count(_MARK) or not all(smiles):
        raise ValueError(f"not one molecule for each {_MARK}")
    words = (record.get("ground_truth") or said.get("assistant", "")).removesuffix(".").split()
    return ".".join(smiles[:left]) + ">>" + ".".join(smiles[left:]), words[-1] if words else ""


def _conversations(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    done = 0
    try:
        with open_binary(path) as file:
            parquet = pyarrow.parquet.ParquetFile(file)
            if missing := [name for name in _COLUMNS if name not in parquet.schema_arrow.names]:
                raise ValueError(f"{path} has no column {', '.join(missing)}; it has {parquet.schema_arrow.names}")
            for batch in parquet.iter_batches(batch_size=1000):
                yield from enumerate(batch.to_pylist(), done + 1)
                done += batch.num_rows
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a whole Parquet file, it breaks after row {done}: {error}") from error


def _json(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | Drop]]:
    with open_binary(path) as file:
        is_list = file.read(64).lstrip()[:1] == b"["
    return json_items(path) if is_list else json_lines(path)
