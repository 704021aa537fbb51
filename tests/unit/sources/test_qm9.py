"""QM9: the file against pandas, the gap and the SCF energy, faults."""

import pandas as pd
import pytest

from dataset_builders.schema import Drop
from dataset_builders.sources.qm9 import LABEL_SOURCE, SOURCE, read
from omnimol_hf.tasks import TASKS
from tests.unit.sources.broken import check_faults

HEADER = "mol_id,smiles,homo,lumo,gap,zpve,u0\n"
METHANE = "gdb_1,C,-0.3877,0.1171,0.5048,0.044749,-40.47893\n"


def test_every_row_is_read_as_pandas_reads_it(shared):
    path = shared / "raw/qm9/qm9.csv"
    table = pd.read_csv(path)
    records = list(read(path))
    assert not [record for record in records if isinstance(record, Drop)]
    assert len(records) == 4 * len(table)
    for subset, column in {"HOMO": "homo", "LUMO": "lumo", "gap": "gap"}.items():
        of_subset = [record for record in records if record.subset == subset]
        assert {record.task for record in of_subset} == {"homo_lumo"}
        assert [record.value for record in of_subset] == table[column].tolist()
        assert [record.molecules["molecule"] for record in of_subset] == table.smiles.tolist()
        assert [record.publisher_id for record in of_subset] == table.mol_id.tolist()
    energies = [record for record in records if record.task == "scf_energy"]
    assert [record.value for record in energies] == pytest.approx((table.u0 - table.zpve).tolist(), abs=1e-9)
    assert {record.label_source for record in records} == {LABEL_SOURCE}
    assert {record.split for record in records} == {""}


def test_the_gap_is_lumo_minus_homo_as_printed(shared):
    """The answers themselves, with four decimals, agree within their rounding."""
    texts = {}
    for record in read(shared / "raw/qm9/qm9.csv"):
        if record.task == "homo_lumo":
            texts.setdefault(record.place, {})[record.subset] = TASKS["homo_lumo"].answer_text(record.value)
    worst = max(abs(float(row["LUMO"]) - float(row["HOMO"]) - float(row["gap"])) for row in texts.values())
    assert len(texts) == 12_000
    assert 0 < worst < 1.5e-4


def test_the_scf_energy_of_methane(tmp_path):
    """B3LYP/6-31G(2df,p) gives about -40.52 Hartree for methane; u0, with the zero-point vibration, is above it."""
    path = tmp_path / "qm9.csv"
    path.write_text(HEADER + METHANE)
    (record,) = [record for record in read(path) if record.task == "scf_energy"]
    assert (
        TASKS["scf_energy"].answer_text(record.value) == "The SCF Energy for the input molecule is -40.5237 Hartree."
    )


def test_rows_with_faults_are_dropped_for_the_task_at_fault(tmp_path):
    path = tmp_path / "qm9.csv"
    rows = (
        "gdb_2,N,-0.2570,0.0829,0.3299,0.034358,-56.525887\n"  # the gap is 0.3399
        "gdb_3,O,-0.2928,,0.3615,0.021375,-76.404702\n"
        "gdb_4,C#C,-0.2845,0.0506,0.3351,nan,-77.308427\n"
        "gdb_5,C#N,-0.3604\n"
    )
    path.write_text(HEADER + METHANE + rows)
    records = list(read(path))
    drops = [(drop.task, drop.place, drop.reason) for drop in records if isinstance(drop, Drop)]
    assert drops == [
        ("homo_lumo", "2", "the gap is not LUMO - HOMO"),
        ("homo_lumo", "3", "homo, lumo or gap is not a number"),
        ("scf_energy", "4", "u0 or zpve is not a number"),
        ("all tasks", "5", "the row has not the header's number of columns"),
    ]
    assert len(records) - len(drops) == 4 + 1 + 1 + 3


def test_broken_files_are_named(tmp_path):
    check_faults(read, tmp_path / "qm9.csv", (HEADER + "a" + METHANE).encode())
    path = tmp_path / "qm9.csv"
    path.write_text("mol_id,smiles,homo,lumo,gap,u0\n")
    with pytest.raises(ValueError, match=r"qm9.csv has no column zpve"):
        list(read(path))


def test_what_is_said_of_the_source_fits_the_tasks():
    assert set(SOURCE.tasks) <= set(TASKS)
