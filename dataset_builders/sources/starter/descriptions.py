"""Captions, and questions with answers, composed from facts that RDKit computes: every sentence can be checked."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors

from dataset_builders.schema import stable_hash
from dataset_builders.sources.starter.groups import NAMED, count_groups

LABEL_SOURCE = f"computed:RDKit {rdBase.rdkitVersion} structure facts in sentences"
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True)
class Facts:
    """What is stated about a molecule; `rings` and `groups` map a singular noun to how often it occurs."""

    formula: str
    charge: int
    rings: dict[str, int]
    groups: dict[str, int]
    stereocentres: int
    donors: int
    acceptors: int
    rotatable_bonds: int
    heavy_atoms: int


def structure_facts(mol: Chem.Mol) -> Facts:
    """The facts of a molecule. Rings are RDKit's SSSR; stereocentres are tetrahedral, assigned or not."""
    return Facts(
        formula=rdMolDescriptors.CalcMolFormula(mol),
        charge=Chem.GetFormalCharge(mol),
        rings=dict(sorted(Counter(_ring_name(mol, ring) for ring in mol.GetRingInfo().BondRings()).items())),
        groups=count_groups(mol, NAMED),
        stereocentres=len(Chem.FindMolChiralCenters(mol, includeUnassigned=True, useLegacyImplementation=False)),
        donors=rdMolDescriptors.CalcNumHBD(mol),
        acceptors=rdMolDescriptors.CalcNumHBA(mol),
        rotatable_bonds=rdMolDescriptors.CalcNumRotatableBonds(mol),
        heavy_atoms=mol.GetNumHeavyAtoms(),
    )


def _ring_name(mol: Chem.Mol, bonds: tuple[int, ...]) -> str:
    ring = [mol.GetBondWithIdx(index) for index in bonds]
    kind = "aromatic" if all(bond.GetIsAromatic() for bond in ring) else "non-aromatic"
    atoms = {atom for bond in ring for atom in (bond.GetBeginAtom().GetAtomicNum(), bond.GetEndAtom().GetAtomicNum())}
    return f"{len(bonds)}-membered {kind} {'carbocycle' if atoms == {6} else 'heterocycle'}"


def caption(facts: Facts) -> str:
    """Three or four sentences about the molecule."""
    return " ".join(
        (
            f"The molecule has the formula {facts.formula} and {_charge(facts)}.",
            _rings(facts),
            _groups(facts),
            f"It has {_number(facts.stereocentres, 'stereocentre')}, "
            f"{_number(facts.donors, 'hydrogen-bond donor')}, {_number(facts.acceptors, 'hydrogen-bond acceptor')} "
            f"and {_number(facts.rotatable_bonds, 'rotatable bond')}.",
        )
    )


def question(facts: Facts, key: str) -> tuple[str, str, str]:
    """One question about the molecule, chosen by its key: (kind, question, answer)."""
    kinds = list(_QUESTIONS)
    kind = kinds[stable_hash("question", key) % len(kinds)]
    wordings, answer = _QUESTIONS[kind]
    if kind == "group":  # ask half of the time for a group that is there
        present = sorted(facts.groups)
        number = stable_hash("group", key)
        names = present if number % 2 and present else sorted(set(NAMED) - set(present))
        name = names[number // 2 % len(names)]
        return kind, wordings[number % len(wordings)].format(_with_article(name)), _has_group(facts, name)
    return kind, wordings[stable_hash("wording", key) % len(wordings)], answer(facts)


def _number(count: int, noun: str) -> str:
    word = _WORDS[count] if count < len(_WORDS) else str(count)
    return f"{word} {noun}{'' if count == 1 else 's'}"


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _charge(facts: Facts) -> str:
    return "is neutral" if not facts.charge else f"carries a net charge of {facts.charge:+d}"


def _rings(facts: Facts) -> str:
    if not facts.rings:
        return "It is acyclic."
    return f"It contains {_listed([_number(count, name) for name, count in facts.rings.items()])}."


def _groups(facts: Facts) -> str:
    if not facts.groups:
        return "It has none of the common functional groups."
    return f"Its functional groups include {_listed([_number(count, name) for name, count in facts.groups.items()])}."


def _has_group(facts: Facts, name: str) -> str:
    count = facts.groups.get(name, 0)
    return f"Yes, it contains {_number(count, name)}." if count else f"No, it contains no {name}."


_QUESTIONS: dict[str, tuple[tuple[str, ...], Callable[[Facts], str]]] = {
    "formula": (
        ("What is the molecular formula of this compound?", "Which formula does this molecule have?"),
        lambda facts: f"Its molecular formula is {facts.formula}.",
    ),
    "rings": (
        ("Which rings does this molecule contain?", "Describe the ring systems of this compound ring by ring."),
        _rings,
    ),
    "groups": (
        (
            "Which functional groups does this molecule contain?",
            "Name and count the functional groups of the compound.",
        ),
        _groups,
    ),
    "group": (("Does this molecule contain {}?", "Is there {} in this compound?"), _groups),
    "stereocentres": (
        ("How many stereocentres does this molecule have?", "Count the tetrahedral stereocentres of this compound."),
        lambda facts: f"It has {_number(facts.stereocentres, 'stereocentre')}.",
    ),
    "donors": (
        ("How many hydrogen-bond donors does the molecule have?", "Count the hydrogen-bond donors of this compound."),
        lambda facts: f"It has {_number(facts.donors, 'hydrogen-bond donor')}.",
    ),
    "acceptors": (
        ("How many hydrogen-bond acceptors does it have?", "Count the hydrogen-bond acceptors of this compound."),
        lambda facts: f"It has {_number(facts.acceptors, 'hydrogen-bond acceptor')}.",
    ),
    "size": (
        ("How many atoms other than hydrogen does this molecule have?", "Count the heavy atoms of this compound."),
        lambda facts: f"It has {_number(facts.heavy_atoms, 'heavy atom')}.",
    ),
    "charge": (
        ("What is the net charge of this molecule?", "Is this compound charged?"),
        lambda facts: f"It {_charge(facts)}.",
    ),
}
