"""PubChemQC B3LYP/6-31G*//PM6: one total energy for each of 86 million PubChem molecules.

JSON lists of objects, up to gigabytes a file: `cid`, `state`, `pubchem-isomeric-smiles`, `atomic-numbers`,
`total-energy`, orbital energies and much else. Known from the Hub mirror's card and from others' code; the reader is
tested on small files in that layout.

The card was not to be had as far as the unit of `total-energy`, so none is assumed: an energy in Hartree and one in eV
differ 27-fold, and which of the two it is follows from the atoms. The answer states the energy with that unit, as
published.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dataset_builders.fields import number, text_field
from dataset_builders.reading import json_items
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Source

_HUB = "molssiai-hub/pubchemqc-b3lyp"

SOURCE = Source(
    name="pubchemqc",
    title="PubChemQC B3LYP/6-31G*//PM6",
    home="https://nakatamaho.riken.jp/pubchemqc.riken.jp/b3lyp_pm6_datasets.html",
    license="CC-BY-4.0",
    citation="Nakata and Maeda, PubChemQC B3LYP/6-31G*//PM6 Data Set: The Electronic Structures of 86 Million "
    "Molecules Using B3LYP/6-31G* Calculations, J. Chem. Inf. Model. 2023, 63, 5734, arXiv:2305.18454",
    files=("*.json", "*.json.gz"),
    tasks={
        "scf_energy": "total energy at B3LYP/6-31G* on PM6 geometry, in the unit as published, which the answer names"
    },
    how_to_get=f"Take files of a subset, e.g. data/b3lyp_pm6_chon300nosalt/train/*.json of the Hub data set {_HUB}, "
    "and put them into pubchemqc/. A file can hold gigabytes, so none is fetched unasked.",
    left_out="Orbital energies (another basis set than QM9's, which homo_lumo takes), dipole moments, charges, "
    "geometries; states other than the ground state.",
    notes="The paper's SCF rows come from the older PubChemQC (B3LYP/6-31G* geometries) by way of 3D-MoIT: the two "
    "differ in geometry and rounding. Rows have no published split.",
)

TASK = "scf_energy"
_EV_PER_HARTREE = 27.211386
_MOLECULE = "pubchem-isomeric-smiles"


def read(path: Path) -> Iterator[Record | Drop]:
    """The ground states of one file; train or test is decided by the molecule."""
    for place, record in json_items(path):
        if isinstance(record, Drop):
            yield Drop(TASK, str(place), record.reason)
            continue
        try:
            yield _record(str(place), record)
        except ValueError as error:
            yield Drop(TASK, str(place), str(error))


def _record(place: str, record: Mapping[str, Any]) -> Record:
    if record.get("state", "S0") != "S0":
        raise ValueError("not the ground state")
    smiles, energy = text_field(record, _MOLECULE), number(record.get("total-energy"))
    unit = energy_unit(energy, record.get("atomic-numbers"))
    text = f"The SCF Energy for the input molecule is {energy:.4f} {unit}."
    return Record(TASK, place, {"molecule": smiles}, text=text, publisher_id=str(record.get("cid", "")))


def energy_unit(energy: float, atomic_numbers: Any) -> str:
    """`Hartree` or `eV`, by comparison with the Thomas-Fermi energy of the atoms, -0.7687 Z^(7/3) Hartree each.

    Real total energies are 0.6 to 0.9 of it (H2 0.76, water 0.76, bromine 0.83).
    """
    if not isinstance(atomic_numbers, list) or not atomic_numbers:
        raise ValueError("no atomic-numbers, by which the unit of the energy is told")
    estimate = -0.7687 * sum(number(z) ** (7 / 3) for z in atomic_numbers)
    for unit, scale in (("Hartree", 1.0), ("eV", _EV_PER_HARTREE)):
        if 0.5 < energy / (scale * estimate) < 1.1:
            return unit
    raise ValueError("the energy is that of these atoms neither in Hartree nor in eV")
