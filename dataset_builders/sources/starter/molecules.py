"""The real molecules that every RDKit wheel ships, cleaned, with the labels that RDKit computes."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rdkit import Chem, RDConfig, rdBase
from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors
from rdkit.Chem.GraphDescriptors import BertzCT

from dataset_builders.sources.starter.descriptions import Facts, structure_facts
from dataset_builders.sources.starter.groups import count_groups
from omnimol_hf.chemistry_omnimol import smiles_to_selfies

MAX_HEAVY_ATOMS = 40
ELEMENTS = frozenset(["H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I"])
NCI = "RDKit wheel, Data/NCI/first_5K.smi"
WEHI = "RDKit wheel, Data/Pains/test_data/wehi_mols.csv"
LICENSE = "BSD-3-Clause"

_RDKIT = f"computed:RDKit {rdBase.rdkitVersion}"
LABELS = {
    "molecular_weight": (Descriptors.MolWt, f"{_RDKIT} Descriptors.MolWt"),
    "logp": (Crippen.MolLogP, f"{_RDKIT} Crippen.MolLogP"),
    "tpsa": (rdMolDescriptors.CalcTPSA, f"{_RDKIT} rdMolDescriptors.CalcTPSA"),
    "complexity": (BertzCT, f"{_RDKIT} GraphDescriptors.BertzCT (not PubChem's Cactvs complexity)"),
}
"""Task -> (function of a molecule, the row's `label_source`)."""


@dataclass(frozen=True)
class Entry:
    """One line of a source file."""

    source: str
    source_id: str
    smiles: str


@dataclass(frozen=True)
class Molecule:
    """A molecule that passed cleaning; plain data, so that it travels between processes."""

    source: str
    source_id: str
    smiles: str
    """Canonical isomeric SMILES."""
    key: str
    """Canonical SMILES without stereo: what the split is decided on."""
    heavy_atoms: int
    closed_shell: bool
    """Neutral, without unpaired electrons or isotopes."""
    labels: dict[str, float]
    groups: dict[str, int]
    facts: Facts


def read_entries() -> list[Entry]:
    """All lines of both files; ids are line numbers (NCI) and catalogue numbers (WEHI)."""
    data = Path(RDConfig.RDDataDir)
    nci = (line.split("\t") for line in (data / "NCI/first_5K.smi").read_text().splitlines())
    with (data / "Pains/test_data/wehi_mols.csv").open(newline="") as file:
        wehi = list(csv.reader(file))
    entries = [Entry(NCI, f"NCI-{number.strip()}", smiles) for smiles, number in nci]
    return entries + [Entry(WEHI, number, smiles) for smiles, number in wehi]


def clean(entry: Entry) -> Molecule | str:
    """The cleaned and labelled molecule, or the reason why there is none."""
    rdBase.DisableLog("rdApp.*")
    mol = Chem.MolFromSmiles(entry.smiles)
    if mol is None or not mol.GetNumAtoms():
        return "not readable by RDKit"
    reason = unsuitable(mol)
    if reason:
        return reason
    try:
        smiles_to_selfies(entry.smiles)  # for the check alone: a molecule that fails takes part in no task
    except ValueError:
        return "no SELFIES that reads back as the same molecule"
    return Molecule(
        **vars(entry) | {"smiles": Chem.MolToSmiles(mol)},
        key=split_key(mol),
        heavy_atoms=mol.GetNumHeavyAtoms(),
        closed_shell=not Chem.GetFormalCharge(mol)
        and not any(atom.GetNumRadicalElectrons() or atom.GetIsotope() for atom in mol.GetAtoms()),
        labels={task: function(mol) for task, (function, _) in LABELS.items()},
        groups=count_groups(mol),
        facts=structure_facts(mol),
    )


def unsuitable(mol: Chem.Mol) -> str:
    """Why the starter data does without this molecule, or `""`."""
    if len(Chem.GetMolFrags(mol)) > 1:
        return "more than one fragment"
    if not all(atom.GetSymbol() in ELEMENTS for atom in mol.GetAtoms()):
        return f"an element other than {' '.join(sorted(ELEMENTS))}"
    if mol.GetNumHeavyAtoms() > MAX_HEAVY_ATOMS:
        return f"more than {MAX_HEAVY_ATOMS} heavy atoms"
    return ""


def split_key(mol: Chem.Mol) -> str:
    """Canonical SMILES without stereo, so that stereoisomers share a split."""
    return Chem.MolToSmiles(mol, isomericSmiles=False)


def take_evenly(entries: list[Entry], limit: int | None) -> Iterator[Entry]:
    """`limit` entries spread evenly over the list, so that a small build still sees both files; all for None."""
    if limit is None or limit >= len(entries):
        return iter(entries)
    return (entries[index * len(entries) // limit] for index in range(limit))
