"""Scores of molecules written as SELFIES, several joined by `.`.

`strict`: every row counts. Exact match compares the sets of components with stereochemistry, whatever their order;
BLEU (characters) and Levenshtein compare canonical isomeric SMILES; an answer that is not a molecule (empty, or text
that decodes to nothing) is a mismatch, has similarity 0 and costs the length of the whole reference. Beside
`exact_match`, by canonical SMILES with stereochemistry, stand `exact_match_inchi`, which forgives tautomers that InChI
does not tell apart, and the two `_no_stereo`, which forgive what the tetrahedral centres and double bonds say.

`paper`: stereochemistry is dropped, exact match is equality of InChI, BLEU runs over the characters of the raw
SELFIES, the empty molecule is valid, and every score but validity is a mean over valid answers only.

Both: Tanimoto similarity of RDKit path fingerprints (2048 bits), MACCS keys and Morgan counts of radius 2.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import selfies
from rapidfuzz.distance import Levenshtein
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import MACCSkeys, rdFingerprintGenerator

from omnimol_hf.chemistry_omnimol import ATOM_CAP, canonical_smiles, mol_from_selfies, mol_from_smiles
from omnimol_hf.metrics.bootstrap import Metric, mean_metric
from omnimol_hf.metrics.text import bleu_metric, without_control_tokens

_MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2)
FINGERPRINTS = {
    "rdk": Chem.RDKFingerprint,
    "maccs": MACCSkeys.GenMACCSKeys,
    "morgan": _MORGAN.GetSparseCountFingerprint,
}
# An equal molecule is similar by 1 unless it is so small that a fingerprint has no bit of it (methane has no path).
_MAY_LACK_BITS = 12  # characters of SMILES
_MOST_SYMBOLS = 8 * ATOM_CAP  # a molecule of twice as many would overflow RDKit's stack and end the process
_CACHED = 1 << 15
_ISOTOPE = re.compile(r"\[\d")
_ATOM = re.compile(r"\[\d*([A-Z][a-z]?|[a-z]{1,2})[^]]*]|(Br|Cl|[BCNOPSFIbcnops])")


@dataclass(frozen=True)
class Molecule:
    """A molecule as one protocol sees it.

    Attributes:
        smiles: Canonical SMILES, components joined by `.`.
        skeleton: The same without stereochemistry: all that the fingerprints look at.
    """

    smiles: str
    skeleton: str

    @property
    def components(self) -> frozenset[str]:
        return frozenset(self.smiles.split("."))

    @property
    def skeleton_components(self) -> frozenset[str]:
        return frozenset(self.skeleton.split("."))


Pair = tuple[Molecule | None, Molecule]  # an answer, None where it is no molecule, and the truth


@lru_cache(maxsize=_CACHED)
def _fingerprints(skeleton: str) -> tuple:
    """In the order of `FINGERPRINTS`. They are half of the time of all scores, so both protocols share them."""
    mol = Chem.MolFromSmiles(skeleton)
    return tuple(fingerprint(mol) for fingerprint in FINGERPRINTS.values())


@lru_cache(maxsize=_CACHED)
def _inchi(smiles: str) -> str:
    """InChI; empty where there is none."""
    return Chem.MolToInchi(Chem.MolFromSmiles(smiles))


def _has_stereo(smiles: str) -> bool:
    return any(mark in smiles for mark in "@/\\")


def _strict_molecule(canonical: str) -> Molecule:
    """From canonical SMILES, read once more: the first canonical form can still change."""
    mol = mol_from_smiles(canonical)
    smiles = canonical_smiles(mol)
    if not _has_stereo(smiles):
        return Molecule(smiles, smiles)
    Chem.RemoveStereochemistry(mol)
    return Molecule(smiles, canonical_smiles(mol_from_smiles(canonical_smiles(mol))))


def _flat_molecule(mol: Chem.Mol) -> Molecule | None:
    """A molecule of the `paper` protocol, without stereochemistry and isotopes."""
    flat = Chem.MolToSmiles(mol, isomericSmiles=False)
    return None if Chem.MolFromSmiles(flat) is None else Molecule(flat, flat)


def _decode_as_paper(text: str) -> Molecule | None:
    if text.count("[") > _MOST_SYMBOLS:
        return None
    try:
        mol = Chem.MolFromSmiles(selfies.decoder(text))
    except (selfies.DecoderError, RecursionError):
        return None
    return None if mol is None else _flat_molecule(mol)


@lru_cache(maxsize=_CACHED)
def _read(text: str) -> tuple[Molecule | None, Molecule | None]:
    """The molecule(s) of an answer as `strict` and as `paper` see them, decoded once where it comes to the same.

    It does not with a dot inside: the authors decode all components at once, and then a ring symbol that points back
    beyond the start of its component closes a ring with the component before.
    """
    with rdBase.BlockLogs():
        try:
            mol = mol_from_selfies(text)
            canonical = canonical_smiles(mol)
            strict = _strict_molecule(canonical)
        except ValueError:
            return None, _decode_as_paper(text)
        if "." in text:
            return strict, _decode_as_paper(text)
        if _has_stereo(canonical) or _ISOTOPE.search(canonical):
            return strict, _flat_molecule(mol)
        return strict, Molecule(canonical, canonical)


def read_molecule(text: str) -> Molecule | None:
    """The molecule(s) of an answer, or None where it is none."""
    return _read(text)[0]


def read_molecule_as_paper(text: str) -> Molecule | None:
    """The molecule that the authors' code sees: without stereochemistry, and empty for text without brackets."""
    return _read(text)[1]


def _elements(smiles: str) -> list[str]:
    return sorted((bracketed or bare).capitalize() for bracketed, bare in _ATOM.findall(smiles))


def _same_inchi(answer: str, truth: str) -> bool:
    """Whether two SMILES have one InChI. It takes time, so it is asked for isomers alone."""
    return answer == truth or (_elements(answer) == _elements(truth) and _inchi(answer) == _inchi(truth) != "")


def _same_inchi_set(answer: frozenset[str], truth: frozenset[str]) -> bool:
    """Of two sets of components, each taken as one, so that `[Na]Cl` is `[Na+].[Cl-]`."""
    return _same_inchi(".".join(sorted(answer)), ".".join(sorted(truth)))


# Whether answer and truth match, by the name of the metric.
EXACT_MATCHES: dict[str, Callable[[Molecule, Molecule], bool]] = {
    "exact_match": lambda answer, truth: answer.components == truth.components,
    "exact_match_no_stereo": lambda answer, truth: answer.skeleton_components == truth.skeleton_components,
    "exact_match_inchi": lambda answer, truth: _same_inchi_set(answer.components, truth.components),
    "exact_match_inchi_no_stereo": lambda answer, truth: _same_inchi_set(
        answer.skeleton_components, truth.skeleton_components
    ),
}


def _tanimoto(answer: str, truth: str) -> tuple[float, ...]:
    """Similarities of two skeletons, in the order of `FINGERPRINTS`."""
    if answer == truth and len(truth) > _MAY_LACK_BITS:
        return (1.0,) * len(FINGERPRINTS)
    return tuple(map(DataStructs.TanimotoSimilarity, _fingerprints(answer), _fingerprints(truth)))


def _compute_fingerprints(pairs: Iterable[tuple[str, str]]) -> None:
    """Fingerprints of all that `_tanimoto` will ask for, on all cores; they wait in the cache."""
    skeletons = {one for pair in pairs if pair[0] != pair[1] for one in pair}
    with ThreadPoolExecutor() as threads:  # RDKit releases the interpreter's lock
        deque(threads.map(_fingerprints, skeletons), maxlen=0)


def _strict_similarities(answer: Molecule | None, truth: Molecule) -> tuple[float, ...]:
    """1 for the same set of components, methane too, which has no path and so no bit in common with itself."""
    if answer is None:
        return (0.0,) * len(FINGERPRINTS)
    if answer.components == truth.components:
        return (1.0,) * len(FINGERPRINTS)
    return _tanimoto(answer.skeleton, truth.skeleton)


def strict_pairs(predictions: Sequence[str], references: Sequence[str]) -> list[Pair]:
    """Answers and references, read.

    Raises:
        ValueError: If a reference is not a molecule.
    """
    truths = [read_molecule(text) for text in references]
    if None in truths:
        row = truths.index(None)
        raise ValueError(f"reference {row} is not a molecule: {references[row]!r}")
    return list(zip([read_molecule(without_control_tokens(text)) for text in predictions], truths, strict=True))


def strict_misses(predictions: Sequence[str], pairs: Sequence[Pair]) -> Counter:
    """Reason -> answers that are no molecule."""
    return Counter(
        "unreadable" if without_control_tokens(text) else "empty"
        for text, (answer, _) in zip(predictions, pairs, strict=True)
        if answer is None
    )


def molecule_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Metric]:
    """`strict`, over all rows: `EXACT_MATCHES`, `bleu`, `levenshtein`, `rdk`, `maccs`, `morgan` and `validity`.

    Raises:
        ValueError: If a reference is not a molecule.
    """
    pairs = strict_pairs(predictions, references)
    misses = strict_misses(predictions, pairs)
    smiles = [answer.smiles if answer else "" for answer, _ in pairs]
    true_smiles = [truth.smiles for _, truth in pairs]
    with rdBase.BlockLogs():
        exact = {
            name: [answer is not None and equal(answer, truth) for answer, truth in pairs]
            for name, equal in EXACT_MATCHES.items()
        }
        _compute_fingerprints((answer.skeleton, truth.skeleton) for answer, truth in pairs if answer)
        similarities = np.array([_strict_similarities(*pair) for pair in pairs])
    distances = [Levenshtein.distance(*strings) for strings in zip(smiles, true_smiles, strict=True)]
    return {
        **{name: mean_metric(values, misses=misses) for name, values in exact.items()},
        "bleu": bleu_metric(
            smiles, true_smiles, 4, 0, misses=misses, variant="characters of canonical isomeric SMILES"
        ),
        "levenshtein": mean_metric(distances, misses=misses),
        **{name: mean_metric(similarities[:, kind], misses=misses) for kind, name in enumerate(FINGERPRINTS)},
        "validity": mean_metric([answer is not None for answer, _ in pairs], misses=misses),
    }


def paper_pairs(predictions: Sequence[str], references: Sequence[str]) -> tuple[list[Pair], np.ndarray]:
    """Answers and references as the authors' code reads them, and whether both are readable, bool `(n_rows,)`."""
    answers = [read_molecule_as_paper(without_control_tokens(text)) for text in predictions]
    pairs = list(zip(answers, [read_molecule_as_paper(text) for text in references], strict=True))
    return pairs, np.array([None not in pair for pair in pairs], dtype=bool)


def left_out(valid: np.ndarray) -> dict[str, int]:
    """The misses of the `paper` protocol: rows that leave its means."""
    return {} if valid.all() else {"left out": int((~valid).sum())}


def paper_molecule_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Metric]:
    """`paper`: `exact_match`, `bleu`, `levenshtein`, `rdk`, `maccs`, `morgan` and `validity`."""
    pairs, valid = paper_pairs(predictions, references)
    misses = left_out(valid)
    exact, distances = np.zeros(len(pairs)), np.zeros(len(pairs))
    similarities = np.zeros((len(pairs), len(FINGERPRINTS)))
    with rdBase.BlockLogs():
        _compute_fingerprints((pairs[row][0].smiles, pairs[row][1].smiles) for row in np.flatnonzero(valid))
        for row in np.flatnonzero(valid):
            answer, truth = (molecule.smiles for molecule in pairs[row])
            exact[row] = _same_inchi(answer, truth)
            distances[row] = Levenshtein.distance(answer, truth)
            similarities[row] = _tanimoto(answer, truth)
    answers = [without_control_tokens(text) for text in predictions]
    return {
        "exact_match": mean_metric(exact, valid, misses),
        "bleu": bleu_metric(answers, references, 4, 1, valid, misses, variant="characters of SELFIES"),
        "levenshtein": mean_metric(distances, valid, misses),
        **{name: mean_metric(similarities[:, kind], valid, misses) for kind, name in enumerate(FINGERPRINTS)},
        "validity": mean_metric([answer is not None for answer, _ in pairs], misses=misses),
    }


def compare(prediction: str, reference: str) -> tuple[bool, float]:
    """Whether two readable answers are the same set of components, and their Morgan Tanimoto similarity (`strict`)."""
    [(answer, truth)] = strict_pairs([prediction], [reference])
    if answer.components == truth.components:
        return True, 1.0
    mols = (Chem.MolFromSmiles(molecule.skeleton) for molecule in (answer, truth))
    return False, DataStructs.TanimotoSimilarity(*map(_MORGAN.GetSparseCountFingerprint, mols))
