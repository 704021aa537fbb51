"""Molecules in text and as graphs: SELFIES or SMILES -> RDKit molecule -> integer atom and bond features.

- Bad input never passes silently: every function raises a `ValueError` that names the string and the reason.
- `"ogb9"`: the 9 atom and 3 bond features of OGB 1.2.0, which MoleculeSTM's encoder was trained on.
- `"omnimol2"`: the 2 atom and 2 bond features of the authors' released weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import selfies as sf
from rdkit import Chem, rdBase

from .configuration_omnimol import GRAPH_FEATURES

ATOM_CAP = 1024
"""Most atoms in one graph; each atom costs one position of the language model's context."""

# No cap on molecules is useful above this one, in atoms or SELFIES symbols: times grow faster than the length, and
# at twice as many atoms RDKit's canonical SMILES overflows the stack and ends the process.
_SIZE_LIMIT = 8 * ATOM_CAP
_SELFIES_PADDING = ("[nop]", "[epsilon]")


@dataclass(frozen=True)
class MoleculeGraph:
    """A molecule as integer arrays; N atoms in the molecule's own order, M bonds, each stored in both directions.

    Attributes:
        atom_features: `(N, 9 | 2)` int64, one row of category indices an atom.
        bond_index: `(2, 2 * M)` int64, source and target atom; `(2, 0)` without bonds.
        bond_features: `(2 * M, 3 | 2)` int64, one row of category indices a direction.
    """

    atom_features: np.ndarray
    bond_index: np.ndarray
    bond_features: np.ndarray


# --- text -> molecule ------------------------------------------------------------------------------------------------


def mol_from_smiles(smiles: str) -> Chem.Mol:
    """Parses and sanitises a SMILES string; white space around it is ignored.

    White space inside is refused: RDKit would take what follows for the molecule's name and drop it.

    Raises:
        ValueError: no string, blank, not SMILES, impossible chemistry, far too large; names the string and the reason.
    """
    if not isinstance(smiles, str):
        raise ValueError(f"SMILES must be a string, got {type(smiles).__name__}: {_shown(smiles)}")
    text = smiles.strip()
    if not text:
        raise ValueError(f"SMILES {_shown(smiles)} is blank: there is no molecule in it")
    if text.split() != [text]:
        raise ValueError(f"SMILES {_shown(smiles)} has white space inside; expected one molecule and nothing else")
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text)
        if mol is None:
            raise ValueError(f"SMILES {_shown(smiles)} is not a molecule: {_parse_problem(text)}")
    if (atoms := mol.GetNumAtoms()) > _SIZE_LIMIT:
        raise ValueError(f"SMILES {_shown(smiles)} has {atoms} atoms, more than the {_SIZE_LIMIT} that can be handled")
    return mol


def mol_from_selfies(selfies: str) -> Chem.Mol:
    """Parses a SELFIES string, components joined by ".", more strictly than `selfies.decoder`.

    The decoder turns much garbage into an empty molecule, or drops it. Refused here: text that is not a chain of
    bracketed symbols, symbols unknown to SELFIES 2, padding (`[nop]`, `[epsilon]`), a component that is empty or that
    decodes to nothing. Accepted: symbols that the SELFIES grammar itself skips or weakens when valences are used up,
    as in `[C][=F]`, since that is what such a string means.

    Raises:
        ValueError: as above; the message has the string and the reason.
    """
    if not isinstance(selfies, str):
        raise ValueError(f"SELFIES must be a string, got {type(selfies).__name__}: {_shown(selfies)}")
    refused = f"SELFIES {_shown(selfies)} is not a molecule: "
    text = selfies.strip()
    if not text:
        raise ValueError(refused + "it is blank")
    if (symbols := text.count("[")) > _SIZE_LIMIT:
        raise ValueError(refused + f"it has {symbols} symbols, more than the {_SIZE_LIMIT} that are decoded")
    for padding in _SELFIES_PADDING:
        if padding in text:
            raise ValueError(refused + f"{padding} is padding")
    # One component at a time: for the whole string the decoder would clean away those that are empty.
    smiles = []
    for component in text.split("."):
        if not re.fullmatch(r"(\[[^\[\]\s]+\])+", component):
            raise ValueError(refused + f"component {_shown(component)} is not a chain of bracketed symbols")
        try:
            smiles.append(sf.decoder(component))
        except sf.DecoderError as error:
            raise ValueError(refused + _first_line(error)) from error
        except RecursionError as error:
            raise ValueError(refused + "its branches are nested too deeply") from error
        if not smiles[-1]:
            raise ValueError(refused + f"component {_shown(component)} decodes to no atom")
    try:
        return mol_from_smiles(".".join(smiles))
    except ValueError as error:
        raise ValueError(f"SELFIES {_shown(selfies)} decodes to an impossible molecule: {error}") from error


def canonical_smiles(mol: Chem.Mol) -> str:
    """The molecule's canonical SMILES, with stereo and isotopes; atom maps stay where there are some."""
    return Chem.MolToSmiles(mol)


def smiles_to_selfies(smiles: str, atom_cap: int = ATOM_CAP) -> str:
    """Writes a SMILES string as SELFIES, from its canonical form, and checks that it reads back as the same molecule.

    "A.B" gives the components' SELFIES joined by ".". Atom maps are removed: SELFIES has no place for them.

    Raises:
        ValueError: not a molecule, more than `atom_cap` atoms (encoding time grows faster than the length), or a
            molecule that SELFIES cannot write (wildcards, dative, zero-order and quadruple bonds, some hypervalent
            atoms); the message has the string and the reason.
    """
    return canonical_pair(smiles, atom_cap)[1]


def canonical_pair(smiles: str, atom_cap: int = ATOM_CAP) -> tuple[str, str]:
    """The canonical SMILES and the SELFIES of one molecule: each reads back as the other; as `smiles_to_selfies`."""
    mol = mol_from_smiles(smiles)
    _check_size(mol, atom_cap, f"SMILES {_shown(smiles)}")
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    canonical = canonical_smiles(mol)
    refused = f"SMILES {_shown(smiles)} cannot be written as SELFIES: "
    try:
        encoded = _encode(mol, canonical)
        decoded = canonical_smiles(mol_from_smiles(sf.decoder(encoded)))
    except sf.EncoderError as error:
        raise ValueError(refused + _encoder_problem(mol, error)) from error
    except RecursionError as error:
        raise ValueError(refused + "its branches are nested too deeply") from error
    except ValueError as error:
        raise ValueError(refused + f"it would be read back as an impossible molecule: {error}") from error
    # A canonical string can change once more when it is read again, hence the second comparison.
    if decoded != canonical and decoded != canonical_smiles(mol_from_smiles(canonical)):
        raise ValueError(refused + f"it would be read back as {_shown(decoded)}")
    return decoded, encoded


def _encode(mol: Chem.Mol, canonical: str) -> str:
    """SELFIES of a canonical SMILES; the encoder cannot place the double bonds of some aromatic anions, RDKit can."""
    try:
        return sf.encoder(canonical)
    except sf.EncoderError as error:
        if "kekulization" not in str(error):
            raise
    kekulized = Chem.Mol(mol)
    Chem.Kekulize(kekulized, clearAromaticFlags=True)
    return sf.encoder(Chem.MolToSmiles(kekulized, kekuleSmiles=True))


def selfies_to_smiles(selfies: str) -> str:
    """The canonical SMILES of a SELFIES string; raises as `mol_from_selfies`."""
    return canonical_smiles(mol_from_selfies(selfies))


# --- molecule -> graph -----------------------------------------------------------------------------------------------


def _codes(kind: type, names: str) -> dict:
    return {kind.names[name]: code for code, name in enumerate(names.split())}


# Vocabularies in the order of OGB 1.2.0; a value outside takes the next code, OGB's last ("misc") slot.
_CHIRALITY = _codes(Chem.ChiralType, "CHI_UNSPECIFIED CHI_TETRAHEDRAL_CW CHI_TETRAHEDRAL_CCW")
_HYBRIDIZATION = _codes(Chem.HybridizationType, "SP SP2 SP3 SP3D SP3D2")
_BOND_TYPE = _codes(Chem.BondType, "SINGLE DOUBLE TRIPLE AROMATIC")
_BOND_STEREO = _codes(Chem.BondStereo, "STEREONONE STEREOZ STEREOE STEREOCIS STEREOTRANS")
_BOND_DIRECTION = _codes(Chem.BondDir, "NONE ENDUPRIGHT ENDDOWNRIGHT")


def molecule_graph(mol: Chem.Mol, features: str = "ogb9", atom_cap: int = ATOM_CAP) -> MoleculeGraph:
    """Turns a molecule into its graph of integer features (`GRAPH_FEATURES`); hydrogens stay implicit.

    | column | `ogb9` atoms | size | `ogb9` bonds | size |
    |---|---|---|---|---|
    | 0 | atomic number - 1, wildcard 118 | 119 | single, double, triple, aromatic, other | 5 |
    | 1 | chirality: none, CW, CCW, other | 4 | stereo: none, Z, E, cis, trans, any or other | 6 |
    | 2 | degree with hydrogens 0..10, more | 12 | conjugated | 2 |
    | 3 | formal charge -5..5, other | 12 | | |
    | 4 | hydrogens 0..8, more | 10 | | |
    | 5 | radical electrons 0..4, more | 6 | | |
    | 6 | sp, sp2, sp3, sp3d, sp3d2, other | 6 | | |
    | 7 | aromatic | 2 | | |
    | 8 | in a ring | 2 | | |

    `omnimol2` has atom columns 0 and 1, bond column 0, and the bond's direction (none, up, down) as written.

    Raises:
        ValueError: an unknown feature set, a molecule without atoms, or one above `atom_cap`.
    """
    if features not in GRAPH_FEATURES:
        raise ValueError(f"graph features {features!r} are unknown; expected one of {', '.join(GRAPH_FEATURES)}")
    if mol.GetNumAtoms() == 0:
        raise ValueError("the molecule has no atoms: it gives no graph")
    _check_size(mol, atom_cap, "the molecule")
    atom_row, bond_row = (_ogb_atom, _ogb_bond) if features == "ogb9" else (_omnimol_atom, _omnimol_bond)
    atom_columns, bond_columns = GRAPH_FEATURES[features]
    atoms = [code for atom in mol.GetAtoms() for code in atom_row(atom)]
    ends, bonds = [], []
    for bond in mol.GetBonds():
        ends += (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        bonds += bond_row(bond)
    pairs = np.array(ends, dtype=np.int64).reshape(-1, 2)
    return MoleculeGraph(
        atom_features=np.array(atoms, dtype=np.int64).reshape(-1, atom_columns),
        bond_index=np.stack([pairs, pairs[:, ::-1]], axis=1).reshape(-1, 2).T,
        bond_features=np.array(bonds, dtype=np.int64).reshape(-1, bond_columns).repeat(2, axis=0),
    )


def _ogb_atom(atom: Chem.Atom) -> tuple[int, ...]:
    charge = atom.GetFormalCharge()
    return (
        (atom.GetAtomicNum() - 1) % 119,  # the wildcard's atomic number is 0, hence 118
        _CHIRALITY.get(atom.GetChiralTag(), 3),
        min(atom.GetTotalDegree(), 11),
        charge + 5 if -5 <= charge <= 5 else 11,
        min(atom.GetTotalNumHs(), 9),
        min(atom.GetNumRadicalElectrons(), 5),
        _HYBRIDIZATION.get(atom.GetHybridization(), 5),
        atom.GetIsAromatic(),
        atom.IsInRing(),
    )


def _ogb_bond(bond: Chem.Bond) -> tuple[int, ...]:
    return (
        _BOND_TYPE.get(bond.GetBondType(), 4),
        _BOND_STEREO.get(bond.GetStereo(), 5),
        bond.GetIsConjugated(),
    )


def _omnimol_atom(atom: Chem.Atom) -> tuple[int, ...]:
    return (atom.GetAtomicNum() - 1) % 119, _CHIRALITY.get(atom.GetChiralTag(), 3)


def _omnimol_bond(bond: Chem.Bond) -> tuple[int, ...]:
    return _BOND_TYPE.get(bond.GetBondType(), 4), _BOND_DIRECTION.get(bond.GetBondDir(), 0)


# --- which molecules of an input become the graph --------------------------------------------------------------------

_PLACEHOLDER = re.compile(r"\$\d+\$\s*:\s*\[START_SELFIES\](.*?)\[END_SELFIES\]", re.DOTALL)


def graph_components(sequence: str, rule: str) -> list[str]:
    """Picks the molecules of a task's input that become its graph, one string a component, in the input's order.

    Args:
        sequence: the input as text, molecules as SELFIES or SMILES with components joined by ".".
        rule: "whole" every component; "first" the first one; "reactants" every one left of ">>"; "placeholders"
            every molecule that a procedure's input names `$k$` with k >= 0 (so not the product, `$-1$`),
            `$k$:[START_SELFIES]...[END_SELFIES]`; "none" nothing.

    Raises:
        ValueError: an unknown rule, or an input without what the rule asks for; names the input.
    """
    if rule == "none":
        return []
    if rule == "placeholders":
        molecules = [match.strip() for match in _PLACEHOLDER.findall(sequence)]
        if not molecules:
            raise ValueError(f"input {_shown(sequence)} names no molecule as $k$:[START_SELFIES]...[END_SELFIES]")
    elif rule == "reactants":
        reactants, arrow, product = sequence.partition(">>")
        if not arrow or ">>" in product:
            raise ValueError(f"input {_shown(sequence)} is not a reaction; expected one '>>' after the reactants")
        molecules = [reactants.strip()]
    elif rule in ("whole", "first"):
        molecules = [sequence.strip()]
    else:
        raise ValueError(f"graph rule {rule!r} is unknown; expected whole, first, reactants, placeholders or none")
    components = [component for molecule in molecules for component in molecule.split(".")]
    if not all(components):
        raise ValueError(f"input {_shown(sequence)} has an empty component; molecules are joined by single dots")
    return components[:1] if rule == "first" else components


# --- reasons ---------------------------------------------------------------------------------------------------------


def _shown(value: object) -> str:
    """The value for a message, shortened in the middle."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]}...{text[-30:]}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _check_size(mol: Chem.Mol, atom_cap: int, name: str) -> None:
    if mol.GetNumAtoms() > atom_cap:
        raise ValueError(
            f"{name} has {mol.GetNumAtoms()} atoms, more than atom_cap={atom_cap}; pass a higher atom_cap to allow it"
        )


def _parse_problem(text: str) -> str:
    """Why RDKit refuses `text`."""
    if not text.isascii():
        return "it has characters outside ASCII"
    if ">>" in text:
        return "it is a reaction"
    mol = Chem.MolFromSmiles(text, sanitize=False)
    problems = [] if mol is None else [problem.Message() for problem in Chem.DetectChemistryProblems(mol)]
    return "; ".join(problems) or "its syntax is not SMILES (an unclosed ring or bracket, an unknown element, ...)"


def _encoder_problem(mol: Chem.Mol, error: sf.EncoderError) -> str:
    """Why SELFIES refuses the molecule, in the words of its own list of valence errors where it gives one."""
    if valences := re.findall(r"\[\w+ with \d+ bond.*?\]", str(error)):
        return "; ".join(valences)
    if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        return "it has a wildcard atom"
    if odd := {str(bond.GetBondType()) for bond in mol.GetBonds() if bond.GetBondType() not in _BOND_TYPE}:
        return f"it has a bond of type {', '.join(sorted(odd))}"
    if any(atom.GetChiralTag() not in _CHIRALITY for atom in mol.GetAtoms()):
        return "it has stereo that is not tetrahedral"
    return _first_line(error)


__all__ = [
    "ATOM_CAP",
    "GRAPH_FEATURES",
    "MoleculeGraph",
    "canonical_pair",
    "canonical_smiles",
    "graph_components",
    "mol_from_selfies",
    "mol_from_smiles",
    "molecule_graph",
    "selfies_to_smiles",
    "smiles_to_selfies",
]
