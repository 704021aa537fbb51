"""Writes the rows that stay as Parquet shards, `<task>/<split>-00000-of-00003.parquet`, in the order of the parts."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from dataset_builders.decontaminate import Decision
from dataset_builders.parts import Drops
from dataset_builders.schema import FEATURES, SPLITS
from omnimol_hf.tasks import ALL_TASKS

SHARD_ROWS = 200_000
ROW_GROUP_ROWS = 5_000
REPEAT = "repeats an earlier row of its split"
LEAK = "its molecule or reaction is in a test or validation split"


def count_rows(keys: pa.Table, keep: np.ndarray) -> dict:
    """`rows`: task -> split -> count; `rows_by_source`: a list of the same with the source."""
    kept = keys.select(["task", "source", "split"]).filter(pa.array(keep))
    counts = {
        (row["task"], row["source"], row["split"]): row["task_count"]
        for row in kept.group_by(["task", "source", "split"]).aggregate([("task", "count")]).to_pylist()
    }
    sources = dict.fromkeys(keys["source"].cast(pa.string()).unique().to_pylist())
    by_source = [
        {"source": source, "task": task, "split": split, "rows": counts[task, source, split]}
        for source in sources
        for task in ALL_TASKS
        for split in SPLITS
        if (task, source, split) in counts
    ]
    rows: dict[str, dict[str, int]] = {}
    for task in ALL_TASKS:
        sums = {
            split: sum(entry["rows"] for entry in by_source if (entry["task"], entry["split"]) == (task, split))
            for split in SPLITS
        }
        if any(sums.values()):
            rows[task] = sums
    return {"rows": rows, "rows_by_source": by_source}


def write_shards(folder: Path, parts: list[Path], decision: Decision, drops: Drops) -> None:
    """Writes the rows to keep and counts the others in `drops`."""
    writer = _Writer(folder)
    start = 0
    for part in tqdm(parts, "writing", unit="part"):
        table = pq.read_table(part)
        here = slice(start, start := start + len(table))
        keep = decision.keep[here]
        _count_drops(table.filter(pa.array(~keep)), decision.repeats[here][~keep], drops)
        writer.add(table.filter(pa.array(keep)))
    writer.close()


def _count_drops(table: pa.Table, repeats: np.ndarray, drops: Drops) -> None:
    columns = (table[name].to_pylist() for name in ("task", "source", "source_id"))
    for task, source, source_id, repeat in zip(*columns, repeats, strict=True):
        drops.add(task, source, REPEAT if repeat else LEAK, source_id)


class _Writer:
    """Collects rows until they fill a row group; memory does not grow with the dataset."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.waiting: dict[tuple[str, str], list[pa.Table]] = defaultdict(list)
        self.written: Counter = Counter()
        self.files: dict[tuple[str, str], list[Path]] = defaultdict(list)
        self.open: dict[tuple[str, str], pq.ParquetWriter] = {}

    def add(self, table: pa.Table) -> None:
        names = table.select(["task", "split"])
        for name in names.group_by(["task", "split"]).aggregate([]).to_pylist():
            mask = pc.and_(pc.equal(table["task"], name["task"]), pc.equal(table["split"], name["split"]))
            key = (name["task"], name["split"])
            self.waiting[key].append(table.filter(mask).select(FEATURES.arrow_schema.names))
            while sum(map(len, self.waiting[key])) >= ROW_GROUP_ROWS:
                rows = pa.concat_tables(self.waiting[key])
                self._write(key, rows.slice(0, ROW_GROUP_ROWS))
                self.waiting[key] = [rows.slice(ROW_GROUP_ROWS)]

    def _write(self, key: tuple[str, str], rows: pa.Table) -> None:
        if self.written[key] % SHARD_ROWS == 0:
            if key in self.open:
                self.open.pop(key).close()
            task, split = key
            (self.folder / task).mkdir(exist_ok=True)
            path = self.folder / task / f"{split}-{len(self.files[key]):05d}.unfinished"
            self.files[key].append(path)
            self.open[key] = pq.ParquetWriter(path, FEATURES.arrow_schema)
        self.open[key].write_table(rows.cast(FEATURES.arrow_schema))
        self.written[key] += len(rows)

    def close(self) -> None:
        for key, tables in self.waiting.items():
            if rest := pa.concat_tables(tables):
                self._write(key, rest)
        for writer in self.open.values():
            writer.close()
        for (_, split), paths in self.files.items():
            for number, path in enumerate(paths):
                path.rename(path.with_name(f"{split}-{number:05d}-of-{len(paths):05d}.parquet"))
