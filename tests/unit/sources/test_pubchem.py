"""PubChem: tables against pandas, SDF against RDKit's supplier, weights against RDKit's, faults."""

import gzip
from collections import Counter

import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors

from dataset_builders.schema import Drop, Record
from dataset_builders.sources.pubchem import NUMBERS, SOURCE, TEXTS, read, sd_records
from omnimol_hf.chemistry_omnimol import mol_from_smiles
from omnimol_hf.tasks import ALL_TASKS
from tests.unit.sources.broken import check_faults

FILES = ("Compound_1_1000.csv", "Compound_1_1000_with_description.csv", "pubchem_hard_set.sdf.gz")
SMILES = {FILES[0]: "PUBCHEM_SMILES", FILES[1]: "PUBCHEM_SMILES", FILES[2]: "PUBCHEM_OPENEYE_ISO_SMILES"}
HEADER = (
    "PUBCHEM_COMPOUND_CID,PUBCHEM_CACTVS_COMPLEXITY,PUBCHEM_IUPAC_NAME,PUBCHEM_XLOGP3_AA,"
    "PUBCHEM_MOLECULAR_WEIGHT,PUBCHEM_SMILES,PUBCHEM_CACTVS_TPSA"
)
ETHANOL = "702,2.8,ethanol,-0.1,46.07,CCO,20.2"
SDF = """702
  sketch

  0  0  0  0  0  0  0  0  0  0999 V2000
M  END
> <PUBCHEM_COMPOUND_CID>
702

> <PUBCHEM_MOLECULAR_WEIGHT>
46.07

>  1  <PUBCHEM_SMILES>  (702)
CCO

> <PUBCHEM_BONDANNOTATIONS>
1  2  8
2  3  8

> <PUBCHEM_IUPAC_NAME>
ethanol

$$$$
"""


def by_other_means(path):
    """The rows of a file as dictionaries, read by pandas or by RDKit."""
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    with gzip.open(path) as file:
        return [mol.GetPropsAsDict(autoConvertStrings=False) for mol in Chem.ForwardSDMolSupplier(file)]


@pytest.mark.parametrize("name", FILES)
def test_every_label_is_read_as_pandas_and_rdkit_read_it(shared, name):
    path = shared / "raw/pubchem" / name
    found = {(record.task, record.place): record for record in read(path)}
    rows = by_other_means(path)
    tasks = {"alignment"} if "description" in name else {*NUMBERS, "iupac_to_selfies"}
    assert {task for task, _ in found} == tasks
    assert len(found) == len(rows) * len(tasks)
    for number, row in enumerate(rows, 1):
        for task in tasks:
            record = found[task, str(number)]
            tags = [TEXTS[task]] if task in TEXTS else list(NUMBERS[task])
            label = next((row[tag] for tag in tags if row.get(tag)), None)
            assert isinstance(record, Drop) == (label is None), (task, number)
            if label is not None:
                assert (record.value == float(label)) if task in NUMBERS else (record.text == label.strip())
                assert record.molecules["molecule"] == row[SMILES[name]]
                assert record.publisher_id == row["PUBCHEM_COMPOUND_CID"]


def test_weights_agree_with_rdkit(shared):
    """Within one unit of the last printed digit, or 5e-5 of the weight (atomic weights of 2010): 99 % of all."""
    disagree, count = [], 0
    for name in (FILES[0], FILES[2]):
        for row in by_other_means(shared / "raw/pubchem" / name):
            printed = row["PUBCHEM_MOLECULAR_WEIGHT"]
            weight = Descriptors.MolWt(mol_from_smiles(row[SMILES[name]]))
            unit = 10.0 ** -len(printed.partition(".")[2])
            if abs(weight - float(printed)) > max(unit + 1e-9, 5e-5 * weight):
                disagree.append((row["PUBCHEM_COMPOUND_CID"], printed, round(weight, 3)))
            count += 1
    assert count == 1600
    assert disagree == [("533", "80.99", 80.976)]  # hydrogen selenide


def test_extremes_stay(shared):
    kept = {"molecular_weight": [], "logp": []}
    for name in FILES:
        for record in read(shared / "raw/pubchem" / name):
            if record.task in kept and not isinstance(record, Drop):
                kept[record.task].append(record.value)
    rows = [row for name in (FILES[0], FILES[2]) for row in by_other_means(shared / "raw/pubchem" / name)]
    weights = [float(row["PUBCHEM_MOLECULAR_WEIGHT"]) for row in rows]
    logps = [float(row.get("PUBCHEM_XLOGP3") or row.get("PUBCHEM_XLOGP3_AA") or "nan") for row in rows]
    assert max(kept["molecular_weight"]) == max(weights) > 2800
    assert max(kept["logp"]) == max(value for value in logps if value == value) > 25


def test_sources_of_logp(shared):
    records = read(shared / "raw/pubchem" / FILES[2])
    sources = Counter(
        record.label_source for record in records if record.task == "logp" and isinstance(record, Record)
    )
    assert sources == {"computed:XLOGP3": 32, "computed:XLOGP3-AA": 308}


def test_xlogp3_is_preferred_and_named(tmp_path):
    path = tmp_path / "Compound_1.csv"
    path.write_text(f"{HEADER},PUBCHEM_XLOGP3\n{ETHANOL},-0.2\n{ETHANOL},\n")
    first, second = (record for record in read(path) if record.task == "logp")
    assert (first.value, first.label_source) == (-0.2, "computed:XLOGP3")
    assert (second.value, second.label_source) == (-0.1, "computed:XLOGP3-AA")


def test_a_table_with_descriptions_feeds_labels_only_where_it_stands_alone(tmp_path):
    table, described = tmp_path / "Compound_1.csv", tmp_path / "Compound_1_with_description.csv"
    described.write_text(f"{HEADER},Description\n{ETHANOL},An alcohol.\n")
    assert {record.task for record in read(described)} == {*NUMBERS, *TEXTS}
    table.write_text(f"{HEADER}\n{ETHANOL}\n")
    assert {record.task for record in read(table)} == {*NUMBERS, "iupac_to_selfies"}
    assert [(record.task, record.text) for record in read(described)] == [("alignment", "An alcohol.")]
    described.write_text(f"{HEADER}\n{ETHANOL}\n")
    with pytest.raises(ValueError, match=r"with_description.csv has no column Description"):
        list(read(described))


def test_faults_of_a_record_drop_the_task_at_fault(tmp_path):
    path = tmp_path / "Compound_1.csv"
    path.write_text(f"{HEADER}\n1,2.8,,-0.1,inf,CCO,x\n2,2.8,ethanol,-0.1,46.07,,20.2\n3,2.8\n")
    records = list(read(path))
    assert [(drop.task, drop.place, drop.reason) for drop in records if isinstance(drop, Drop)] == [
        ("molecular_weight", "1", "PUBCHEM_MOLECULAR_WEIGHT is not a number"),
        ("tpsa", "1", "PUBCHEM_CACTVS_TPSA is not a number"),
        ("iupac_to_selfies", "1", "no PUBCHEM_IUPAC_NAME"),
        ("all tasks", "2", "none of PUBCHEM_SMILES, PUBCHEM_OPENEYE_ISO_SMILES"),
        ("all tasks", "3", "the row has not the header's number of columns"),
    ]
    assert {record.task for record in records if not isinstance(record, Drop)} == {"logp", "complexity"}


def test_every_tag_is_read_as_rdkit_reads_it(shared):
    path = shared / "raw/pubchem" / FILES[2]
    assert [tags for _, tags in sd_records(path)] == by_other_means(path)


def test_sdf_tags_in_all_their_forms(tmp_path):
    path = tmp_path / "one.sdf"
    for text in (SDF, SDF.replace("\n", "\r\n"), SDF + "\n"):
        path.write_bytes(text.encode())
        found = {record.task: record for record in read(path)}
        assert found["molecular_weight"].value == 46.07
        assert found["molecular_weight"].molecules == {"molecule": "CCO"}
        assert found["iupac_to_selfies"].text == "ethanol"
        assert {task for task, record in found.items() if isinstance(record, Drop)} == {"logp", "tpsa", "complexity"}


def test_broken_files_are_named(tmp_path, shared):
    check_faults(read, tmp_path / "one.sdf", SDF.encode())
    check_faults(read, tmp_path / "Compound_1.csv", f"{HEADER}\n{ETHANOL}\n".encode())
    (tmp_path / "one.sdf").write_text(SDF + SDF[: len(SDF) // 2])
    with pytest.raises(ValueError, match=r"one.sdf, record 2: the file ends within it"):
        list(read(tmp_path / "one.sdf"))
    (tmp_path / "Compound_1.csv").write_text(HEADER.replace(",PUBCHEM_CACTVS_TPSA", "") + "\n")
    with pytest.raises(ValueError, match=r"Compound_1.csv has no column PUBCHEM_CACTVS_TPSA"):
        list(read(tmp_path / "Compound_1.csv"))
    packed = (shared / "raw/pubchem" / FILES[2]).read_bytes()
    for content in (packed[: len(packed) // 2], b"not packed at all"):
        (tmp_path / "cut.sdf.gz").write_bytes(content)
        with pytest.raises(ValueError, match=r"cut.sdf.gz: its compressed data ends or breaks"):
            list(read(tmp_path / "cut.sdf.gz"))


def test_what_is_said_of_the_source_fits_the_tasks():
    assert set(SOURCE.tasks) == {*NUMBERS, *TEXTS} <= set(ALL_TASKS)
