"""What the four modules for the library `evaluate` share: the folders `*_metrics`, each loaded by its path.

`evaluate.load("omnimol_hf/metrics/molecule_metrics").compute(predictions=..., references=..., protocol="strict")`
"""

from collections.abc import Mapping
from typing import Any

from omnimol_hf.metrics.bootstrap import Metric, summarise
from omnimol_hf.metrics.protocols import PROTOCOLS
from omnimol_hf.metrics.text import Tokenize

CITATION = """\
@article{hu2025omnimol,
  title={Omni-Mol: Exploring Universal Convergent Space for Omni-Molecular Tasks},
  author={Hu, Chengxin and Li, Hao and others},
  journal={arXiv preprint arXiv:2502.01074},
  year={2025}
}
"""
INPUTS = """
Args:
    predictions: list of str, the answers as the model gave them.
    references: list of str, the right answers, in the same order.
    protocol: "strict" (default) counts every row, an unreadable answer as a miss; "paper" computes what the authors'
        code does.
"""
RETURNS = """
Returns:
    A value for each metric (None where it is not defined), and `details`: metric -> `value`, `low` and `high` (95 %
    bootstrap interval), `n`, `misses` (reason -> rows) and, where the name leaves it open, `variant`.
"""


def check_protocol(protocol: str) -> None:
    """Raises ValueError for a protocol that there is not."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}.")


def result(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """`{metric: value, ..., "details": {metric: fields}}`, see `RETURNS`."""
    details = summarise(metrics)
    for fields in details.values():
        del fields["baseline"]
    return {**{name: fields["value"] for name, fields in details.items()}, "details": details}


def tokenizer_pieces(tokenizer: str | None) -> Tokenize | None:
    """`tokenize` of a tokenizer by name or folder; None without one."""
    if tokenizer is None:
        return None
    from transformers import AutoTokenizer  # slow to import, and `strict` needs none

    return AutoTokenizer.from_pretrained(tokenizer).tokenize
