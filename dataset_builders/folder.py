"""A built dataset as a folder: its report, its checksums, and how it gets to its place in one step."""

import hashlib
import json
import shutil
from pathlib import Path

REPORT = "build_report.json"
MANIFEST = "SHA256SUMS"


def read_report(path: Path) -> dict:
    """The report of a built dataset whose files are as they were written.

    Raises:
        ValueError: if `path` is not a folder that `build` wrote, or one of its files has changed since.
    """
    if not ((path / REPORT).is_file() and (path / MANIFEST).is_file()):
        raise ValueError(f"{path} is not a built dataset: expected a folder with {REPORT} and {MANIFEST}.")
    listed = {}
    for line in (path / MANIFEST).read_text().splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    if odd := _files(path) ^ set(listed):
        raise ValueError(f"{path} does not hold the files that {MANIFEST} lists; different: {', '.join(sorted(odd))}.")
    for name, digest in listed.items():
        if sha256(path / name) != digest:
            raise ValueError(f"{path / name} has changed since the dataset was built; build it again.")
    return json.loads((path / REPORT).read_text())


def write_manifest(folder: Path) -> None:
    """Writes the SHA-256 of every other file, in the format that `sha256sum -c` checks."""
    files = sorted(_files(folder))
    (folder / MANIFEST).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in files))


def _files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {MANIFEST}


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def move_into_place(aside: Path, out: Path) -> None:
    """Renames: at no time does `out` hold half a dataset."""
    if out.exists():
        old = aside.with_name(aside.name + ".old")
        out.rename(old)
        aside.rename(out)
        shutil.rmtree(old)
    else:
        aside.rename(out)
