"""Fetches publishers' files: interrupted transfers go on where they stopped, checksums are verified."""

import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import requests
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError as HubError
from tqdm import tqdm

from dataset_builders.folder import sha256
from dataset_builders.source import Download, Source
from dataset_builders.sources import SOURCES

ATTEMPTS = 4
"""Failures in a row, without a byte between them, after which a file is given up."""
WAIT = 1.0
"""Seconds before the second attempt; doubled before each further one."""
_TIMEOUT = (20, 60)
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_CHUNK = 1 << 16


def sources_table(raw: Path | None = None) -> str:
    """All sources in words: licence, the tasks they feed, their files in `raw`, and how to get them."""
    lines = []
    for module in SOURCES.values():
        source = module.SOURCE
        lines += [f"{source.name}: {source.title}", f"    home     {source.home}", f"    licence  {source.license}"]
        lines.append(f"    tasks    {', '.join(source.tasks)}")
        if raw is not None:
            found = [path.relative_to(raw / source.name).as_posix() for path in source.present(raw)]
            lines.append(f"    here     {_some(found) if found else f'nothing; expected {_some(source.files)}'}")
        if source.downloads:
            lines.append(f"    get      python -m dataset_builders download {source.name} --to DIR")
        if source.how_to_get:
            lines.append(f"    get      {source.how_to_get}")
    return "\n".join(lines)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def download(sources: Iterable[str], to: Path) -> None:
    """Fetches the files of sources into `to`, each at its `Download.path`, and prints what became of them.

    A file that is there, with the checksum that is known, is not fetched again. One that fails keeps no other back.

    Args:
        sources: names, or `all`.

    Raises:
        ValueError: for an unknown source, before anything is fetched; or at the end, if files could not be fetched.
    """
    names = list(SOURCES) if "all" in sources else list(dict.fromkeys(sources))
    if unknown := [name for name in names if name not in SOURCES]:
        raise ValueError(f"unknown source {', '.join(unknown)}; known: all, {', '.join(SOURCES)}")
    chosen: list[Source] = [SOURCES[name].SOURCE for name in names]
    failed = []
    for source in chosen:
        for wanted in source.downloads:
            try:
                print(f"{fetch(wanted, to):8} {wanted.path}", flush=True)
            except (ValueError, OSError, HubError) as error:
                failed.append(wanted.path)
                print(f"{'failed':8} {wanted.path}: {error}", flush=True)
    for source in chosen:
        if source.how_to_get:
            print(f"\n{source.name}, by hand into {to / source.name}: {source.how_to_get}\n  home: {source.home}")
    if failed:
        raise ValueError(f"{len(failed)} not fetched: {', '.join(failed)}. The same command tries them again.")


def fetch(wanted: Download, to: Path) -> str:
    """Fetches one file; returns `"fetched"` or, if it is there already, `"there"`.

    Raises:
        ValueError: if the file that is there, or the one that came, has another checksum than the expected one.
        OSError: if it cannot be fetched or written; what has come so far is kept for the next time.
    """
    target = to / wanted.path
    if target.exists():
        if wanted.sha256 and sha256(target) != wanted.sha256:
            raise ValueError(f"{target} is there with another SHA-256 than {wanted.sha256}; remove it to fetch it")
        return "there"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    if wanted.url:
        _from_url(wanted.url, part, wanted.sha256)
    else:
        _from_hub(wanted, part)
    if wanted.sha256 and (found := sha256(part)) != wanted.sha256:
        part.unlink()
        raise ValueError(f"what came has the SHA-256 {found}, expected {wanted.sha256}; it was removed")
    part.replace(target)
    return "fetched"


def _from_hub(wanted: Download, part: Path) -> None:
    """A file of a dataset repository. `huggingface_hub` resumes and retries by itself, in a folder of its own."""
    aside = part.with_name(part.name + ".hub")
    path = hf_hub_download(
        wanted.hub_id, wanted.hub_file, repo_type="dataset", revision=wanted.revision, local_dir=aside
    )
    Path(path).replace(part)
    shutil.rmtree(aside)


def _from_url(url: str, part: Path, checksum: str) -> None:
    """Fetches `url` into `part`, after the bytes that are there; each break is followed by another attempt.

    Two versions of a file are never joined: beside `part` lies the mark (`ETag` or date) of the version that its
    bytes are of, and the server is asked to go on with that version only. Bytes without a mark count only if a known
    checksum will judge the whole.
    """
    mark = part.with_name(part.name + ".version")
    failures = 0
    with requests.Session() as session:
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                _append(session, url, part, mark, trusted=bool(checksum))
                mark.unlink(missing_ok=True)
                return
            except requests.RequestException as error:
                busy = error.response is None or error.response.status_code in _BUSY
                grown = part.exists() and part.stat().st_size > before
                failures = 1 if grown else failures + 1
                if not busy or failures == ATTEMPTS:
                    raise
            time.sleep(WAIT * 2 ** (failures - 1))


def _append(session: requests.Session, url: str, part: Path, mark: Path, trusted: bool) -> None:
    """One request. Raises `requests.RequestException` if it fails or ends before the file does."""
    start = part.stat().st_size if part.exists() and (mark.exists() or trusted) else 0
    headers = {"Accept-Encoding": "identity"}  # the bytes as they lie there, so that they can be counted
    if start:
        headers["Range"] = f"bytes={start}-"
        if mark.exists():
            headers["If-Range"] = mark.read_text()
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if answer.status_code == 416:  # nothing lies behind the bytes that we have: are they the whole?
            if answer.headers.get("Content-Range") == f"bytes */{start}":
                return
            part.unlink()
            raise requests.ConnectionError(f"{url} is shorter than what was fetched of it before")
        answer.raise_for_status()
        going_on = answer.status_code == 206
        if going_on and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise requests.ConnectionError(f"{url} was asked for the bytes from {start} on and sent others")
        start = start if going_on else 0
        length = int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if not going_on:
            part.unlink(missing_ok=True)
            mark.unlink(missing_ok=True)
        if version and not version.startswith("W/"):  # a weak mark does not vouch for the bytes
            mark.write_text(version)
        with part.open("ab") as file, _bar(part, start, length) as bar:
            for chunk in answer.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        came = part.stat().st_size - start
        if length is not None and came < length:
            raise requests.ConnectionError(f"{url} broke off after {start + came} of {start + length} bytes")


def _bar(part: Path, start: int, length: int | None) -> tqdm:
    total = None if length is None else start + length
    return tqdm(desc=part.stem, initial=start, total=total, unit="B", unit_scale=True, leave=False)
