"""Mol-Instructions, its molecule-oriented part: reactions, QM9 orbital energies and PubChem descriptions.

The release is `Molecule-oriented_Instructions.zip` with one JSON list a task; the reader takes the archive as it is,
or single JSON files out of it. A record is `{"instruction", "input", "output", "metadata": {"task", "split"}}`, its
molecules in SELFIES, a reaction as `reactants>>product`. The three reaction files are tested on real excerpts. Of
the other three only the names, the record's keys and that property answers are JSON numbers are known, from others'
descriptions of the release: they are tested on small files in that layout.
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import ijson

from dataset_builders.fields import orbital, published_split, side_fields, text_field
from dataset_builders.reading import ALL_TASKS, json_items
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Download, Source

_ARCHIVE = "Molecule-oriented_Instructions.zip"
_ORBITALS = "Hartree, B3LYP/6-31G(2df,p), from QM9"

SOURCE = Source(
    name="mol_instructions",
    title="Mol-Instructions (molecule-oriented)",
    home="https://github.com/zjunlp/Mol-Instructions",
    license="CC-BY-4.0",
    citation="Fang et al., Mol-Instructions: A Large-Scale Biomolecular Instruction Dataset for Large Language "
    "Models, ICLR 2024, arXiv:2306.08018",
    files=("*.json", "*.zip"),
    tasks={
        "forward_prediction": "product recorded in a US patent (USPTO)",
        "retrosynthesis": "reactants recorded in a US patent (USPTO-500-MT)",
        "reagent_prediction": "reagents recorded in a US patent (USPTO-500-MT)",
        "homo_lumo": f"orbital energy or gap, {_ORBITALS}",
        "alignment": "description of the molecule, from PubChem",
        "text_guided_generation": "molecule that PubChem describes so",
    },
    paper_sizes={
        "forward_prediction": {"train": 124_384, "test": 1_000},
        "retrosynthesis": {"train": 128_684, "test": 1_000},
        "reagent_prediction": {"train": 124_384, "test": 1_000},
        "homo_lumo": {"train": 360_113, "test": 1_987},
    },
    downloads=(
        Download(f"mol_instructions/{_ARCHIVE}", hub_id="zjunlp/Mol-Instructions", hub_file=f"data/{_ARCHIVE}"),
    ),
    left_out="Its instructions (templates of ours take their place), and the protein-oriented and text parts.",
    notes="Descriptions feed `alignment`: for captioning the paper takes ChEBI-20. The archive and JSON files out of "
    "it are read alike: keep one of the two, or every row comes twice. The paper prints one train size for forward "
    "and for reagent prediction, surely a slip.",
)

TASK_OF_FILE = {
    "forward_reaction_prediction": "forward_prediction",
    "retrosynthesis": "retrosynthesis",
    "reagent_prediction": "reagent_prediction",
    "property_prediction": "homo_lumo",
    "molecular_description_generation": "alignment",
    "description_guided_molecule_design": "text_guided_generation",
}
SIDES = {
    "forward_prediction": ("reactants", "product"),
    "retrosynthesis": ("product", "reactants"),
    "reagent_prediction": ("reaction", "reagents"),
    "homo_lumo": ("molecule", "value"),
    "alignment": ("molecule", "text"),
    "text_guided_generation": ("text", "molecule"),
}
"""Task -> what stands in `input` and in `output`: a role of `Record.molecules`, `reaction`, `text` or `value`."""


def read(path: Path) -> Iterator[Record | Drop]:
    """The records of one JSON file, or of all those in the archive."""
    for file, place, record in _records(path):
        task = TASK_OF_FILE.get(file, ALL_TASKS)
        if isinstance(record, Drop):
            yield Drop(task, place, record.reason)
        elif task == ALL_TASKS:
            yield Drop(task, place, "the file's name is none of the publisher's task files")
        else:
            yield _record(task, place, record)


def _record(task: str, place: str, record: Mapping[str, Any]) -> Record | Drop:
    try:
        fields = side_fields(record, SIDES[task])
        subset = orbital(text_field(record, "instruction")) if task == "homo_lumo" else ""
        return Record(task, place, **fields, subset=subset, split=published_split(record), notation="selfies")
    except ValueError as error:
        return Drop(task, place, str(error))


def _records(path: Path) -> Iterator[tuple[str, str, Mapping[str, Any] | Drop]]:
    """File name without suffix, place and record: of a JSON file, or of each JSON file of an archive."""
    if path.suffix != ".zip":
        yield from ((path.stem, str(number), record) for number, record in json_items(path))
        return
    place = "the first record"
    try:
        with zipfile.ZipFile(path) as archive:
            for name in map(PurePosixPath, sorted(archive.namelist())):
                if name.suffix == ".json" and name.parts[0] != "__MACOSX":
                    with archive.open(str(name)) as file:
                        for number, record in enumerate(ijson.items(file, "item", use_float=True), 1):
                            place = f"{name.stem}/{number}"
                            sound = isinstance(record, dict)
                            yield name.stem, place, record if sound else Drop(ALL_TASKS, place, "not a JSON object")
    except (zipfile.BadZipFile, EOFError, zlib.error, ijson.JSONError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: a broken archive, or not JSON, after {place}: {error}") from error
