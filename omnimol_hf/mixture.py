"""Which rows there are to train on: a share of each task's rows, as the paper's studies take them.

Not to be confused with the weights of `omnimol_hf.sampling`, which say how often a task is drawn from these rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset, DatasetDict

from omnimol_hf.rows import load_splits
from omnimol_hf.tasks import ALL_TASKS

PROPORTIONS = (0.2, 0.4, 0.6, 1.0)
"""The shares of the whole data in the study of data scaling (Section 4.3, Figure 4)."""

TASK_LADDER: dict[int, tuple[str, ...]] = {
    1: ("reagent_prediction",),
    2: ("reagent_prediction", "molecular_captioning"),
    4: ("reagent_prediction", "molecular_captioning", "solvent_prediction", "catalyst_prediction"),
    8: (
        "reagent_prediction",
        "molecular_captioning",
        "solvent_prediction",
        "catalyst_prediction",
        "forward_prediction",
        "retrosynthesis",
        "homo_lumo",
        "yield_regression",
    ),
}
"""The tasks of the study of task scaling (Appendix C.5): number of tasks -> their names, each set within the next."""

AUTHORS_KEYS: dict[str, tuple[str, str]] = {
    "forward": ("forward_prediction", ""),
    "reagent": ("reagent_prediction", ""),
    "solvent": ("solvent_prediction", ""),
    "catalyst": ("catalyst_prediction", ""),
    "yield": ("yield_regression", ""),
    "yield_BH": ("yield_regression", "B-H"),
    "yield_SM": ("yield_regression", "S-M"),
    "homolumo": ("homo_lumo", ""),
    "scf": ("scf_energy", ""),
    "weight": ("molecular_weight", ""),
    "molcap": ("molecular_captioning", ""),
    "dqa": ("description_qa", ""),
    "experiment": ("experiment_procedure", ""),
    "iupac": ("iupac_to_selfies", ""),
    "textguidedmolgen": ("text_guided_generation", ""),
    "molediting": ("molecule_editing", ""),
    "pubchem": ("alignment", ""),
}
"""What the authors' scripts call a task, where it differs from ours -> our task, and the subset if it is not all."""


class Share(NamedTuple):
    """`weight`, in [0, 1], of the rows of `task`; of those with this `subset` only, unless it is empty."""

    task: str
    subset: str
    weight: float


def parse_mixture(spec: str | Iterable[str]) -> list[Share]:
    """Read a mixture, `task:weight/task:weight/...` or a list of its items; without `:weight` a task comes whole.

    Tasks go by our names or by the authors' (`AUTHORS_KEYS`).

    Raises:
        ValueError: naming the item that is no `task:weight`, and what was expected.
    """
    shares: list[Share] = []
    for item in spec.split("/") if isinstance(spec, str) else spec:
        name, colon, text = item.partition(":")
        task, subset = AUTHORS_KEYS.get(name, (name, ""))
        if task not in ALL_TASKS:
            known = ", ".join([*ALL_TASKS, *AUTHORS_KEYS])
            raise ValueError(f"mixture item {item!r} names no task; expected task:weight with a task of {known}")
        try:
            weight = float(text) if colon else 1.0
        except ValueError:
            weight = -1.0
        if not 0 <= weight <= 1:
            raise ValueError(f"mixture item {item!r} has the weight {text!r}; expected a number from 0 to 1")
        if any(one.task == task and (one.subset == subset or "" in (one.subset, subset)) for one in shares):
            raise ValueError(f"mixture item {item!r} names rows of {task} a second time")
        shares.append(Share(task, subset, weight))
    return shares


def load_mixture(
    source: str | Path | DatasetDict | Dataset,
    spec: str | Iterable[str] | None = None,
    split: str = "train",
    proportion: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """Uniform random subsets of tasks, for example `load_mixture(repo, "forward:1/reagent:0.5", proportion=0.4)`.

    Of each task, `round(weight * proportion * its rows)` rows, those whose ids hash lowest with the seed. So a row's
    fate depends on its id and the seed alone, not on the order or number of other rows, and the rows of a smaller
    weight or proportion are among those of a larger one.

    Args:
        source: a folder, hub id or file that `omnimol_hf.rows` reads, or its rows. Rows need the columns `id`, `task`.
        spec: see `parse_mixture`; `TASK_LADDER` holds the paper's sets. None: all rows, whatever their task.
        split: of a source that has splits.
        proportion: of each task, above 0 and up to 1; those of the paper are `PROPORTIONS`.
        seed: another seed gives other rows.

    Returns:
        The rows in the order of the source.

    Raises:
        ValueError: for a bad item, proportion or split, a task without rows, or an id that is there twice.
    """
    shares = None if spec is None else parse_mixture(spec)
    if not 0 < proportion <= 1:
        raise ValueError(f"the proportion is {proportion}; expected a number above 0 and up to 1, such as 0.2")
    if isinstance(source, str | Path):
        source = load_splits(str(source), shares and {share.task for share in shares})
    if isinstance(source, DatasetDict):
        if split not in source:
            raise ValueError(f"there is no split {split!r}; the splits are {', '.join(source)}")
        source = source[split]
    tasks = np.array(source["task"][:])
    shares = shares or [Share(str(task), "", 1.0) for task in np.unique(tasks)]
    order = _order(source["id"][:], seed)
    kept = []
    for task, subset, weight in shares:
        belongs = tasks == task
        if subset:
            belongs &= np.array(source["subset"][:]) == subset
        if not belongs.any():
            name = f"{task} ({subset})" if subset else task
            raise ValueError(f"there are no rows of {name} in {split}; there are of {', '.join(np.unique(tasks))}")
        kept.append(order[belongs[order]][: round(weight * proportion * belongs.sum())])
    return source.select(np.sort(np.concatenate(kept)))


def _order(ids: list[str], seed: int) -> np.ndarray:
    """The numbers of the rows, sorted by a hash of seed and id."""
    if len(set(ids)) < len(ids):
        raise ValueError("two rows have the same id; a subset of rows is chosen by their ids")
    hashes = [hashlib.blake2b(f"{seed} {one}".encode(), digest_size=8).digest() for one in ids]
    return np.frombuffer(b"".join(hashes), dtype=">u8").argsort(kind="stable")
