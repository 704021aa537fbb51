"""Rows of sources that state no licence: others may not have the right to pass them on, so they stay at home."""

import copy
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset_builders.schema import SPLITS
from dataset_builders.source import NOT_STATED

Unlicensed = dict[tuple[str, str, str], int]
"""(task, split, source) -> rows whose source states no licence."""


def count_unlicensed(path: Path) -> Unlicensed:
    """Counts the rows without a stated licence in a built dataset."""
    counts: Counter = Counter()
    for file in _shards(path):
        table = pq.read_table(file, columns=["source"], filters=pc.field("license") == NOT_STATED)
        for source in table["source"].value_counts().to_pylist():
            counts[file.parent.name, file.name.split("-")[0], source["values"]] += source["counts"]
    return dict(counts)


def licensed_copy(path: Path, folder: Path, report: dict, unlicensed: Unlicensed) -> None:
    """Makes a folder of the rows that have a licence, and describes it anew.

    Shards that keep all rows are linked, not copied; of the others a row group at a time is in memory. The report
    counts what is left, and lists under `unlicensed` what is not.

    Args:
        path: a built dataset.
        folder: an empty folder.
        report: that of `path`; stays as it is.
        unlicensed: see `count_unlicensed`.

    Raises:
        ValueError: if no row is left.
    """
    from dataset_builders.finish import finish

    touched = {(task, split) for task, split, _ in unlicensed}
    report = _report_without(unlicensed, report)
    for task in report["rows"]:
        (folder / task).mkdir()
        for split in SPLITS:
            made = []
            for file in _shards(path, task, split):
                aside = folder / task / f"{split}-{len(made):05d}.unfinished"
                if (task, split) not in touched:
                    aside.symlink_to(file.resolve())
                elif not _copy_licensed(file, aside):
                    continue
                made.append(aside)
            for number, aside in enumerate(made):
                aside.rename(aside.with_name(f"{split}-{number:05d}-of-{len(made):05d}.parquet"))
    finish(folder, report)


def _shards(path: Path, task: str = "*", split: str = "*") -> list[Path]:
    return sorted(path.glob(f"{task}/{split}-*.parquet"))


def _copy_licensed(file: Path, target: Path) -> bool:
    """Copies the rows with a licence; False, and no file, if there are none."""
    kept = 0
    with pq.ParquetFile(file) as source, pq.ParquetWriter(target, source.schema_arrow) as writer:
        for number in range(source.num_row_groups):
            table = source.read_row_group(number)
            table = table.filter(pc.not_equal(table["license"], NOT_STATED))
            kept += len(table)
            if len(table):
                writer.write_table(table)
    if not kept:
        target.unlink()
    return kept > 0


def _report_without(unlicensed: Unlicensed, report: dict) -> dict:
    report = copy.deepcopy(report)
    for (task, split, source), count in unlicensed.items():
        report["rows"][task][split] -= count
        for entry in report["rows_by_source"]:
            if (entry["task"], entry["split"], entry["source"]) == (task, split, source):
                entry["rows"] -= count
    gone = [task for task, splits in report["rows"].items() if not any(splits.values())]
    for task in gone:
        del report["rows"][task]
        sources = sorted({source for of, _, source in unlicensed if of == task})
        report["left_out"][task] = f"its rows are of {', '.join(sources)}, which states no licence"
    if not report["rows"]:
        raise ValueError("all rows are of sources that state no licence; nothing is left to publish")
    report["rows_by_source"] = [entry for entry in report["rows_by_source"] if entry["rows"]]
    emptied = {source for _, _, source in unlicensed} - {entry["source"] for entry in report["rows_by_source"]}
    report["sources"] = [name for name in report["sources"] if name not in emptied]
    report["unlicensed"] = [
        {"source": source, "task": task, "split": split, "rows": count}
        for (task, split, source), count in sorted(unlicensed.items())
    ]
    return report
