"""The baseline's scores of reactions: two passes over the rows, each of which reads every answer and truth anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import selfies
from nltk.translate.bleu_score import corpus_bleu
from rapidfuzz.distance import Levenshtein
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import MACCSkeys, rdFingerprintGenerator


def _flat_smiles(text: str) -> str | None:
    """Canonical SMILES without stereochemistry, or None where the text is no molecule."""
    try:
        mol = Chem.MolFromSmiles(selfies.decoder(text))
        flat = None if mol is None else Chem.MolToSmiles(mol, isomericSmiles=False)
        return None if flat is None or Chem.MolFromSmiles(flat) is None else flat
    except selfies.DecoderError:
        return None


def _texts(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    answers, truths, equal, distances = [], [], [], []
    for prediction, reference in zip(predictions, references, strict=True):
        answer, truth = _flat_smiles(prediction), _flat_smiles(reference)
        if answer is None or truth is None:
            continue
        answers.append(list(prediction))
        truths.append([list(reference)])
        inchis = [Chem.MolToInchi(Chem.MolFromSmiles(one)) for one in (answer, truth)]
        equal.append(inchis[0] == inchis[1])
        distances.append(Levenshtein.distance(answer, truth))
    return {
        "exact_match": float(np.mean(equal)),
        "bleu": corpus_bleu(truths, answers),
        "levenshtein": float(np.mean(distances)),
    }


def _fingerprints(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    pairs = []
    for prediction, reference in zip(predictions, references, strict=True):
        answer, truth = _flat_smiles(prediction), _flat_smiles(reference)
        if answer is not None and truth is not None:
            pairs.append((Chem.MolFromSmiles(answer), Chem.MolFromSmiles(truth)))
    similar = DataStructs.TanimotoSimilarity
    morgan = rdFingerprintGenerator.GetMorganGenerator(radius=2).GetSparseCountFingerprint
    kinds = {"rdk": Chem.RDKFingerprint, "maccs": MACCSkeys.GenMACCSKeys, "morgan": morgan}
    return {
        **{name: float(np.mean([similar(make(a), make(b)) for a, b in pairs])) for name, make in kinds.items()},
        "validity": len(pairs) / len(predictions),
    }


def reaction_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """What `omnimol_hf.metrics` calls the protocol `paper`, for answers that are molecules."""
    with rdBase.BlockLogs():
        return _texts(predictions, references) | _fingerprints(predictions, references)
