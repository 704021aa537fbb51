"""Scores of molecules written as SELFIES, several joined by `.`.

`strict`: every row counts. Exact match compares the sets of components with stereochemistry, whatever their order;
BLEU (characters) and Levenshtein compare canonical isomeric SMILES; an answer that is not a molecule (empty, or text
that decodes to nothing) is a mismatch, has similarity 0 and costs the length of the whole reference.

`paper`: stereochemistry is dropped, exact match is equality of InChI, BLEU runs over the characters of the raw
SELFIES, the empty molecule is valid, and every score but validity is a mean over valid answers only.

Both: Tanimoto similarity of RDKit path fingerprints (2048 bits), MACCS keys and Morgan counts of radius 2.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import selfies
from rapidfuzz.distance import Levenshtein
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import MACCSkeys, rdFingerprintGenerator

from omnimol_hf.chemistry_omnimol import canonical_smiles, mol_from_selfies, mol_from_smiles
from omnimol_hf.metrics.bootstrap import Metric, mean_metric
from omnimol_hf.metrics.text import bleu_metric, without_control_tokens

_MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2)
FINGERPRINTS = {
    "rdk": Chem.RDKFingerprint,
    "maccs": MACCSkeys.GenMACCSKeys,
    "morgan": _MORGAN.GetSparseCountFingerprint,
}
_NO_FINGERPRINTS = tuple(fingerprint(Chem.Mol()) for fingerprint in FINGERPRINTS.values())


@dataclass(frozen=True)
class Molecule:
    """A molecule as the metrics see it: canonical SMILES and the fingerprints, in the order of `FINGERPRINTS`."""

    smiles: str
    fingerprints: tuple
    inchi: str = ""

    @property
    def components(self) -> frozenset[str]:
        return frozenset(self.smiles.split("."))


@lru_cache(maxsize=1 << 14)
def _fingerprints(smiles: str) -> tuple:
    """Half of the time of all scores; most molecules have no stereochemistry and are the same to both protocols."""
    mol = mol_from_smiles(smiles)
    return tuple(fingerprint(mol) for fingerprint in FINGERPRINTS.values())


@lru_cache(maxsize=1 << 14)
def read_molecule(text: str) -> Molecule | None:
    """The molecule(s) of an answer, or None where it is none."""
    try:
        # read twice: the first canonical form can still change
        smiles = canonical_smiles(mol_from_smiles(canonical_smiles(mol_from_selfies(text))))
    except ValueError:
        return None
    return Molecule(smiles, _fingerprints(smiles))


@lru_cache(maxsize=1 << 14)
def read_molecule_as_paper(text: str) -> Molecule | None:
    """The molecule that the authors' code sees: without stereochemistry, and empty for text without brackets."""
    try:
        mol = Chem.MolFromSmiles(selfies.decoder(text))
    except (selfies.DecoderError, RecursionError):
        return None
    if mol is None:
        return None
    flat = Chem.MolToSmiles(mol, isomericSmiles=False)
    mol = Chem.MolFromSmiles(flat)
    if mol is None:
        return None
    return Molecule(flat, _fingerprints(flat) if flat else _NO_FINGERPRINTS, Chem.MolToInchi(mol))


def _similarities(pairs: list[tuple[Molecule | None, Molecule]], kind: int, equal_is_one: bool) -> list[float]:
    """Tanimoto similarities. Methane has no path and so no bit in common with itself, hence `equal_is_one`."""
    values = []
    for answer, truth in pairs:
        if answer is None:
            values.append(0.0)
        elif equal_is_one and answer.components == truth.components:
            values.append(1.0)
        else:
            values.append(DataStructs.TanimotoSimilarity(answer.fingerprints[kind], truth.fingerprints[kind]))
    return values


def molecule_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Metric]:
    """`strict`: `exact_match`, `bleu`, `levenshtein`, `rdk`, `maccs`, `morgan` and `validity` of every row.

    Raises:
        ValueError: If a reference is not a molecule.
    """
    answers = [without_control_tokens(text) for text in predictions]
    with rdBase.BlockLogs():
        molecules = [read_molecule(text) for text in answers]
        truths = [read_molecule(text) for text in references]
    if None in truths:
        row = truths.index(None)
        raise ValueError(f"reference {row} is not a molecule: {references[row]!r}")
    misses = Counter(
        "unreadable" if text else "empty"
        for text, molecule in zip(answers, molecules, strict=True)
        if molecule is None
    )
    pairs = list(zip(molecules, truths, strict=True))
    smiles = [molecule.smiles if molecule else "" for molecule in molecules]
    true_smiles = [truth.smiles for truth in truths]
    exact = [bool(answer) and answer.components == truth.components for answer, truth in pairs]
    distances = [Levenshtein.distance(*strings) for strings in zip(smiles, true_smiles, strict=True)]
    return {
        "exact_match": mean_metric(exact, misses=misses),
        "bleu": bleu_metric(smiles, true_smiles, 4, misses=misses, variant="characters of canonical isomeric SMILES"),
        "levenshtein": mean_metric(distances, misses=misses),
        **{
            name: mean_metric(_similarities(pairs, kind, equal_is_one=True), misses=misses)
            for kind, name in enumerate(FINGERPRINTS)
        },
        "validity": mean_metric([molecule is not None for molecule in molecules], misses=misses),
    }


def paper_molecule_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Metric]:
    """`paper`: the same scores as the authors' code computes them."""
    answers = [without_control_tokens(text) for text in predictions]
    with rdBase.BlockLogs():
        molecules = [read_molecule_as_paper(text) for text in answers]
        truths = [read_molecule_as_paper(text) for text in references]
    valid = np.array([None not in pair for pair in zip(molecules, truths, strict=True)], dtype=bool)
    misses = {"left out": int((~valid).sum())} if not valid.all() else {}
    nothing = Molecule("", ())
    pairs = [
        (answer, truth) if counted else (None, nothing)
        for answer, truth, counted in zip(molecules, truths, valid, strict=True)
    ]
    exact = [answer is not None and answer.inchi == truth.inchi for answer, truth in pairs]
    distances = [Levenshtein.distance(answer.smiles if answer else "", truth.smiles) for answer, truth in pairs]
    return {
        "exact_match": mean_metric(exact, valid, misses),
        "bleu": bleu_metric(answers, references, 4, valid, misses, variant="characters of SELFIES"),
        "levenshtein": mean_metric(distances, valid, misses),
        **{
            name: mean_metric(_similarities(pairs, kind, equal_is_one=False), valid, misses)
            for kind, name in enumerate(FINGERPRINTS)
        },
        "validity": mean_metric([molecule is not None for molecule in molecules], misses=misses),
    }


def compare(prediction: str, reference: str) -> tuple[bool, float]:
    """Whether two readable answers are the same set of components, and their Morgan Tanimoto similarity (`strict`)."""
    pair = read_molecule(without_control_tokens(prediction)), read_molecule(reference)
    kind = list(FINGERPRINTS).index("morgan")
    return pair[0].components == pair[1].components, _similarities([pair], kind, equal_is_one=True)[0]
