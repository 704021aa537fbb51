"""The last step of a build: describes and checks the rows as written; adds figures, report, card and checksums."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from dataset_builders.card import render_card
from dataset_builders.checks import Checks
from dataset_builders.folder import REPORT, write_manifest
from dataset_builders.plots import draw_figures
from dataset_builders.statistics import TaskStatistics, read_numbers
from omnimol_hf.tasks import ALL_TASKS


def finish(folder: Path, report: dict) -> None:
    """Adds figures, `build_report.json`, `README.md` and `SHA256SUMS` to a folder of Parquet shards, or renews them.

    The shards are streamed once, row group by row group.

    Args:
        report: what `build` knows; gets `statistics` and `checks` added.

    Raises:
        ValueError: if the shards do not hold the rows that the report counts.
    """
    statistics, report["checks"] = _measure(folder, report["rows"])
    report["statistics"] = {task: found.summary() for task, found in statistics.items()}
    draw_figures(folder / "figures", statistics, report)
    (folder / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (folder / "README.md").write_text(render_card(report))
    write_manifest(folder)


def _measure(folder: Path, rows: dict[str, dict[str, int]]) -> tuple[dict[str, TaskStatistics], dict]:
    statistics = {name: TaskStatistics(ALL_TASKS[name]) for name in rows}
    checks = Checks(rows)
    total = sum(sum(splits.values()) for splits in rows.values())
    with tqdm(total=total, desc="describing", unit="row", unit_scale=True) as bar:
        for name, splits in rows.items():
            task = ALL_TASKS[name]
            for split, count in splits.items():
                found = 0
                for table in _tables(folder / name, split):
                    values = read_numbers(table["output"]) if task.answer == "number" else None
                    statistics[name].add(split, table, values)
                    checks.add(task, table, values)
                    found += len(table)
                    bar.update(len(table))
                if found != count:
                    raise ValueError(f"{folder / name} holds {found} {split} rows; the report counts {count}.")
    return statistics, checks.result()


def _tables(folder: Path, split: str) -> Iterator[pa.Table]:
    """The rows of a split, a row group at a time."""
    for path in sorted(folder.glob(f"{split}-*.parquet")):
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number)
