"""The yield reader against pandas, against an independent publication of the same wells, and on broken files."""

import tarfile
import zipfile
from functools import cache

import openpyxl
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from dataset_builders.schema import Drop, Record
from dataset_builders.sources import rxn_yields as source
from dataset_builders.sources.rxn_yields import AMINE, PRECATALYST, SHEET, read
from omnimol_hf.chemistry_omnimol import selfies_to_smiles, smiles_to_selfies
from tests.conftest import SHARED

BOOK, TABLE = source.SOURCE.files
HEADER = ["Ligand", "Additive", "Base", "Aryl halide", "Output"]
WELL = ["CP(C)C", "CC1=CC=NO1", "CCN", "Brc1ccncc1", 50.0]


@pytest.fixture(scope="module")
def raw():
    if SHARED is None:
        pytest.skip("no folder ../shared with real source data")
    return SHARED / "raw"


@pytest.fixture(scope="module")
def couplings(raw):
    return list(read(raw / "rxn_yields" / BOOK))


@pytest.fixture(scope="module")
def suzukis(raw):
    return list(read(raw / "rxn_yields" / TABLE))


@cache
def canonical(smiles: str) -> str:
    return Chem.CanonSmiles(smiles)


# --- the real files --------------------------------------------------------------------------------------------------


def test_buchwald_hartwig_against_pandas(raw, couplings):
    frame = pd.read_excel(raw / "rxn_yields" / BOOK, sheet_name=SHEET)
    assert len(couplings) == len(frame) == 3955
    assert [record.value for record in couplings] == pytest.approx((frame["Output"] / 100).tolist(), abs=1e-12)
    for number, (record, well) in enumerate(zip(couplings, frame.to_dict("records"), strict=True), 1):
        expected = [well[name] for name in ("Aryl halide", "Ligand", "Base", "Additive")]
        assert sorted(record.molecules["reactants"].split(".")) == sorted([*expected, AMINE, PRECATALYST])
        assert (record.place, record.subset) == (f"{SHEET}/{number}", "B-H")
        assert record.split == ("train" if number <= 2768 else "test")
    assert couplings[0].label_source == "measured"


def test_products_against_another_publication(raw, couplings):
    """The same wells, with products and yields, stand in t5chem's sample data (with DMSO, and the complex drawn)."""
    with tarfile.open(raw / "uspto_500_mt" / "sample_data.tar.bz2") as archive:
        lines = [
            archive.extractfile(f"data/sample/regression/{split}.{side}").read().decode().splitlines()
            for side in ("source", "target")
            for split in ("train", "test")
        ]
    theirs = {}
    for reaction, value in zip(lines[0] + lines[1], lines[2] + lines[3], strict=True):
        left, _, rest = reaction.partition(">")
        agents, _, product = rest.rpartition(">")  # the agents have dative bonds in them: "->"
        halide = left.removesuffix(f".{AMINE}")
        for agent in agents.split("."):
            theirs[canonical(halide), canonical(agent), round(float(value), 5)] = canonical(product)
    assert len(set(theirs.values())) == 5
    for record in couplings:
        halide, *_, base, additive = record.molecules["reactants"].split(".")
        for agent in (base, additive):
            well = (canonical(halide), canonical(agent), round(record.value * 100, 5))
            assert theirs[well] == record.molecules["product"]


def test_no_atom_is_lost_in_the_coupling(couplings):
    """Aryl halide + p-toluidine = product + hydrogen halide, counted in atoms."""

    @cache
    def atoms(smiles):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        return sorted(atom.GetSymbol() for atom in mol.GetAtoms())

    for record in couplings:
        halide = record.molecules["reactants"].split(".")[0]
        (halogen,) = {"Cl", "Br", "I"} & set(atoms(halide))
        assert sorted(atoms(halide) + atoms(AMINE)) == sorted([*atoms(record.molecules["product"]), "H", halogen])


def test_the_precatalyst_is_the_publishers_without_the_coordinative_bond():
    published = Chem.MolFromSmiles("O=S(=O)(O[Pd]1~[NH2]C2C=CC=CC=2C2C=CC=CC1=2)C(F)(F)F")
    ours = Chem.MolFromSmiles(PRECATALYST)
    assert CalcMolFormula(ours) == CalcMolFormula(published) == "C13H10F3NO3PdS"
    bond = published.GetBondBetweenAtoms(4, 5)
    assert {bond.GetBeginAtom().GetSymbol(), bond.GetEndAtom().GetSymbol()} == {"Pd", "N"}
    opened = Chem.RWMol(published)
    opened.RemoveBond(4, 5)
    for atom in opened.GetAtoms():
        atom.SetNoImplicit(False)
        atom.SetNumExplicitHs(0)
    Chem.SanitizeMol(opened)
    assert canonical(Chem.MolToSmiles(opened)) == canonical(PRECATALYST)
    assert selfies_to_smiles(smiles_to_selfies(PRECATALYST)) == canonical(PRECATALYST)


def test_suzuki_miyaura_against_pandas(raw, suzukis):
    frame = pd.read_csv(raw / "rxn_yields" / TABLE, sep="\t", index_col=0)
    assert len(suzukis) == len(frame) == 5760
    assert [record.value for record in suzukis] == pytest.approx(frame["y"].tolist(), abs=1e-12)
    assert [f"{record.molecules['reactants']}>>{record.molecules['product']}" for record in suzukis] == list(frame.rxn)
    assert [int(record.publisher_id) for record in suzukis] == frame.index.tolist()
    assert [record.split for record in suzukis] == ["train"] * 4032 + ["test"] * 1728
    assert {record.subset for record in suzukis} == {"S-M"}
    assert [record.place for record in suzukis[:2]] == ["1", "2"]


# --- bad rows --------------------------------------------------------------------------------------------------------


def book(path, rows, sheet=SHEET, header=HEADER):
    workbook = openpyxl.Workbook()
    workbook.active.title = sheet
    for row in [header, *rows]:
        workbook.active.append(row)
    workbook.save(path)
    return path


def well(**cells):
    names = {"ligand": 0, "additive": 1, "base": 2, "halide": 3, "output": 4}
    row = list(WELL)
    for name, value in cells.items():
        row[names[name]] = value
    return row


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (well(ligand=None), "the cell Ligand is blank"),
        (well(additive="  "), "the cell Additive is blank"),
        (well(output=None), "the cell Output is blank"),
        (well(output="n.d."), "the yield is not a number"),
        (well(output="nan"), "the yield is not a number"),
        (well(output="inf"), "the yield is not a number"),
        (well(output=100.5), "the yield is outside 0 to 100 %"),
        (well(output=-1), "the yield is outside 0 to 100 %"),
        (well(halide="c1ccncc1"), "the coupling of the aryl halide does not give one product"),
        (well(halide="Brc1ccc(I)cc1"), "the coupling of the aryl halide does not give one product"),
        (well(halide="Brc1ccncc"), "the coupling of the aryl halide does not give one product"),
    ],
)
def test_bad_wells_are_dropped(tmp_path, row, reason):
    first, second = read(book(tmp_path / BOOK, [WELL, row]))
    assert isinstance(first, Record)
    assert second == Drop(source.TASK, f"{SHEET}/2", reason)


def test_limits_blank_rows_and_other_orders_of_columns(tmp_path):
    rows = [well(output=0), [None] * 5, well(output=100), [None] * 5]
    found = list(read(book(tmp_path / BOOK, [row[::-1] for row in rows], header=HEADER[::-1])))
    assert [(record.place, record.value) for record in found] == [(f"{SHEET}/1", 0.0), (f"{SHEET}/3", 1.0)]
    assert found[0].molecules["reactants"] == f"Brc1ccncc1.{AMINE}.{PRECATALYST}.CP(C)C.CCN.CC1=CC=NO1"
    assert found[0].molecules["product"] == canonical("Cc1ccc(Nc2ccncc2)cc1")


def test_the_first_seven_tenths_train(tmp_path):
    found = list(read(book(tmp_path / BOOK, [WELL] * 9)))
    assert [record.split for record in found] == ["train"] * 6 + ["test"] * 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1\tCC.O>>CO\tlow", "the yield is not a number"),
        ("1\tCC.O>>CO\t", "the yield is not a number"),
        ("1\tCC.O>>CO\t1.01", "the yield is outside 0 to 100 %"),
        ("1\tCC.O\t0.5", "the reaction has not one left and one right side"),
        ("1\t>>CO\t0.5", "the reaction has not one left and one right side"),
        ("1\tCC>>CO>>CO\t0.5", "the reaction has not one left and one right side"),
    ],
)
def test_bad_lines_are_dropped(tmp_path, line, reason):
    path = tmp_path / TABLE
    path.write_text(f"\trxn\ty\n0\tCC.O>>CO\t0.25\n{line}\n")
    first, second = read(path)
    assert (first.value, first.publisher_id) == (0.25, "0")
    assert second == Drop(source.TASK, "2", reason)


def test_ragged_lines_are_dropped(tmp_path):
    path = tmp_path / TABLE
    path.write_text("\trxn\ty\n0\tCC.O>>CO\t0.25\n1\tCC.O>>CO\n")
    assert [type(outcome) for outcome in read(path)] == [Record, Drop]


# --- broken files ----------------------------------------------------------------------------------------------------


def refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        list(read(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [b"Ligand,Additive\nCC,CO\n", b"PK\x03\x04" + bytes(200)])
def test_not_a_workbook(tmp_path, data):
    (tmp_path / BOOK).write_bytes(data)
    refused(tmp_path / BOOK, "not an xlsx workbook")


def test_an_empty_file(tmp_path):
    (tmp_path / BOOK).touch()
    refused(tmp_path / BOOK, "is empty")


def test_a_truncated_workbook(tmp_path):
    path = book(tmp_path / BOOK, [WELL] * 500)
    path.write_bytes(path.read_bytes()[:-300])
    refused(path, "not an xlsx workbook")


def test_a_damaged_sheet(tmp_path):
    path = book(tmp_path / BOOK, [[*WELL[:4], number / 7] for number in range(2000)])
    data = bytearray(path.read_bytes())
    start = data.index(b"xl/worksheets/sheet1.xml") + 3000
    data[start : start + 50] = bytes(50)
    path.write_bytes(data)
    refused(path, r"broken one, after row \d+")


def test_another_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / BOOK, "w") as archive:
        archive.writestr("a.txt", "text")
    refused(tmp_path / BOOK, "not an xlsx workbook")


def test_a_missing_sheet(tmp_path):
    refused(book(tmp_path / BOOK, [WELL], sheet="FullCV_02"), "has no sheet FullCV_01; its sheets are FullCV_02")


def test_a_missing_column(tmp_path):
    refused(book(tmp_path / BOOK, [WELL[:4]], header=HEADER[:4]), "has no column Output")


def test_a_sheet_without_rows(tmp_path):
    refused(book(tmp_path / BOOK, []), "has a header but no rows")


def test_a_table_without_yields(tmp_path):
    (tmp_path / TABLE).write_text("\trxn\n0\tCC>>CO\n")
    refused(tmp_path / TABLE, "has no column y")
