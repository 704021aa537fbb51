"""QM9 in MoleculeNet's layout: one row a molecule, its properties as columns, energies in Hartree (`qm9.csv`).

Each molecule gives four records: the energies of HOMO and LUMO, their gap, and the SCF energy. QM9 does not list the
last one, but it follows from what it lists: the internal energy at 0 K is that of the electrons in the field of the
resting nuclei plus the zero-point vibration, U0 = E(SCF) + ZPVE, hence E(SCF) = u0 - zpve.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from dataset_builders.reading import table_rows
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Download, Source

LABEL_SOURCE = "computed:Gaussian 09, B3LYP/6-31G(2df,p)"
GAP_TOLERANCE = 1.5e-4
"""Three numbers that were each rounded to four decimals may differ from lumo - homo = gap by this much, in Hartree."""

SOURCE = Source(
    name="qm9",
    title="QM9",
    home="https://doi.org/10.6084/m9.figshare.c.978904.v5",
    license="CC0-1.0",
    citation=(
        "Raghunathan Ramakrishnan, Pavlo O. Dral, Matthias Rupp, O. Anatole von Lilienfeld. Quantum chemistry "
        "structures and properties of 134 kilo molecules. Scientific Data 1, 140022, 2014. Lars Ruddigkeit, Ruud van "
        "Deursen, Lorenz C. Blum, Jean-Louis Reymond. Enumeration of 166 billion organic small molecules in the "
        "chemical universe database GDB-17. J. Chem. Inf. Model. 52, 2012. Table: Zhenqin Wu et al. MoleculeNet: a "
        "benchmark for molecular machine learning. Chemical Science 9, 2018."
    ),
    files=("qm9.csv",),
    tasks={
        "homo_lumo": "energies of HOMO and LUMO and their gap, B3LYP/6-31G(2df,p), in Hartree",
        "scf_energy": "SCF energy (u0 - zpve), B3LYP/6-31G(2df,p), in Hartree",
    },
    downloads=(Download("qm9/qm9.csv", url="https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/qm9.csv"),),
    left_out="The other thirteen properties; no task of the paper asks for them.",
    notes=(
        "Unsplit: molecules are split by hash. The paper's rows of QM9 come through Mol-Instructions. The 3,054 "
        "molecules whose relaxed geometry QM9's authors could not map back to the SMILES are not marked in "
        "MoleculeNet's table."
    ),
)


def read(path: Path) -> Iterator[Record | Drop]:
    """Three `homo_lumo` records and one `scf_energy` record a row."""
    for number, row in table_rows(path, ("mol_id", "smiles", "homo", "lumo", "gap", "zpve", "u0")):
        if isinstance(row, Drop):
            yield row
            continue
        orbitals = _numbers(row, "homo", "lumo", "gap")
        energies = _numbers(row, "u0", "zpve")
        if orbitals is None:
            yield Drop("homo_lumo", str(number), "homo, lumo or gap is not a number")
        elif abs(orbitals[1] - orbitals[0] - orbitals[2]) > GAP_TOLERANCE:
            yield Drop("homo_lumo", str(number), "the gap is not LUMO - HOMO")
        else:
            for subset, value in zip(("HOMO", "LUMO", "gap"), orbitals, strict=True):
                yield _record("homo_lumo", number, row, value, subset)
        if energies is None:
            yield Drop("scf_energy", str(number), "u0 or zpve is not a number")
        else:
            yield _record("scf_energy", number, row, energies[0] - energies[1])


def _numbers(row: dict[str, str], *columns: str) -> list[float] | None:
    try:
        values = [float(row[column]) for column in columns]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _record(task: str, number: int, row: dict[str, str], value: float, subset: str = "") -> Record:
    return Record(
        task,
        str(number),
        {"molecule": row["smiles"]},
        value=value,
        subset=subset,
        label_source=LABEL_SOURCE,
        publisher_id=row["mol_id"],
    )
