"""ChEBI-20: molecules with the first sentences of their ChEBI entries (`train.txt`, `validation.txt`, `test.txt`).

Tab-separated text with the columns CID, SMILES and description. The files were written with every backslash of a
SMILES doubled. RDKit happens to read such a string, SELFIES refuses it; they are made single here, and no row is lost.
"""

from collections.abc import Iterator
from pathlib import Path

from dataset_builders.fields import serving_split
from dataset_builders.reading import table_rows
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Download, Source

TASKS = ("molecular_captioning", "alignment", "text_guided_generation")
_FILES = ("train.txt", "validation.txt", "test.txt")
_HOME = "https://raw.githubusercontent.com/blender-nlp/MolT5/754f9bffa4a638e2f1386d0ca19b5c3ed0a5b4aa/ChEBI-20_data"

SOURCE = Source(
    name="chebi_20",
    title="ChEBI-20",
    home="https://github.com/blender-nlp/MolT5/tree/main/ChEBI-20_data",
    license="CC-BY-4.0",
    citation=(
        "Carl Edwards, ChengXiang Zhai, Heng Ji. Text2Mol: Cross-Modal Molecule Retrieval with Natural Language "
        "Queries. EMNLP 2021. Files: Carl Edwards, Tuan Lai, Kevin Ros, Garrett Honke, Heng Ji. Translation between "
        "Molecules and Natural Language. EMNLP 2022. Descriptions: Janna Hastings et al. ChEBI in 2016: Improved "
        "services and an expanding collection of metabolites. Nucleic Acids Research 44, 2016."
    ),
    files=_FILES,
    tasks={
        "molecular_captioning": "description of the molecule in the words of its ChEBI entry",
        "alignment": "the same descriptions, as pairs for stage 1",
        "text_guided_generation": "the molecule that a ChEBI description is about",
    },
    paper_sizes={"molecular_captioning": {"train": 26_420, "validation": 3_295, "test": 3_295}},
    downloads=tuple(Download(f"chebi_20/{name}", url=f"{_HOME}/{name}") for name in _FILES),
    notes=(
        "The files are released under BSD-3-Clause, the descriptions by ChEBI under CC BY 4.0. The publisher's files "
        "have 26,407, 3,301 and 3,300 rows. Validation serves as train (or test) where that file is absent."
    ),
)


def single_backslashes(smiles: str) -> str:
    """The SMILES as it was before its backslashes were escaped; one that was not escaped stays as it is."""
    return smiles.replace("\\\\", "\\")


def read(path: Path) -> Iterator[Record | Drop]:
    """One record a task and row; all three stand in the same split."""
    split = serving_split(path.stem, lambda other: path.with_stem(other).exists())
    for number, row in table_rows(path, ("CID", "SMILES", "description"), delimiter="\t"):
        if isinstance(row, Drop):
            yield row
            continue
        molecules, text = {"molecule": single_backslashes(row["SMILES"])}, row["description"].strip()
        for task in TASKS:
            if not text:
                yield Drop(task, str(number), "no description")
                continue
            yield Record(task, str(number), molecules, text=text, split=split, publisher_id=row["CID"])
