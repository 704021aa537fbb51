"""Reads the containers that publishers use, a record at a time, and says which file and record is at fault.

Each reader yields `(number, record)`, numbers from 1 without headers. A fault of the file ends the build with a
`ValueError`; in place of a record that cannot be read a `Drop` is yielded, for the source's reader to pass on.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from dataset_builders.schema import Drop

ALL_TASKS = "all tasks"
"""The task of a `Drop` that is none of a single task."""

csv.field_size_limit(1 << 30)


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked if its name ends in `.gz`."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield file


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text, without their ends, numbered from 1."""
    number = 0
    with open_binary(path) as file, _faults(path, lambda: number):
        for number, line in enumerate(file, 1):
            if b"\0" in line:
                raise ValueError(f"{path}, line {number}: this is a binary file; expected UTF-8 text")
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | Drop]]:
    """One JSON object a line; the number is the line's, blank lines are passed over."""
    sound = False
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict):
            sound = True
            yield number, record
        else:
            yield number, Drop(ALL_TASKS, str(number), "the line is not a JSON object")
    if not sound:
        raise ValueError(f"{path}: no line of it is a JSON object")


def json_items(path: Path) -> Iterator[tuple[int, dict[str, Any] | Drop]]:
    """The objects of a JSON list, streamed."""
    number = 0
    with open_binary(path) as file, _faults(path, lambda: number):
        for number, record in enumerate(ijson.items(file, "item", use_float=True), 1):
            sound = isinstance(record, dict)
            yield number, record if sound else Drop(ALL_TASKS, str(number), "the record is not a JSON object")
    if number == 0:
        raise ValueError(f"{path}: expected a JSON list of records; there is none")


def json_members(path: Path) -> Iterator[tuple[int, tuple[str, Any]]]:
    """The members `(key, value)` of a JSON object, streamed."""
    number = 0
    with open_binary(path) as file, _faults(path, lambda: number):
        for number, member in enumerate(ijson.kvitems(file, "", use_float=True), 1):
            yield number, member
    if number == 0:
        raise ValueError(f"{path}: expected a JSON object with members; there is none")


def table_rows(
    path: Path, columns: tuple[str, ...], delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str] | Drop]]:
    """The rows of a delimited text with a header that has at least `columns`. Tab-separated text has no quoting."""
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.DictReader(
        (line + "\n" for _, line in text_lines(path)), delimiter=delimiter, quoting=quoting, strict=True
    )
    number = 0
    try:
        if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path} has no column {', '.join(missing)}; its columns are {reader.fieldnames}")
        for number, row in enumerate(reader, 1):
            ragged = None in row or None in row.values()
            yield (
                number,
                Drop(ALL_TASKS, str(number), "the row has not the header's number of columns") if ragged else row,
            )
    except csv.Error as error:
        raise ValueError(f"{path}, row {number + 1}: {error}") from error
    if number == 0:
        raise ValueError(f"{path} has a header but no rows")


@contextmanager
def _faults(path: Path, done: Callable[[], int]) -> Iterator[None]:
    """Turns what a broken file raises into one message with the file and the last record that was read."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: its compressed data ends or breaks after record {done()}: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, record {done()}: not UTF-8 text: {error}") from error
    except ijson.JSONError as error:
        words = error.args[0]  # of several lines, some of them as bytes; the first one says what is wrong
        words = words.decode(errors="replace") if isinstance(words, bytes) else str(words)
        raise ValueError(f"{path}: not JSON, or cut short, after record {done()}: {words.splitlines()[0]}") from error
