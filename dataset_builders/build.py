"""Builds a dataset folder from a source: Parquet files, card, report and checksums, deterministic to the byte."""

import json
import multiprocessing
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builders.card import render_card
from dataset_builders.folder import REPORT, move_into_place, read_report, write_manifest
from dataset_builders.schema import FEATURES, Record, split_of, stable_hash
from dataset_builders.sources import starter
from omnimol_hf.chemistry_omnimol import graph_components, selfies_to_smiles
from omnimol_hf.tasks import TASKS

SPLITS = ("train", "test")
Rows = dict[str, dict[str, list[dict]]]
"""task -> split -> rows."""


def build_starter(
    out: Path, limit: int | None = None, workers: int | None = None, overwrite: bool = False
) -> dict[str, dict[str, int]]:
    """Builds the starter data in the folder `out` and returns the rows per task and split.

    Args:
        limit: use this many molecules, spread evenly over the source files; None: all.
        workers: processes; None: one per available core. The result does not depend on it.
        overwrite: replace `out` if it is a dataset that this version built.

    Raises:
        ValueError: if `out` exists and may not be replaced, or `limit` or `workers` is below 1.
    """
    return build(starter, Path(out), limit, workers, overwrite)


def build(
    source: ModuleType, out: Path, limit: int | None, workers: int | None, overwrite: bool
) -> dict[str, dict[str, int]]:
    """Builds one source; see `build_starter`. `source` has `NAME`, `VERSION`, `records`, `LABEL_NOTES`, `LEFT_OUT`."""
    for name, value in (("limit", limit), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected a whole number above 0, or nothing for the default.")
    _check_target(source, out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    drops: Counter = Counter()
    with _workers(workers or len(os.sched_getaffinity(0))) as executor:
        records = list(source.records(limit, executor, drops))
        rows = _rows(source.NAME, records, executor, drops)
    counts = {task: {split: len(rows[task][split]) for split in SPLITS} for task in rows}
    report = {
        "name": source.NAME,
        "version": source.VERSION,
        "limit": limit,
        "tools": {name: version(name) for name in ("rdkit", "selfies", "tblite")},
        "rows": counts,
        "left_out": source.LEFT_OUT,
        "drops": [
            {"task": task, "source": origin, "reason": reason, "count": count}
            for (task, origin, reason), count in sorted(drops.items())
        ],
    }
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        sizes = _write_parquet(aside, rows)
        (aside / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        (aside / "README.md").write_text(render_card(source, report, rows, sizes))
        write_manifest(aside)
        aside.chmod(0o755)
        move_into_place(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return counts


@contextmanager
def _workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes with one OpenMP thread each.

    More would spin against each other, and sums in tblite would depend on the core count. Children inherit the setting
    from the environment, because OpenMP reads it when torch, which comes first, is loaded. They are spawned: a forked
    child would inherit the locks of whatever threads the caller has running.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as executor:
            yield executor
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _check_target(source: ModuleType, out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(
            f"{out} exists already; choose another folder, or pass --overwrite to replace a built dataset."
        )
    report = read_report(out)
    if (report["name"], report["version"]) != (source.NAME, source.VERSION):
        raise ValueError(
            f"{out} holds {report['name']} version {report['version']}, not {source.NAME} version {source.VERSION}; "
            "remove it yourself if it is not needed."
        )


def _rows(name: str, records: Iterable[Record], executor: ProcessPoolExecutor, drops: Counter) -> Rows:
    """Gives every record its id, split, instruction and graph molecules. Of equal questions the first stays."""
    rows: Rows = {task: {split: [] for split in SPLITS} for task in TASKS}
    seen, numbers, kept = set(), Counter(), []
    for record in records:
        asked = (record.task, record.instruction, record.input, record.subset if record.task == "homo_lumo" else "")
        if asked in seen:
            drops[record.task, record.source, "the same question was asked before"] += 1
            continue
        seen.add(asked)
        numbers[record.task] += 1
        kept.append((f"{name}-{record.task}-{numbers[record.task]:06d}", record))
    graphs = [graph_components(record.input, TASKS[record.task].graph_rule) for _, record in kept]
    selfies = sorted({component for components in graphs for component in components})
    smiles = dict(zip(selfies, executor.map(selfies_to_smiles, selfies, chunksize=500), strict=True))
    for (row_id, record), components in zip(kept, graphs, strict=True):
        task = TASKS[record.task]
        rows[record.task][split_of(record.key)].append(
            {
                "id": row_id,
                "task": task.name,
                "category": task.category,
                "instruction": record.instruction or task.instruction(stable_hash(row_id), record.subset),
                "input": record.input,
                "output": record.output,
                "graph_smiles": [smiles[component] for component in components],
                **{
                    column: getattr(record, column)
                    for column in ("subset", "components", "source", "license", "label_source", "source_id")
                },
            }
        )
    return {task: splits for task, splits in rows.items() if any(splits.values())}


def _write_parquet(folder: Path, rows: Rows) -> dict[str, dict[str, int]]:
    sizes: dict[str, dict[str, int]] = {}
    for task, splits in rows.items():
        (folder / task).mkdir()
        sizes[task] = {}
        for split, split_rows in splits.items():
            table = pa.Table.from_pylist(split_rows, schema=FEATURES.arrow_schema)
            sizes[task][split] = table.nbytes
            if not split_rows:  # load_dataset cannot read a file without rows
                continue
            pq.write_table(table, folder / task / f"{split}-00000-of-00001.parquet")
    return sizes
