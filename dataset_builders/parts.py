"""A build's intermediate files: every few thousand records become one Parquet file of rows and their keys.

Workers write them aside and rename them: a part is there whole or not at all. An interrupted build goes on with
the first part that is missing.
"""

import json
import multiprocessing
import os
import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builders.clean import Origin, clean
from dataset_builders.schema import FEATURES, Drop, Record

RECORDS = 4_000
"""Records of a part."""

EXAMPLES = 3
"""Dropped records that are named for each reason."""

_KEYS = [("split", pa.string()), ("published", pa.bool_()), ("repeat", pa.uint64()), ("reaction", pa.bool_())]
_KEYS += [("subject", pa.uint64()), ("subject_skeleton", pa.uint64())]
_KEYS += [(name, pa.list_(pa.uint64())) for name in ("given", "known", "given_skeletons")]
SCHEMA = pa.schema([*FEATURES.arrow_schema, *_KEYS])
KEYS = ["task", "source", *(name for name, _ in _KEYS)]


class Drops:
    """Counts what was dropped by task, source and reason, with a few examples of each."""

    def __init__(self) -> None:
        self.counts: Counter = Counter()
        self.examples: dict[tuple[str, str, str], list[str]] = {}

    def add(self, task: str, source: str, reason: str, example: str = "", count: int = 1) -> None:
        """Counts `count` more; `example` says where one of them stands."""
        key = (task, source, reason)
        self.counts[key] += count
        examples = self.examples.setdefault(key, [])
        if example and example not in examples and len(examples) < EXAMPLES:
            examples.append(example)

    def merge(self, listed: list[dict]) -> None:
        """Adds what `listed` gave elsewhere."""
        for drop in listed:
            self.add(drop["task"], drop["source"], drop["reason"], count=drop["count"])
            examples = self.examples[drop["task"], drop["source"], drop["reason"]]
            examples += drop["examples"][: EXAMPLES - len(examples)]

    def listed(self) -> list[dict]:
        """As plain data, sorted."""
        return [
            {"task": task, "source": source, "reason": reason, "count": count, "examples": self.examples[key]}
            for key, count in sorted(self.counts.items())
            for task, source, reason in [key]
        ]


def write_part(path: Path, origin: Origin, items: list[tuple[str, Record] | Drop], skeletons: bool) -> None:
    """Cleans the items, each a row id with its record, or a drop, and writes those that become rows."""
    rows, drops = [], Drops()
    for item in items:
        result = item if isinstance(item, Drop) else clean(*item, origin, skeletons)
        if isinstance(result, Drop):
            place = f"{origin.file}#{result.place}" if origin.file else result.place
            drops.add(result.task, result.source or origin.source, result.reason, place)
        else:
            rows.append(result)
    schema = SCHEMA.with_metadata({"drops": json.dumps(drops.listed()), "records": str(len(items))})
    aside = path.with_suffix(f".{os.getpid()}.unfinished")
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), aside, compression="zstd")
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def read_keys(parts: list[Path]) -> pa.Table:
    """The keys of all rows, parts one after the other: some 100 bytes a row."""
    tables = [pq.read_table(part, columns=KEYS, read_dictionary=["task", "source", "split"]) for part in parts]
    return pa.concat_tables(tables).unify_dictionaries()


def read_drops(parts: list[Path]) -> tuple[Drops, list[int]]:
    """What was dropped while the parts were made, and the records that each part was made of."""
    drops, records = Drops(), []
    for part in parts:
        metadata = pq.read_schema(part).metadata
        drops.merge(json.loads(metadata[b"drops"]))
        records.append(int(metadata[b"records"]))
    return drops, records


def end_with_parent() -> None:
    """A killed build takes its workers along: they would wait for work forever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
