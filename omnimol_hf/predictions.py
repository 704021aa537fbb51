"""The file of a model's answers: written as they come, continued after a kill, and refused when it is another's.

`predictions.jsonl` holds one line for each row in the dataset's order: the row's own columns, `row` (its place), the
answer's fields of `omnimol_hf.generation.answer_batches`, and `run`, a digest of `predictions.about.json` beside it,
which says what was answered by what: data, model and settings.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

ABOUT = "about.json"
COMPARED = ("task", "id", "instruction", "input", "output")
NAMES = ("dataset", "model", "base")  # may be other paths to the same things: the digests beside them decide
_KEPT = "kept.jsonl"

Rows = Sequence[Mapping[str, Any]]
Batches = Sequence[Sequence[int]]
Answer = Callable[[Batches], Iterable[list[tuple[int, dict[str, Any]]]]]


def fingerprint(rows: Rows) -> str:
    """SHA-256 of rows, of all that a model or a score sees of them, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        seen = [row[name] for name in (*COMPARED, "subset", "graph_smiles")]
        digest.update(json.dumps(seen, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def about_path(path: Path) -> Path:
    """Where it is written what a file of answers is about."""
    return path.with_name(f"{path.stem}.{ABOUT}")


def _digest(about: Mapping[str, Any]) -> str:
    """Of all that makes answers what they are; names of the same things may change."""
    facts = {key: value for key, value in about.items() if key not in NAMES}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def answer_to_file(path: Path, about: Mapping[str, Any], rows: Rows, batches: Batches, answer: Answer) -> int:
    """Answer rows into `path`, or go on where an earlier run stopped; all processes call it.

    Each process adds whole batches to a file of its own beside `path`. A batch that a kill tore apart is answered
    anew as a whole, so that the end is the same as without the kill. When all are done, they become one file.

    Args:
        path: the file to make, on a disk that all processes see.
        about: dataset, model and settings; plain JSON types.
        batches: numbers of the rows that are answered together.
        answer: answers this process's share of the batches that it is given, one after the other.

    Returns:
        How many rows this call answered; 0 if the file was there already and holds these rows, answered by this model
        with these settings.

    Raises:
        ValueError: if the file, or the unfinished one, is about something else; the differences are named.
    """
    state = PartialState()
    about = json.loads(json.dumps(about))
    parts = path.with_name(f".{path.stem}.unfinished")
    if path.exists():
        read_predictions(path, rows, about)
        return 0
    if (parts / ABOUT).exists():
        _compare(json.loads((parts / ABOUT).read_text(encoding="utf-8")), about, parts)
    state.wait_for_everyone()  # all have compared before the first one writes
    if state.is_main_process:
        parts.mkdir(parents=True, exist_ok=True)
        _write_whole(parts / ABOUT, [about])
        _gather_parts(parts, batches)
    state.wait_for_everyone()
    done = {line["row"] for line in _lines(parts / _KEPT)}
    state.print(f"{path}: {len(done):,} of {len(rows):,} rows are answered")
    run = _digest(about)
    with (parts / f"process-{state.process_index}.jsonl").open("a", encoding="utf-8") as file:
        for found in answer([batch for batch in batches if not done.issuperset(batch)]):
            lines = [
                json.dumps({"row": i, **rows[i], **fields, "run": run}, ensure_ascii=False) for i, fields in found
            ]
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
    state.wait_for_everyone()
    if state.is_main_process:
        _gather_parts(parts, batches)
        lines = sorted(_lines(parts / _KEPT), key=lambda line: line["row"])
        _check_rows(lines, rows, path)
        _write_whole(about_path(path), [about])
        _write_whole(path, lines)
        shutil.rmtree(parts)
    state.wait_for_everyone()
    return len(rows) - len(done)


def read_predictions(path: Path, rows: Rows | None = None, about: Mapping[str, Any] | None = None) -> list[dict]:
    """The lines of a file of answers, in the dataset's order.

    Args:
        rows: the rows that it has to be about; None: any.
        about: the dataset, model and settings that it has to be made with; None: any.

    Raises:
        ValueError: naming the file and what is wrong: no such file, other settings, and rows that are missing, doubled
            or not the dataset's.
    """
    lines = list(_lines(path))
    if about is not None:
        if not about_path(path).is_file():
            raise ValueError(f"{path} does not say what it is about: there is no {about_path(path).name} beside it")
        about = json.loads(json.dumps(about))
        _compare(json.loads(about_path(path).read_text(encoding="utf-8")), about, path)
        if strange := [line.get("row") for line in lines if line.get("run") != _digest(about)]:
            raise ValueError(f"{path} has {len(strange)} rows of another run, the first is row {strange[0]}")
    if rows is not None:
        _check_rows(lines, rows, path)
    return lines


def add_scores(path: Path, rho: Sequence[float]) -> None:
    """Put beside each answer of a file its normalised score `rho` in [0, 1]; null where the reference is unreadable.

    Args:
        rho: in the order of the lines, NaN where there is none; see `omnimol_hf.scoring.row_scores`.
    """
    lines = zip(list(_lines(path)), rho, strict=True)
    _write_whole(path, [line | {"rho": None if math.isnan(score) else score} for line, score in lines])


def _lines(path: Path, torn: bool = False) -> Iterable[dict[str, Any]]:
    """The JSON objects of a file. With `torn`, it ends before the first line that a kill left unfinished."""
    with path.open(encoding="utf-8", errors="replace" if torn else "strict") as file:
        for number, text in enumerate(file, start=1):
            try:
                if torn and not text.endswith("\n"):
                    return
                yield json.loads(text)
            except ValueError as error:
                if torn:
                    return
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error


def _write_whole(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _gather_parts(parts: Path, batches: Batches) -> None:
    """One file of all answers to whole batches, in the place of what the processes of an earlier run left."""
    answers: dict[int, dict[str, Any]] = {}
    left = [path for path in (parts / _KEPT, *sorted(parts.glob("process-*.jsonl"))) if path.exists()]
    for path in left:
        answers |= {line["row"]: line for line in _lines(path, torn=True)}
    whole = [answers[i] for batch in batches if answers.keys() >= set(batch) for i in batch]
    _write_whole(parts / _KEPT, whole)
    for path in left:
        if path.name != _KEPT:
            path.unlink()


def _compare(there: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    changed = [
        f"  {key}: {there.get(key, 'not set')!r} there, {now.get(key, 'not set')!r} now"
        for key in sorted(there.keys() | now.keys())
        if key not in NAMES and there.get(key) != now.get(key)
    ]
    if changed:
        raise ValueError(
            f"{path} holds answers of another run:\n"
            + "\n".join(changed)
            + "\nChoose another folder, or delete it, or give the same settings."
        )


def _check_rows(lines: Sequence[Mapping[str, Any]], rows: Rows, path: Path) -> None:
    def name(i: int) -> str:
        return f"row {i} ({rows[i]['task']}, {rows[i]['id']})"

    counts = Counter(line.get("row") for line in lines)
    if strange := [i for i in counts if not (isinstance(i, int) and 0 <= i < len(rows))]:
        raise ValueError(f"{path} has a line for row {strange[0]!r}; the dataset has rows 0 to {len(rows) - 1}")
    if doubled := sorted(i for i, count in counts.items() if count > 1):
        raise ValueError(f"{path} answers {len(doubled)} rows more than once, the first is {name(doubled[0])}")
    if missing := sorted(set(range(len(rows))) - counts.keys()):
        raise ValueError(f"{path} lacks {len(missing)} of {len(rows)} rows, the first is {name(missing[0])}")
    for place, line in enumerate(lines):
        if line["row"] != place:
            raise ValueError(f"{path} is out of order: row {line['row']} stands in the place of row {place}")
        for key in COMPARED:
            if line.get(key) != rows[place][key]:
                raise ValueError(
                    f"{path} is about other data: {name(place)} has {key} {line.get(key)!r} there and "
                    f"{rows[place][key]!r} in the dataset"
                )
