"""Success rates of molecule editing, an extra task: drug-likeness and similarity to the reference.

The authors' code has a third, DRD2 activity by a trained network that is not published with it; it is left out.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import QED, rdFingerprintGenerator

from omnimol_hf.metrics.bootstrap import Metric, mean_metric
from omnimol_hf.metrics.molecules import Pair, left_out, paper_pairs, strict_misses, strict_pairs

LEAST_QED = 0.6
LEAST_SIMILARITY = 0.4
_MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


@lru_cache(maxsize=1 << 14)
def _qed_and_bits(smiles: str) -> tuple[float, DataStructs.ExplicitBitVect]:
    mol = Chem.MolFromSmiles(smiles)
    return (QED.qed(mol) if mol.GetNumAtoms() else 0.0), _MORGAN.GetFingerprint(mol)


def _successes(pairs: Sequence[Pair], counts: np.ndarray) -> dict[str, np.ndarray]:
    drug_like, similar = np.zeros(len(pairs)), np.zeros(len(pairs))
    with rdBase.BlockLogs():
        for row in np.flatnonzero(counts):
            (qed, bits), (_, true_bits) = (_qed_and_bits(molecule.smiles) for molecule in pairs[row])
            drug_like[row] = qed >= LEAST_QED
            similar[row] = DataStructs.TanimotoSimilarity(bits, true_bits) >= LEAST_SIMILARITY
    return {"success_qed": drug_like, "success_similarity": similar}


def editing_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Metric]:
    """`strict`: `success_qed`, the share of answers with QED >= 0.6, and `success_similarity`, that of answers whose
    Morgan bits (radius 2, 2048) have a Tanimoto similarity >= 0.4 to the reference's; a miss is no success."""
    pairs = strict_pairs(predictions, references)
    misses = strict_misses(predictions, pairs)
    readable = np.array([answer is not None for answer, _ in pairs])
    return {name: mean_metric(values, misses=misses) for name, values in _successes(pairs, readable).items()}


def paper_editing_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Metric]:
    """`paper`: the same over valid answers, without stereochemistry, as with all of the authors' molecule scores."""
    pairs, valid = paper_pairs(predictions, references)
    return {name: mean_metric(values, valid, left_out(valid)) for name, values in _successes(pairs, valid).items()}
