"""`molecule_metrics` for the library `evaluate`: a thin cover over `omnimol_hf.metrics.molecules`."""

from typing import Any

import datasets
import evaluate

from omnimol_hf.metrics.modules import CITATION, INPUTS, RETURNS, check_protocol, result
from omnimol_hf.metrics.molecules import molecule_metrics, paper_molecule_metrics

_DESCRIPTION = """\
Scores of molecules written as SELFIES, several joined by ".": exact match (canonical SMILES and InChI, with and
without stereochemistry, as sets of components), BLEU, Levenshtein distance, RDK, MACCS and Morgan Tanimoto similarity,
validity.
"""


class MoleculeMetrics(evaluate.Metric):
    """See `_DESCRIPTION`."""

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS + RETURNS,
            features=datasets.Features({"predictions": texts, "references": texts}),
        )

    def _compute(self, predictions: list[str], references: list[str], protocol: str = "strict") -> dict[str, Any]:
        check_protocol(protocol)
        if protocol == "strict":
            return result(molecule_metrics(predictions, references))
        return result(paper_molecule_metrics(predictions, references))
