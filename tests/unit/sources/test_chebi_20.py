"""ChEBI-20: the file against pandas, the repaired backslashes, splits, faults."""

import pandas as pd
import pytest
import selfies

from dataset_builders.schema import Drop
from dataset_builders.sources.chebi_20 import SOURCE, TASKS, read, single_backslashes
from omnimol_hf.chemistry_omnimol import canonical_smiles, mol_from_smiles, smiles_to_selfies
from omnimol_hf.tasks import ALL_TASKS
from tests.unit.sources.broken import check_faults

HEADER = "CID\tSMILES\tdescription\n"


@pytest.mark.parametrize("name", ["validation.txt", "test.txt"])
def test_every_row_is_read_as_pandas_reads_it(shared, name):
    path = shared / "raw/chebi_20" / name
    table = pd.read_csv(path, sep="\t", quoting=3, dtype=str, keep_default_na=False)
    records = list(read(path))
    for task in TASKS:
        of_task = [record for record in records if record.task == task]
        assert [record.place for record in of_task] == [str(number) for number in range(1, len(table) + 1)]
        assert [record.publisher_id for record in of_task] == table.CID.tolist()
        assert [record.text for record in of_task] == table.description.str.strip().tolist()
        repaired = table.SMILES.str.replace(r"\\+", "\\\\", regex=True)
        assert [record.molecules["molecule"] for record in of_task] == repaired.tolist()
        assert {record.split for record in of_task} == {"train" if name == "validation.txt" else "test"}
    assert len(records) == len(TASKS) * len(table)


def test_no_molecule_is_lost_for_its_backslashes(shared):
    """At least 99.9 % of all rows can be written as SELFIES, and those with doubled backslashes are among them."""
    smiles = [
        record.molecules["molecule"]
        for path in SOURCE.present(shared / "raw")
        for record in read(path)
        if record.task == "molecular_captioning"
    ]
    failures = []
    for text in smiles:
        try:
            smiles_to_selfies(text)
        except ValueError as error:
            failures.append(str(error))
    assert len(smiles) == 5501
    assert sum("\\" in text for text in smiles) == 829
    assert len(failures) <= 0.001 * len(smiles), failures


def test_doubled_backslashes_are_made_single_and_single_ones_stay():
    assert single_backslashes(r"C/C=C\\C") == single_backslashes(r"C/C=C\C") == r"C/C=C\C"
    with pytest.raises(selfies.EncoderError):
        selfies.encoder(r"C/C=C\\C")
    assert canonical_smiles(mol_from_smiles(r"C/C=C\\C")) == canonical_smiles(mol_from_smiles(r"C/C=C\C"))


@pytest.mark.parametrize(
    ("present", "splits"),
    [
        ("train validation test", {"train": "train", "validation": "validation", "test": "test"}),
        ("validation test", {"validation": "train", "test": "test"}),
        ("train validation", {"train": "train", "validation": "test"}),
        ("validation", {"validation": ""}),
    ],
)
def test_validation_stands_in_for_the_file_that_is_missing(tmp_path, present, splits):
    for split in present.split():
        (tmp_path / f"{split}.txt").write_text(HEADER + "1\tCCO\tThe molecule is ethanol.\n")
    for file, split in splits.items():
        assert {record.split for record in read(tmp_path / f"{file}.txt")} == {split}


def test_rows_without_a_description_or_with_a_missing_column_are_dropped(tmp_path):
    path = tmp_path / "test.txt"
    path.write_text(HEADER + '1\tCCO\t"quoted" from the start\n2\tCC\t \n3\tCC\n4\tC\tlast\n')
    records = list(read(path))
    drops = [(drop.task, drop.place, drop.reason) for drop in records if isinstance(drop, Drop)]
    assert [drop[:2] for drop in drops] == [(task, "2") for task in TASKS] + [("all tasks", "3")]
    assert drops[0][2] == "no description"
    texts = [record.text for record in records if not isinstance(record, Drop)]
    assert texts == ['"quoted" from the start'] * 3 + ["last"] * 3


def test_broken_files_are_named(tmp_path):
    check_faults(read, tmp_path / "test.txt", (HEADER + "1\tCCO\tThe molecule is ethanol again.\n").encode())
    (tmp_path / "train.txt").write_text("CID\tSMILES\n1\tCCO\n")
    with pytest.raises(ValueError, match=r"train.txt has no column description"):
        list(read(tmp_path / "train.txt"))


def test_what_is_said_of_the_source_fits_the_tasks():
    assert set(SOURCE.tasks) == set(TASKS) <= set(ALL_TASKS)
    assert {download.path for download in SOURCE.downloads} == {f"chebi_20/{name}" for name in SOURCE.files}
