"""SMILES of PubChem compounds by CID, over PUG REST (the paper's first step of Appendix B.2).

PubChem asks for at most five requests a second and answers 503 when it is busy. CIDs are therefore sent in batches,
each answer is committed to a cache on disk before the next question, and a run that ends early, by a fault, Ctrl-C or
a kill, goes on where it stopped: what was answered is never asked again, CIDs that PubChem does not know included.
"""

import csv
import http.client
import json
import logging
import math
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dataset_builders.reading import text_lines

PUG_URL = "https://pubchem.ncbi.nlm.nih.gov/rest/pug"
BATCH = 100
INTERVAL = 0.2
"""Seconds between the starts of two requests: PubChem's policy is five a second."""
ATTEMPTS = 8
LONGEST_PAUSE = 64.0
_RETRIED = {429, 500, 502, 503, 504}
# What PubChem answers to a batch in which it cannot find (404) or cannot accept (400) a CID.
_REFUSED = {400: "PUGREST.BadRequest", 404: "PUGREST.NotFound"}

logger = logging.getLogger(__name__)


def resolve(cids_file: Path, out: Path, url: str = PUG_URL) -> dict[str, int]:
    """Looks up the CIDs of a text file (one a line) and writes a CSV `cid,smiles` of those that PubChem knows.

    The cache is `<out>.cache` beside it. `out` appears at the end, whole or not at all.

    Returns:
        How many CIDs there were (`asked`, each counted once), `found` and `unknown`.

    Raises:
        ValueError: If a line of the file is not a CID.
        ConnectionError: If PubChem does not answer after `ATTEMPTS` attempts; run the same again to go on.
    """
    smiles = smiles_of(_read_cids(cids_file), out.with_name(f"{out.name}.cache"), url)
    unknown = [cid for cid, text in smiles.items() if text is None]
    if unknown:
        first = ", ".join(map(str, unknown[:10]))
        logger.warning("PubChem does not know %d of %d CIDs: %s, ...", len(unknown), len(smiles), first)
    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["cid", "smiles"])
            writer.writerows((cid, text) for cid, text in smiles.items() if text is not None)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return {"asked": len(smiles), "found": len(smiles) - len(unknown), "unknown": len(unknown)}


def smiles_of(
    cids: Iterable[int],
    cache: Path,
    url: str = PUG_URL,
    *,
    timeout: float = 60.0,
    pause: float = 1.0,
) -> dict[int, str | None]:
    """CID -> isomeric SMILES as PubChem has it, None for a CID it does not know; in the order given, each once.

    Args:
        cids: The compounds; what the cache has of them is not asked for.
        cache: SQLite file, created if it does not exist. Safe to kill at any moment.
        url: Base address of PUG REST.
        timeout: Seconds to wait for an answer.
        pause: Seconds before the second attempt; doubled before each further one.

    Raises:
        OSError: If the cache cannot be read or written, or is some other file.
        ConnectionError: If there is no usable answer after `ATTEMPTS` attempts.
    """
    wanted = list(dict.fromkeys(cids))
    service = _PugRest(f"{url}/compound/cid/property/SMILES/JSON", timeout, pause)
    with _open_cache(cache) as connection:
        known = dict(connection.execute("SELECT cid, smiles FROM compounds"))
        missing = [cid for cid in wanted if cid not in known]
        with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="CID", desc="PubChem") as progress:
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                answers = service.ask(batch)
                with connection:
                    connection.executemany("INSERT INTO compounds VALUES (?, ?)", answers.items())
                known |= answers
                progress.update(len(batch))
    return {cid: known[cid] for cid in wanted}


@dataclass
class _PugRest:
    """One client of the service, which keeps the pauses between its requests."""

    url: str
    timeout: float
    pause: float
    next_start: float = -math.inf

    def ask(self, cids: list[int]) -> dict[int, str | None]:
        """The answers to one batch. A batch that is refused is halved until the CID at fault stands alone."""
        table = self._properties(cids)
        if table is not None:
            found = {entry["CID"]: entry.get("SMILES") or None for entry in table}
            return {cid: found.get(cid) for cid in cids}
        if len(cids) == 1:
            return {cids[0]: None}
        half = len(cids) // 2
        return self.ask(cids[:half]) | self.ask(cids[half:])

    def _properties(self, cids: list[int]) -> list[dict[str, Any]] | None:
        """PubChem's table for the batch; None if it refuses the batch for a CID in it."""
        fault: Exception | None = None
        for attempt in range(ATTEMPTS):
            time.sleep(max(0.0, self.next_start - time.monotonic()))
            self.next_start = time.monotonic() + INTERVAL
            wait = min(self.pause * 2**attempt, LONGEST_PAUSE)
            try:
                return self._post(cids)
            except urllib.error.HTTPError as error:
                with error:
                    if _is_refusal(error):
                        return None
                    if error.code not in _RETRIED:
                        raise ConnectionError(f"{self.url} answers {error.code} {error.reason}") from error
                wait = max(wait, _retry_after(error.headers.get("Retry-After")))
                fault = error
            except (OSError, http.client.HTTPException, ValueError) as error:
                fault = error
            logger.info("PubChem: %s; next attempt in %.0f s", fault, wait)
            self.next_start = time.monotonic() + max(wait, INTERVAL)
        raise ConnectionError(
            f"{self.url}: no answer for CIDs {cids[0]} to {cids[-1]} after {ATTEMPTS} attempts (last: {fault}). "
            "Answers so far are kept: run the same again to go on."
        ) from fault

    def _post(self, cids: list[int]) -> list[dict[str, Any]]:
        body = urllib.parse.urlencode({"cid": ",".join(map(str, cids))}).encode()
        with urllib.request.urlopen(self.url, body, timeout=self.timeout) as response:
            answer = json.load(response)
        try:
            table = answer["PropertyTable"]["Properties"]
            if all(isinstance(entry["CID"], int) for entry in table):
                return table
        except (KeyError, TypeError):
            pass
        raise ValueError("the answer is no property table")


def _is_refusal(error: urllib.error.HTTPError) -> bool:
    """Whether PubChem itself says that CIDs are at fault: a wrong address gives the same status without its words."""
    if error.code not in _REFUSED:
        return False
    try:
        return json.load(error)["Fault"]["Code"] == _REFUSED[error.code]
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        return False


def _retry_after(header: str | None) -> float:
    """The seconds to wait that a `Retry-After` header asks for: a number, or the time of day of an HTTP date."""
    if not header:
        return 0.0
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


@contextmanager
def _open_cache(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS compounds (cid INTEGER PRIMARY KEY, smiles TEXT)")
            yield connection
    except sqlite3.DatabaseError as error:
        raise OSError(f"{path}: the cache of PubChem's answers cannot be used: {error}") from error


def _read_cids(path: Path) -> list[int]:
    cids = []
    for number, line in text_lines(path):
        text = line.strip()
        if not text:
            continue
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            raise ValueError(f"{path}, line {number}: expected a PubChem CID (a positive whole number), not {text!r}")
        cids.append(int(text))
    if not cids:
        raise ValueError(f"{path} has no CIDs; expected one a line")
    return cids
