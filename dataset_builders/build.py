"""Builds a dataset folder: Parquet shards, card, report and checksums; deterministic to the byte, in three steps.

1. Sources are read one record at a time and cleaned in worker processes, into parts (`parts.py`).
2. The keys of all rows decide which stay (`decontaminate.py`).
3. Those are written as shards, task by task, and described (`finish.py`).

Everything is made in a work folder beside the result, which gets its name in one step at the end. An interrupted build
leaves the work folder; the same command goes on from the parts in it.
"""

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from dataset_builders.clean import Origin
from dataset_builders.decontaminate import LEVELS, decide
from dataset_builders.finish import finish
from dataset_builders.folder import move_into_place, read_report, sha256
from dataset_builders.parts import RECORDS, Drops, end_with_parent, read_drops, read_keys, write_part
from dataset_builders.schema import Drop, Record
from dataset_builders.shards import count_rows, write_shards
from omnimol_hf.tasks import ALL_TASKS

NAME = "omni-mol-instruct"
VERSION = "1"
Items = Iterator[Record | Drop]


@dataclass(frozen=True)
class Stream:
    """Records of one origin. `path`: the file they are read from; None if they are generated."""

    origin: Origin
    path: Path | None
    items: Callable[[Executor, Drops], Items]


@dataclass(frozen=True)
class Options:
    """How to build.

    Attributes:
        level: How train rows are kept apart from held-out ones, see `decontaminate.py`.
        limit: Use so many records of each file (or molecules of the starter data) only; None: all.
        workers: Processes; None: one per available core. The result does not depend on it.
        overwrite: Replace the folder if it is a dataset that this version built.

    Raises:
        ValueError: for an unknown level, or a `limit` or `workers` below 1.
    """

    level: str = "exact"
    limit: int | None = None
    workers: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level is {self.level!r}; expected one of {', '.join(LEVELS)}")
        for name in ("limit", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected a whole number above 0, or nothing for the default.")


def build_starter(out: Path, options: Options = Options()) -> dict:
    """Builds the starter data in the folder `out` and returns the report; raises as `build_published`."""
    from dataset_builders.sources import starter

    def items(executor: Executor, drops: Drops) -> Items:
        dropped: Counter = Counter()
        yield from starter.records(options.limit, executor, dropped)
        for (task, source, reason), count in dropped.items():
            drops.add(task, source, reason, count=count)

    origin = Origin(starter.SOURCE.name, starter.SOURCE.license, "")
    report = {"name": "starter", "version": starter.VERSION, "sources": ["starter"], "left_out": starter.LEFT_OUT}
    return _build(Path(out), [Stream(origin, None, items)], report, options, ("tblite",))


def build_published(raw: Path, out: Path, names: list[str] | None = None, options: Options = Options()) -> dict:
    """Builds the dataset in the folder `out` from publishers' files in `raw/<source>/`, and returns the report.

    Args:
        names: sources to use; None: all that have files in `raw`.

    Raises:
        ValueError: if `out` exists and may not be replaced, a source is unknown or has no files, or a file is broken.
        OSError: if a file cannot be read or written.
    """
    from dataset_builders.sources import SOURCES

    raw, out = Path(raw), Path(out)
    if not raw.is_dir():
        raise ValueError(f"{raw} is not a folder; expected one with a folder of raw files for each source.")
    present = {name: files for name, module in SOURCES.items() if (files := module.SOURCE.present(raw))}
    if unknown := [name for name in names or () if name not in SOURCES]:
        raise ValueError(
            f"unknown source {', '.join(unknown)}; known: {', '.join(SOURCES)}, and starter without --raw"
        )
    chosen = [name for name in SOURCES if name in (names or present)]
    if missing := [name for name in chosen if name not in present]:
        wanted = "; ".join(f"{raw / name}: {', '.join(SOURCES[name].SOURCE.files)}" for name in missing)
        raise ValueError(f"no files of {', '.join(missing)}. Expected in {wanted}")
    if not chosen:
        raise ValueError(f"{raw} has no files of any source; expected folders named {', '.join(SOURCES)}.")
    streams = []
    for name in chosen:
        source = SOURCES[name].SOURCE
        for path in present[name]:
            origin = Origin(name, source.license, path.relative_to(raw).as_posix())
            streams.append(Stream(origin, path, partial(_first_records, SOURCES[name].read, path, options.limit)))
    feeds = {task: [name for name in SOURCES if task in SOURCES[name].SOURCE.tasks] for task in ALL_TASKS}
    left_out = {
        task: f"no files of a source that feeds it ({', '.join(sources) or 'none is known'})"
        for task, sources in feeds.items()
        if not set(sources) & set(chosen)
    }
    report = {"name": NAME, "version": VERSION, "sources": chosen, "left_out": left_out}
    report["missing_sources"] = {
        name: sorted(module.SOURCE.tasks) for name, module in SOURCES.items() if name not in chosen
    }
    return _build(out, streams, report, options)


def _first_records(read: Callable[[Path], Items], path: Path, limit: int | None, *_: object) -> Items:
    return islice(read(path), limit)


def _build(out: Path, streams: list[Stream], report: dict, options: Options, tools: tuple[str, ...] = ()) -> dict:
    _check_target(out, report, options.overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    inputs = [
        {"source": stream.origin.source, "file": stream.origin.file, "bytes": stream.path.stat().st_size}
        | {"sha256": sha256(stream.path)}
        for stream in streams
        if stream.path
    ]
    report |= {
        "level": options.level,
        "limit": options.limit,
        "tools": {name: version(name) for name in ("rdkit", "selfies", "pyarrow", *tools)},
    }
    with _work_folder(out, {**report, "level": options.level == "strict", "inputs": inputs}) as work:
        drops = Drops()
        streamed = _make_parts(work / "parts", streams, drops, options)
        parts = [part for stream in streamed for part in stream]
        dropped, records = read_drops(parts)
        drops.merge(dropped.listed())
        numbers = iter(records)
        for entry, stream_parts in zip(inputs, streamed, strict=False):
            entry["records"] = sum(islice(numbers, len(stream_parts)))
        keys = read_keys(parts)
        decision = decide(keys, options.level, list(ALL_TASKS))
        result = work / "result"
        shutil.rmtree(result, ignore_errors=True)
        result.mkdir()
        write_shards(result, parts, decision, drops)
        report |= count_rows(keys, decision.keep)
        for task in ALL_TASKS:
            if task not in report["rows"]:
                report["left_out"].setdefault(task, "all its records were dropped")
        report |= {"inputs": inputs, "drops": drops.listed()}
        report["overlaps"] = {"before": decision.before, "after": decision.after}
        if not report["rows"]:
            raise ValueError("no record gave a row: " + json.dumps(report["drops"][:10]))
        finish(result, report)
        move_into_place(result, out)
    return report


# --- parts -----------------------------------------------------------------------------------------------------------


def _make_parts(folder: Path, streams: list[Stream], drops: Drops, options: Options) -> list[list[Path]]:
    """The part files of every stream; only those that are missing are made."""
    folder.mkdir(exist_ok=True)
    ids: Counter = Counter()
    parts: list[list[Path]] = []
    workers = options.workers or len(os.sched_getaffinity(0))
    generated = any(stream.path is None for stream in streams)
    with _workers(workers, generated) as executor, tqdm(desc="records", unit="", unit_scale=True) as bar:
        pending: deque[Future] = deque()
        for number, stream in enumerate(streams):
            parts.append([])
            bar.set_postfix_str(stream.origin.file or stream.origin.source)
            items = _with_ids(stream.items(executor, drops), stream.origin.source, ids)
            while chunk := list(islice(items, RECORDS)):
                part = folder / f"{number:04d}-{len(parts[-1]):05d}.parquet"
                parts[-1].append(part)
                bar.update(len(chunk))
                if not part.exists():
                    pending.append(executor.submit(write_part, part, stream.origin, chunk, options.level == "strict"))
                while len(pending) > 2 * workers:
                    pending.popleft().result()
        for future in pending:
            future.result()
    return parts


def _with_ids(items: Items, source: str, ids: Counter) -> Iterator[tuple[str, Record] | Drop]:
    """Numbers the records of a task as they are read: an id does not depend on what is dropped later."""
    for item in items:
        if isinstance(item, Drop):
            yield item
        else:
            ids[source, item.task] += 1
            yield f"{source}-{item.task}-{ids[source, item.task]:06d}", item


@contextmanager
def _workers(count: int, alone: bool) -> Iterator[Executor]:
    """Processes with one OpenMP thread each; for `count` 1 a thread of this process, unless they must be `alone`.

    More threads would spin against each other, and sums in tblite would depend on the core count. Children inherit the
    setting from the environment, because OpenMP reads it when torch, which comes first, is loaded. They are spawned: a
    forked child would inherit the locks of whatever threads the caller has running.
    """
    if count == 1 and not alone:
        with ThreadPoolExecutor(1) as executor:
            yield executor
        return
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), end_with_parent) as executor:
            yield executor
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process ended by itself: killed, or out of memory. The same command goes on from here."
        ) from error
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


# --- folders ---------------------------------------------------------------------------------------------------------


@contextmanager
def _work_folder(out: Path, settings: dict) -> Iterator[Path]:
    """The folder beside `out` where it is made; parts made with other inputs or settings are removed first.

    It goes away when the build is done, and stays, for the next try, when the build fails or is interrupted.
    """
    work = out.parent / f".{out.name}.building"
    work.mkdir(exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another build of {out} is running") from error
        made_with, text = work / "settings.json", json.dumps(settings, indent=2, sort_keys=True)
        if not made_with.exists() or made_with.read_text() != text:
            shutil.rmtree(work / "parts", ignore_errors=True)
            made_with.write_text(text)
        try:
            yield work
        except OSError as error:
            if error.errno == errno.ENOSPC or "No space left" in str(error):
                raise OSError(
                    f"no space left on the disk of {work}. What is finished stays there: make room and run the same "
                    "command again, or remove that folder."
                ) from error
            raise
        shutil.rmtree(work)


def _check_target(out: Path, report: dict, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(
            f"{out} exists already; choose another folder, or pass --overwrite to replace a built dataset."
        )
    found = read_report(out)
    if (found["name"], found["version"]) != (report["name"], report["version"]):
        raise ValueError(
            f"{out} holds {found['name']} version {found['version']}, not {report['name']} version "
            f"{report['version']}; remove it yourself if it is not needed."
        )
