"""Orbital energies and total energies by GFN2-xTB (tblite) at MMFF94 geometries."""

from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

MAX_HEAVY_ATOMS = 13
SEED = 20250502
_BOHR_PER_ANGSTROM = 1.8897259886


def label_source() -> str:
    """Tool and method of the energies; raises `PackageNotFoundError`, an `ImportError`, where tblite is missing."""
    return (
        f"computed:tblite {version('tblite')} GFN2-xTB single point, "
        f"geometry RDKit {rdBase.rdkitVersion} ETKDGv3 and MMFF94"
    )


@dataclass(frozen=True)
class Energies:
    """In Hartree."""

    total: float
    homo: float
    lumo: float


def energies(smiles: str) -> Energies | str:
    """Energies of a neutral closed-shell molecule, or the reason why there are none.

    One conformer, embedded from a fixed seed and relaxed with MMFF94.
    """
    from tblite.interface import Calculator  # here, so that the list of sources loads without the starter's extra

    rdBase.DisableLog("rdApp.*")
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    embedding = rdDistGeom.ETKDGv3()
    embedding.randomSeed = SEED
    if rdDistGeom.EmbedMolecule(mol, embedding) != 0:
        return "no 3D geometry"
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        return "no MMFF94 parameters"
    if rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=2000) != 0:
        return "MMFF94 did not converge"
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    calculator = Calculator("GFN2-xTB", numbers, mol.GetConformer().GetPositions() * _BOHR_PER_ANGSTROM)
    calculator.set("verbosity", 0)
    try:
        result = calculator.singlepoint()
    except RuntimeError:
        return "GFN2-xTB did not converge"
    orbitals, occupations = result["orbital-energies"], result["orbital-occupations"]
    occupied = int((occupations > 1.0).sum())
    if not 0 < occupied < len(orbitals):
        return "no virtual orbital in the minimal basis"
    return Energies(float(result["energy"]), float(orbitals[occupied - 1]), float(orbitals[occupied]))
