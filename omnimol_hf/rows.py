"""Dataset rows for training and scoring: the starter data, a folder or hub id, or a file of the user's own."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets, get_dataset_config_names, load_dataset
from rdkit import Chem

from omnimol_hf.chemistry_omnimol import graph_components, selfies_to_smiles
from omnimol_hf.tasks import ALL_TASKS

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
REQUIRED = ("task", "instruction", "input", "output")
COLUMNS = (*REQUIRED, "id", "graph_smiles", "subset")


def load_splits(source: str, tasks: Collection[str] | None = None) -> DatasetDict:
    """The splits of a dataset, as they are; a file has only `train`.

    Args:
        source: a JSONL, JSON, CSV or Parquet file; or a folder or hub id that `load_dataset` takes.
        tasks: only these are wanted: where each has a configuration of its own, no others are read.

    Raises:
        FileNotFoundError: if there is no such file or dataset.
    """
    path = Path(source)
    if path.suffix in READERS:
        if not path.is_file():
            raise FileNotFoundError(f"there is no dataset file {source}")
        return load_dataset(READERS[path.suffix], data_files=source)
    if not tasks or not set(tasks) <= set(get_dataset_config_names(source)):
        return load_dataset(source)
    parts: dict[str, list[Dataset]] = {}
    for task in sorted(tasks):
        for split, rows in load_dataset(source, task).items():
            parts.setdefault(split, []).append(rows)
    return DatasetDict({split: concatenate_datasets(rows) for split, rows in parts.items()})


def load_rows(source: str, tasks: Collection[str] | None = None) -> DatasetDict:
    """The rows of a dataset, with the columns `COLUMNS` and the splits `train` and `test`.

    Args:
        source, tasks: see `load_splits`. Rows need the columns `REQUIRED`; `graph_smiles` is worked out from `input`
            by the task's rule when it is missing. Without a test split, every tenth row of a task is held out.

    Raises:
        ValueError: for a missing column, an unknown task, or an unreadable molecule: it names the file and the row.
    """
    splits = load_splits(source, tasks)
    names = {name: source if Path(source).is_file() else f"{source} ({name})" for name in splits}
    splits = DatasetDict({name: _complete(rows, names[name]) for name, rows in splits.items()})
    return splits if "test" in splits else _hold_out(splits["train"])


def _complete(rows: Dataset, source: str) -> Dataset:
    """Check the columns and add those that can be worked out."""
    if missing := [name for name in REQUIRED if name not in rows.column_names]:
        raise ValueError(f"{source} has no column {missing}; it needs {list(REQUIRED)} and has {rows.column_names}")
    for number, task in enumerate(rows["task"]):
        if task not in ALL_TASKS:
            raise ValueError(f"{source}, row {number}: unknown task {task!r}; expected one of {list(ALL_TASKS)}")
    if "graph_smiles" not in rows.column_names:
        rows = rows.map(_with_graph, with_indices=True, fn_kwargs={"source": source}, desc="Finding molecules")
    for name in ("id", "subset"):
        if name not in rows.column_names:
            values = [f"row-{i}" if name == "id" else "" for i in range(len(rows))]
            rows = rows.add_column(name, values)
    return rows.select_columns(list(COLUMNS))


def _with_graph(row: dict[str, Any], number: int, source: str) -> dict[str, list[str]]:
    try:
        parts = graph_components(row["input"], ALL_TASKS[row["task"]].graph_rule)
        return {"graph_smiles": [selfies_to_smiles(part) for part in parts]}
    except ValueError as error:
        raise ValueError(f"{source}, row {number} (task {row['task']}): {error}") from error


def _hold_out(rows: Dataset) -> DatasetDict:
    seen = dict.fromkeys(ALL_TASKS, 0)
    parts: dict[str, list[int]] = {"train": [], "test": []}
    for number, task in enumerate(rows["task"]):
        seen[task] += 1
        parts["test" if seen[task] % 10 == 0 else "train"].append(number)
    return DatasetDict({name: rows.select(numbers) for name, numbers in parts.items()})


def heavy_atoms(smiles: list[str]) -> int:
    """Heavy atoms of the largest molecule of a row; 0 without molecules."""
    mols = (Chem.MolFromSmiles(one, sanitize=False) for one in smiles)
    return max((mol.GetNumHeavyAtoms() for mol in mols), default=0)


def choose_rows(
    rows: Dataset, seed: int, at_most: dict[str, int] | int | None = None, max_heavy_atoms: int | None = None
) -> Dataset:
    """A seeded shuffle of the rows, of small molecules only and so many a task at most.

    Args:
        at_most: rows of each task, or of every task; None: all.
        max_heavy_atoms: of every molecule that becomes a graph; None: any.
    """
    rows = rows.shuffle(seed=seed)
    kept, count = [], dict.fromkeys(ALL_TASKS, 0)
    for number, (task, smiles) in enumerate(zip(rows["task"], rows["graph_smiles"], strict=True)):
        limit = at_most.get(task, 0) if isinstance(at_most, dict) else at_most
        if limit is not None and count[task] >= limit:
            continue
        if max_heavy_atoms is None or heavy_atoms(smiles) <= max_heavy_atoms:
            count[task] += 1
            kept.append(number)
    return rows.select(kept)


def by_task(rows: Dataset) -> dict[str, Dataset]:
    """The rows of each task, tasks in the order of the paper's tables."""
    places: dict[str, list[int]] = {}
    for number, task in enumerate(rows["task"]):
        places.setdefault(task, []).append(number)
    return {task: rows.select(places[task]) for task in ALL_TASKS if task in places}
