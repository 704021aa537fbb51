"""Molecules in text and as graphs: SELFIES or SMILES -> RDKit molecule -> integer atom and bond features.

- Bad input never passes silently: every function raises a `ValueError` that names the string and the reason.
- `"ogb9"`: the 9 atom and 3 bond features of OGB 1.2.0, which MoleculeSTM's encoder was trained on.
- `"omnimol2"`: the 2 atom and 2 bond features of the authors' released weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from operator import and_, not_

import numpy as np
import selfies as sf
from rdkit import Chem, rdBase
from rdkit.Chem import rdqueries

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

    Bonds are sorted by the atoms at which they begin and end. RDKit's own order depends on what else is written in the
    same SMILES; this one does not, so that the graph of "A.B" is that of A and that of B.

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
        mol = _read_smiles(text)
        if mol is None:
            raise ValueError(f"SMILES {_shown(smiles)} is not a molecule: {_parse_problem(text)}")
    if (atoms := mol.GetNumAtoms()) > _SIZE_LIMIT:
        raise ValueError(f"SMILES {_shown(smiles)} has {atoms} atoms, more than the {_SIZE_LIMIT} that can be handled")
    return mol


_HYDROGEN_ATOM = re.compile(r"\[\d*(H|#)")  # or an atom written by its number, which may be one
_STEREO_MARK = re.compile(r"[@/\\]")


def _read_smiles(text: str) -> Chem.Mol | None:
    """The molecule that `Chem.MolFromSmiles` reads, a fifth sooner; None if it is none.

    That function also looks for stereo that is possible but not written, of which nothing remains but notes on atoms.
    Here stereo is worked out only where some is written. Hydrogens written as atoms are rare, and left to RDKit.
    """
    if _HYDROGEN_ATOM.search(text):
        return Chem.MolFromSmiles(text)
    mol = Chem.MolFromSmiles(text, sanitize=False)
    if mol is None:
        return None
    try:
        Chem.SanitizeMol(mol)
    except Chem.MolSanitizeException:
        return None
    if _STEREO_MARK.search(text):
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
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

FEATURES_VERSION = 1
"""Part of the key of kept graphs; to be raised when `molecule_graph` gives a molecule other numbers than before."""


def _codes(kind: type, names: str) -> dict:
    return {kind.names[name]: code for code, name in enumerate(names.split())}


# Vocabularies in the order of OGB 1.2.0; a value outside takes the next code, OGB's last ("misc") slot.
_CHIRALITY = _codes(Chem.ChiralType, "CHI_UNSPECIFIED CHI_TETRAHEDRAL_CW CHI_TETRAHEDRAL_CCW")
_HYBRIDIZATION = _codes(Chem.HybridizationType, "SP SP2 SP3 SP3D SP3D2")
_BOND_TYPE = _codes(Chem.BondType, "SINGLE DOUBLE TRIPLE AROMATIC")
_BOND_STEREO = _codes(Chem.BondStereo, "STEREONONE STEREOZ STEREOE STEREOCIS STEREOTRANS")
_BOND_DIRECTION = _codes(Chem.BondDir, "NONE ENDUPRIGHT ENDDOWNRIGHT")

_SINGLE, _DOUBLE, _, _AROMATIC = _BOND_TYPE.values()
_NEUTRAL = 5
_SP2, _SP3 = _HYBRIDIZATION[Chem.HybridizationType.SP2], _HYBRIDIZATION[Chem.HybridizationType.SP3]


def _atoms_that(*queries: Chem.QueryAtom) -> Chem.Mol:
    """A pattern of one atom to which at least one of the queries applies."""
    first, *others = queries
    for query in others:
        first.ExpandQuery(query, how=Chem.CompositeQueryType.COMPOSITE_OR)
    pattern = Chem.RWMol()
    pattern.AddAtom(first)
    return pattern.GetMol()


def _bond_that(smarts: str) -> Chem.QueryBond:
    return Chem.MolFromSmarts(f"*{smarts}*").GetBondWithIdx(0)


# Reading an enum costs six times as much as reading a number, and most atoms and bonds have the same few values. So
# a search in RDKit's own code finds the atoms that have others, and a bond is first asked whether it has one of these.
_IS_SP2 = _atoms_that(Chem.AtomFromSmarts("[^2]"))
_IS_UNUSUAL = _atoms_that(
    rdqueries.HasChiralTagQueryAtom(),
    rdqueries.FormalChargeEqualsQueryAtom(0, negate=True),
    rdqueries.NumRadicalElectronsEqualsQueryAtom(0, negate=True),
    Chem.AtomFromSmarts("[!^2;!^3]"),
)
_ALL_MATCHES = Chem.SubstructMatchParameters()
_ALL_MATCHES.uniquify = False
_ALL_MATCHES.maxMatches = _SIZE_LIMIT
_SINGLE_BOND, _AROMATIC_BOND, _DOUBLE_BOND = map(_bond_that, "-:=")


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
    return molecule_graphs([mol], features, atom_cap)[0]


def molecule_graphs(mols: Iterable[Chem.Mol], features: str = "ogb9", atom_cap: int = ATOM_CAP) -> list[MoleculeGraph]:
    """The graphs of several molecules, as `molecule_graph`, in less time; each is let go once its numbers are read."""
    if features not in GRAPH_FEATURES:
        raise ValueError(f"graph features {features!r} are unknown; expected one of {', '.join(GRAPH_FEATURES)}")
    ogb = features == "ogb9"
    columns = []
    for mol in mols:
        if mol.GetNumAtoms() == 0:
            raise ValueError("the molecule has no atoms: it gives no graph")
        _check_size(mol, atom_cap, "the molecule")
        columns.append(_columns(mol, ogb))
    return _graphs(*zip(*columns, strict=True), ogb) if columns else []


def joined_graph(graphs: Sequence[MoleculeGraph]) -> MoleculeGraph:
    """Several graphs as one, which it is for molecules written with a dot: atoms and bonds one after the other."""
    if len(graphs) == 1:
        return graphs[0]
    first_atoms = np.cumsum([0, *(len(graph.atom_features) for graph in graphs[:-1])])
    ends = [graph.bond_index + first for graph, first in zip(graphs, first_atoms, strict=True)]
    return MoleculeGraph(
        atom_features=np.concatenate([graph.atom_features for graph in graphs]),
        bond_index=np.concatenate(ends, axis=1),
        bond_features=np.concatenate([graph.bond_features for graph in graphs]),
    )


def _graphs(
    atom_columns: Sequence[list[bytes]],
    bond_columns: Sequence[list[bytes]],
    ends: Sequence[list[list[int]]],
    ogb: bool,
) -> list[MoleculeGraph]:
    """The graphs of several molecules, all made at once, from what `_columns` reads of each."""
    atoms, bonds = _joined(atom_columns), _joined(bond_columns)
    atom_counts, bond_counts = (np.array([len(one[0]) for one in every]) for every in (atom_columns, bond_columns))
    atom_ends, bond_ends = np.cumsum(atom_counts), np.cumsum(bond_counts)
    ends = np.array([list(chain.from_iterable(parts)) for parts in zip(*ends, strict=True)], dtype=np.int64)
    ends_among_all = ends + np.repeat(atom_ends - atom_counts, bond_counts)
    atoms[:, 0] = (atoms[:, 0] - 1) % 119  # the wildcard's atomic number is 0, hence 118
    if ogb:
        atoms[:, 2] = atoms[:, 4] + np.bincount(ends_among_all.ravel(), minlength=len(atoms))
        atoms = np.minimum(atoms, _LARGEST_OGB_CODES)
    order = np.argsort(ends_among_all[0] * len(atoms) + ends_among_all[1])
    both_ways = ends[:, order][[[0, 1], [1, 0]]].transpose(0, 2, 1).reshape(2, -1)
    parts = zip(
        np.split(atoms, atom_ends[:-1]),
        np.split(both_ways, 2 * bond_ends[:-1], axis=1),
        np.split(bonds[order].repeat(2, axis=0), 2 * bond_ends[:-1]),
        strict=True,
    )
    return [MoleculeGraph(*part) for part in parts]


def _joined(molecules: Sequence[list[bytes]]) -> np.ndarray:
    """`(things, columns)`: the columns of several molecules, a byte a value, as those of one."""
    columns = [np.frombuffer(b"".join(parts), dtype=np.uint8) for parts in zip(*molecules, strict=True)]
    return np.stack(columns, axis=1).astype(np.int64)


_LARGEST_OGB_CODES = np.array([118, 3, 11, 11, 9, 5, 5, 1, 1])


def _columns(mol: Chem.Mol, ogb: bool) -> tuple[list[bytes], list[bytes], list[list[int]]]:
    """What is read of a molecule: features of atoms and of bonds, and where bonds begin and end.

    All atoms and bonds come as those of a stereo group, in half the time that it takes to ask for one after the other.
    The group is thrown away: `mol` neither gets nor changes one. Atoms and bonds must not outlive `mol`.
    """
    everything = range(mol.GetNumAtoms()), range(mol.GetNumBonds())
    group = Chem.CreateStereoGroup(Chem.StereoGroupType.STEREO_ABSOLUTE, mol, *everything)
    atoms, bonds = group.GetAtoms(), group.GetBonds()
    ends = [list(map(Chem.Bond.GetBeginAtomIdx, bonds)), list(map(Chem.Bond.GetEndAtomIdx, bonds))]
    return _atom_columns(mol, atoms, ogb), _bond_columns(bonds, ogb), ends


def _atom_columns(mol: Chem.Mol, atoms: Sequence[Chem.Atom], ogb: bool) -> list[bytes]:
    """Feature by feature; elements and counts are RDKit's own numbers."""
    count = len(atoms)
    chirality, charges, radicals = bytearray(count), bytearray([_NEUTRAL]) * count, bytearray(count)
    hybridization = bytearray([_SP3]) * count
    for (i,) in mol.GetSubstructMatches(_IS_SP2, _ALL_MATCHES):
        hybridization[i] = _SP2
    for (i,) in mol.GetSubstructMatches(_IS_UNUSUAL, _ALL_MATCHES):
        atom = atoms[i]
        chirality[i] = _CHIRALITY.get(atom.GetChiralTag(), 3)
        charge = atom.GetFormalCharge()
        charges[i] = _NEUTRAL + charge if abs(charge) <= 5 else 11
        radicals[i] = atom.GetNumRadicalElectrons()
        hybridization[i] = _HYBRIDIZATION.get(atom.GetHybridization(), 5)
    elements = bytes(map(Chem.Atom.GetAtomicNum, atoms))
    if not ogb:
        return [elements, chirality]
    return [
        elements,
        chirality,
        bytes(count),  # degrees, which `_graphs` counts
        charges,
        bytes(map(Chem.Atom.GetTotalNumHs, atoms)),
        radicals,
        hybridization,
        bytes(map(Chem.Atom.GetIsAromatic, atoms)),
        bytes(map(Chem.Atom.IsInRing, atoms)),
    ]


def _bond_columns(bonds: Sequence[Chem.Bond], ogb: bool) -> list[bytes]:
    """Feature by feature."""
    places = range(len(bonds))
    types, stereo = bytearray([_SINGLE]) * len(bonds), bytearray(len(bonds))
    single = bytes(map(_SINGLE_BOND.Match, bonds))
    conjugated = bytes(map(Chem.Bond.GetIsConjugated, bonds))
    for i in compress(places, map(not_, single)):
        types[i] = _other_bond_type(bonds[i])
        if types[i] == _DOUBLE:
            stereo[i] = _stereo(bonds[i])
    # Only double bonds are Z or E; a single bond that is an axis of chirality has two sp2 ends: it is conjugated.
    for i in compress(places, map(and_, single, conjugated)):
        stereo[i] = _stereo(bonds[i])
    if not ogb:
        return [types, bytes(_BOND_DIRECTION.get(kind, 0) for kind in map(Chem.Bond.GetBondDir, bonds))]
    return [types, stereo, conjugated]


def _other_bond_type(bond: Chem.Bond) -> int:
    """The type of a bond that is not single, the most frequent first."""
    if _AROMATIC_BOND.Match(bond):
        return _AROMATIC
    return _DOUBLE if _DOUBLE_BOND.Match(bond) else _BOND_TYPE.get(bond.GetBondType(), 4)


def _stereo(bond: Chem.Bond) -> int:
    return _BOND_STEREO.get(bond.GetStereo(), 5)


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
    "FEATURES_VERSION",
    "GRAPH_FEATURES",
    "MoleculeGraph",
    "canonical_pair",
    "canonical_smiles",
    "graph_components",
    "joined_graph",
    "mol_from_selfies",
    "mol_from_smiles",
    "molecule_graph",
    "molecule_graphs",
    "selfies_to_smiles",
    "smiles_to_selfies",
]
