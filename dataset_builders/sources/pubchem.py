"""PubChem compound records: SDF (`*.sdf`, `*.sdf.gz`) and tables of SD tags (`Compound_*.csv`).

The tags of a record are the same in both; the structure is taken from its SMILES tag, PubChem's own, and the mol
block is not read. A record feeds the tasks whose tag it has; for each other one it gives a drop.

A table `X_with_description.csv` is `X.csv` with a column of descriptions added: where both lie together, the second
feeds only `alignment`, so that no label is read twice.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from dataset_builders.reading import ALL_TASKS, table_rows, text_lines
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Download, Source

# Since 2025 PubChem calls its isomeric SMILES just SMILES; older files have the name of the program that wrote it.
SMILES_TAGS = ("PUBCHEM_SMILES", "PUBCHEM_OPENEYE_ISO_SMILES")
NUMBERS = {
    "molecular_weight": {"PUBCHEM_MOLECULAR_WEIGHT": "computed:PubChem"},
    "logp": {"PUBCHEM_XLOGP3": "computed:XLOGP3", "PUBCHEM_XLOGP3_AA": "computed:XLOGP3-AA"},
    "tpsa": {"PUBCHEM_CACTVS_TPSA": "computed:Cactvs"},
    "complexity": {"PUBCHEM_CACTVS_COMPLEXITY": "computed:Cactvs"},
}
"""Task -> its tags, the better one first -> where such a label comes from."""
TEXTS = {"iupac_to_selfies": "PUBCHEM_IUPAC_NAME", "alignment": "Description"}
_CID = "PUBCHEM_COMPOUND_CID"
_DESCRIBED = "_with_description"
# Not the tags of LogP: a table of compounds may have either or both.
_COLUMNS = (_CID, *(tag for task in NUMBERS if task != "logp" for tag in NUMBERS[task]), TEXTS["iupac_to_selfies"])
_TABLES = (
    "https://raw.githubusercontent.com/Ray16/PubChem_data_retrieval/d0dbb74095fb2ec22942652536bd63cadc46a34a/"
    "backup/output"
)

SOURCE = Source(
    name="pubchem",
    title="PubChem",
    home="https://pubchem.ncbi.nlm.nih.gov",
    license="public domain",
    citation=(
        "Sunghwan Kim et al. PubChem in 2021: new data content and improved web interfaces. Nucleic Acids Research "
        "49, 2021. XLOGP3: Tiejun Cheng et al. Computation of Octanol-Water Partition Coefficients by Guiding an "
        "Additive Model with Knowledge. J. Chem. Inf. Model. 47, 2007."
    ),
    files=("Compound_*.csv", "*.sdf", "*.sdf.gz"),
    tasks={
        "molecular_weight": "molecular weight, in g/mol",
        "logp": "XLOGP3, or XLOGP3-AA where PubChem has no value with a reference compound; no unit",
        "tpsa": "topological polar surface area by Cactvs, in Å²",
        "complexity": "structural complexity by Cactvs (Bertz, Hendrickson, Ihlenfeldt), no unit",
        "alignment": "description in the words of one of PubChem's contributors, as pairs for stage 1",
        "iupac_to_selfies": "preferred IUPAC name",
    },
    paper_sizes={"alignment": {"train": 310_000}},
    downloads=tuple(
        Download(f"pubchem/{name}", url=f"{_TABLES}/{name}")
        for name in ("Compound_1_1000.csv", f"Compound_1_1000{_DESCRIBED}.csv")
    ),
    how_to_get=(
        "PubChem's complete files lie at https://ftp.ncbi.nlm.nih.gov/pubchem/Compound/CURRENT-Full/SDF/; put any of "
        "them (Compound_*.sdf.gz, about 500,000 compounds each) into the folder as they are."
    ),
    notes=(
        "Unsplit: molecules are split by hash. Descriptions keep the name of the compound that they begin with. The "
        "paper's numbers for these properties come through 3D-MoIT."
    ),
)


def read(path: Path) -> Iterator[Record | Drop]:
    """One record a task and compound, for each task that the file can feed."""
    described = path.stem.endswith(_DESCRIBED)
    tasks = [*NUMBERS, "iupac_to_selfies"] + ["alignment"] * described
    if path.suffix == ".csv":
        rows = table_rows(path, (*_COLUMNS, *[TEXTS["alignment"]] * described))
        if described and path.with_stem(path.stem.removesuffix(_DESCRIBED)).exists():
            tasks = ["alignment"]
    else:
        rows = sd_records(path)
    for number, row in rows:
        if isinstance(row, Drop):
            yield row
        elif not (smiles := next((row[tag] for tag in SMILES_TAGS if row.get(tag)), "")):
            yield Drop(ALL_TASKS, str(number), f"none of {', '.join(SMILES_TAGS)}")
        else:
            for task in tasks:
                yield _example(task, str(number), row, smiles)


def sd_records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The SD tags of each record of an SDF, with the record's number.

    Raises:
        ValueError: If the file is empty, not text, or ends within a record.
    """
    number, name, tags, inside = 1, "", {}, False
    for _, line in text_lines(path):
        inside = line != "$$$$" and (inside or bool(line.strip()))
        if line == "$$$$":
            yield number, tags
            number, name, tags = number + 1, "", {}
        elif not line.strip():
            name = ""
        elif name:
            tags[name] = f"{tags[name]}\n{line}" if name in tags else line
        elif line.startswith(">") and "<" in line:
            name = line[line.index("<") + 1 : line.rindex(">")]
    if inside or number == 1:
        raise ValueError(f"{path}, record {number}: the file ends within it, before a line $$$$")


def _example(task: str, place: str, row: dict[str, str], smiles: str) -> Record | Drop:
    common = {"task": task, "place": place, "molecules": {"molecule": smiles}, "publisher_id": row.get(_CID, "")}
    if task in TEXTS:
        text = row.get(TEXTS[task], "").strip()
        return Record(**common, text=text) if text else Drop(task, place, f"no {TEXTS[task]}")
    tags = NUMBERS[task]
    tag = next((tag for tag in tags if row.get(tag)), None)
    if tag is None:
        return Drop(task, place, f"no {' or '.join(tags)}")
    try:
        value = float(row[tag])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        return Drop(task, place, f"{tag} is not a number")
    return Record(**common, value=value, label_source=tags[tag])
