"""Yields of two high-throughput screens, as published with Yield-BERT (rxn4chemistry/rxn_yields).

- Buchwald-Hartwig (subset `B-H`): sheet `FullCV_01` of `Dreher_and_Doyle_input_data.xlsx` has a row a well, with
  columns for ligand, additive, base, aryl halide and `Output`, the yield in %. The product comes from applying the
  coupling with p-toluidine to the aryl halide. The left side is what the publisher puts there, in his order: aryl
  halide, p-toluidine, palladium precatalyst, ligand, base, additive. The solvent (DMSO, always) is not in it.
- Suzuki-Miyaura (subset `S-M`): `random_split_0.tsv` has reaction SMILES with everything in the well (solvent
  included), ions joined by `~`, and `y`, the yield from 0 to 1.

In both the first 70 % of the rows (rounded down: 2,768 and 4,032) are the publisher's training set, the rest is test.
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import isfinite, nan
from pathlib import Path
from zipfile import BadZipFile

from openpyxl import load_workbook
from rdkit import Chem, rdBase
from rdkit.Chem import rdChemReactions

from dataset_builders.reading import open_binary, table_rows
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Download, Source

TASK = "yield_regression"
SHEET = "FullCV_01"
AMINE = "Cc1ccc(N)cc1"
# (2'-Amino-1,1'-biphenyl-2-yl)palladium triflate. In the complex the amine also binds the metal, through its lone
# pair. SELFIES has no such bond: it is left out, which changes no atom, no charge and no hydrogen.
PRECATALYST = "Nc1ccccc1-c1ccccc1[Pd]OS(=O)(=O)C(F)(F)F"

_REPOSITORY = "https://raw.githubusercontent.com/rxn4chemistry/rxn_yields/d9e6b87ce1b881978490d68bfc00021e3b48127a"
_COLUMNS = ("Aryl halide", "Ligand", "Base", "Additive", "Output")
_COUPLING = rdChemReactions.ReactionFromSmarts("[c:1][Cl,Br,I].[NH2:2][c:3]>>[c:1][NH:2][c:3]")

SOURCE = Source(
    name="rxn_yields",
    title="Yields of Buchwald-Hartwig and Suzuki-Miyaura screens (rxn_yields)",
    home="https://github.com/rxn4chemistry/rxn_yields",
    license="MIT",
    citation=(
        "Schwaller et al., Prediction of chemical reaction yields using deep learning, Mach. Learn.: Sci. Technol. "
        "2021, 2, 015016, https://doi.org/10.1088/2632-2153/abc81d; data: Ahneman et al., Science 2018, 360, 186, "
        "https://doi.org/10.1126/science.aar5169 (B-H) and Perera et al., Science 2018, 359, 429, "
        "https://doi.org/10.1126/science.aap9112 (S-M)"
    ),
    files=("Dreher_and_Doyle_input_data.xlsx", "random_split_0.tsv"),
    tasks={TASK: "measured yield (by liquid chromatography), fraction of the theoretical yield from 0 to 1"},
    paper_sizes={TASK: {"train": 9515, "test": 200}},
    downloads=(
        Download(
            path="rxn_yields/Dreher_and_Doyle_input_data.xlsx",
            url=f"{_REPOSITORY}/data/Buchwald-Hartwig/Dreher_and_Doyle_input_data.xlsx",
            sha256="d7f318abfbb42eaadca482b1e9aa54540eeed60e0089b6a0eb4e75366c31ee2e",
        ),
        Download(
            path="rxn_yields/random_split_0.tsv",
            url=f"{_REPOSITORY}/data/Suzuki-Miyaura/random_splits/random_split_0.tsv",
            sha256="d2acd54d3958a5369346177834e6c2b16388813bb28b105181a252a15c4a79a8",
        ),
    ),
    left_out="The other nine random splits and the out-of-sample splits: the same wells, ordered in other ways.",
    notes=(
        "The paper tests on 100 wells of either screen (PRESTO's selection, which is not published here); these are "
        "the publisher's 70/30 splits."
    ),
)


def read(path: Path) -> Iterator[Record | Drop]:
    """The records of one of the two files.

    Raises:
        ValueError: If the file is broken, or has not the sheet or the columns; names the file, and the row if it can.
    """
    yield from _buchwald_hartwig(path) if path.suffix == ".xlsx" else _suzuki_miyaura(path)


def _buchwald_hartwig(path: Path) -> Iterator[Record | Drop]:
    train = _training_rows(number for number, _ in _wells(path))
    for number, well in _wells(path):
        place = f"{SHEET}/{number}"
        blank = [name for name in _COLUMNS if well[name] is None or not str(well[name]).strip()]
        if blank:
            yield Drop(TASK, place, f"the cell {blank[0]} is blank")
            continue
        halide, ligand, base, additive = (str(well[name]).strip() for name in _COLUMNS[:4])
        products = _products(halide)
        if len(products) != 1:
            yield Drop(TASK, place, "the coupling of the aryl halide does not give one product")
            continue
        left = ".".join((halide, AMINE, PRECATALYST, ligand, base, additive))
        yield _record(place, left, products[0], well["Output"], 100, "B-H", number <= train)


def _suzuki_miyaura(path: Path) -> Iterator[Record | Drop]:
    columns = ("rxn", "y")
    train = _training_rows(number for number, _ in table_rows(path, columns, "\t"))
    for number, row in table_rows(path, columns, "\t"):
        if isinstance(row, Drop):
            yield row
            continue
        left, arrow, product = row["rxn"].partition(">>")
        if not (left and arrow and product) or ">" in product:
            yield Drop(TASK, str(number), "the reaction has not one left and one right side")
            continue
        yield _record(str(number), left, product, row["y"], 1, "S-M", number <= train, row.get("", ""))


def _training_rows(numbers: Iterator[int]) -> int:
    """The number of the last row of the training set."""
    return max(numbers) * 7 // 10


def _record(
    place: str, left: str, product: str, value: object, scale: int, subset: str, train: bool, publisher_id: str = ""
) -> Record | Drop:
    try:
        fraction = float(str(value)) / scale
    except ValueError:
        fraction = nan
    if not isfinite(fraction):
        return Drop(TASK, place, "the yield is not a number")
    if not 0 <= fraction <= 1:
        return Drop(TASK, place, "the yield is outside 0 to 100 %")
    return Record(
        task=TASK,
        place=place,
        molecules={"reactants": left, "product": product},
        value=fraction,
        subset=subset,
        split="train" if train else "test",
        label_source="measured",
        publisher_id=publisher_id,
    )


@lru_cache
def _products(halide: str) -> list[str]:
    """The diarylamines that the coupling with p-toluidine gives; canonical SMILES."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(halide)
        couplings = _COUPLING.RunReactants((mol, Chem.MolFromSmiles(AMINE))) if mol else ()
        for (product,) in couplings:
            Chem.SanitizeMol(product)
    return sorted({Chem.MolToSmiles(product) for (product,) in couplings})


# --- the workbook ----------------------------------------------------------------------------------------------------


def _wells(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """The rows of the sheet that have anything in them, numbered from 1 without the header."""
    number = 0
    with _workbook_faults(path, lambda: number), open_binary(path) as file:
        book = load_workbook(file, read_only=True, data_only=True)
        if SHEET not in book.sheetnames:
            raise ValueError(f"{path} has no sheet {SHEET}; its sheets are {', '.join(book.sheetnames)}")
        rows = book[SHEET].iter_rows(values_only=True)
        header = next(rows, ())
        if missing := [name for name in _COLUMNS if name not in header]:
            raise ValueError(f"{path}, sheet {SHEET} has no column {', '.join(missing)}; its header is {header}")
        empty = True
        for number, row in enumerate(rows, 1):
            if any(cell is not None for cell in row):
                empty = False
                yield number, dict(zip(header, row, strict=False))
        if empty:
            raise ValueError(f"{path}, sheet {SHEET} has a header but no rows")


@contextmanager
def _workbook_faults(path: Path, done: Callable[[], int]) -> Iterator[None]:
    """Turns what a broken workbook raises into one message with the file and the last row that was read."""
    try:
        yield
    except (BadZipFile, KeyError, SyntaxError, EOFError, zlib.error) as error:  # SyntaxError: malformed XML
        raise ValueError(f"{path}: not an xlsx workbook, or a broken one, after row {done()}: {error}") from error
