"""CID -> SMILES against a loopback server that throttles, fails, stalls and is left in the middle."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest

from dataset_builders import pug_rest
from dataset_builders.pug_rest import resolve, smiles_of
from tests.conftest import ROOT

UNKNOWN = {404, 405}
"""CIDs that the server knows by number only, as PubChem does of compounds that are no longer live."""
ABSENT = {500_000_001}
"""CIDs for which it refuses a batch."""
STALL = 10.0
"""Seconds that a request is kept waiting, far more than the client's patience."""


class PubChem(ThreadingHTTPServer):
    """Answers in PubChem's form; `faults` are played one a request before that."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: list = []
        self.asked: Counter = Counter()
        self.batches: list[list[int]] = []
        self.times: list[float] = []
        self.stall_at: int | None = None
        self.stalled, self.release = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/rest/pug"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        server.times.append(time.monotonic())
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        cids = [int(cid) for cid in parse_qs(body)["cid"][0].split(",")]
        server.batches.append(cids)
        if server.stall_at == len(server.batches):
            server.stalled.set()
            server.release.wait(30)
            return
        if self.path != "/rest/pug/compound/cid/property/SMILES/JSON":
            self.answer(404, b"<html>no such page</html>")
        elif server.faults:
            server.faults.pop(0)(self)
        elif ABSENT & set(cids):
            self.answer(404, {"Fault": {"Code": "PUGREST.NotFound", "Message": "No CID found"}})
        else:
            server.asked.update(cids)
            table = [{"CID": cid} | ({} if cid in UNKNOWN else {"SMILES": smiles(cid)}) for cid in cids]
            self.answer(200, {"PropertyTable": {"Properties": table}})

    def answer(self, status, content, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def smiles(cid):
    return "C" * (cid % 7 + 1)


def status(code, **headers):
    return lambda handler: handler.answer(code, b"<html>busy</html>", **headers)


def body(content):
    return lambda handler: handler.answer(200, content)


def stall(handler):
    handler.server.release.wait(STALL)


def cut_short(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"PropertyTable"')


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(pug_rest, "INTERVAL", 0.01)
    monkeypatch.setattr(pug_rest, "BATCH", 10)
    with PubChem() as pubchem:
        threading.Thread(target=pubchem.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield pubchem
        pubchem.release.set()
        pubchem.shutdown()


def ask(server, cids, cache, **options):
    return smiles_of(cids, cache, server.url, **({"pause": 0.01} | options))


def test_cids_are_asked_in_batches_once_each_in_order(server, tmp_path):
    cids = [*range(25, 0, -1), 7, 7]
    assert ask(server, cids, tmp_path / "cache") == {cid: smiles(cid) for cid in range(25, 0, -1)}
    assert [len(batch) for batch in server.batches] == [10, 10, 5]
    assert set(server.asked.values()) == {1}
    ask(server, [3, 26], tmp_path / "cache")
    assert server.batches[3:] == [[26]], "what the cache has is not asked for"


@pytest.mark.parametrize(
    "faults",
    [
        [status(503)] * 3,
        [status(429), status(500), status(502), status(504)],
        [body(b"<html>down for maintenance</html>"), body(b'{"PropertyTable": {"Prop'), body({"Fault": {}}), body([])],
        [body({"PropertyTable": {"Properties": [{"SMILES": "C"}]}}), body(b"\xff\xfe")],
        [cut_short],
        [stall],
    ],
    ids=["503 burst", "other statuses", "no table", "no CID", "cut short", "timeout"],
)
def test_faults_are_retried(server, tmp_path, faults):
    server.faults = list(faults)
    start = time.monotonic()
    found = ask(server, [1, 2, 3], tmp_path / "cache", timeout=0.3)
    assert time.monotonic() - start < STALL
    assert found == {cid: smiles(cid) for cid in (1, 2, 3)}
    assert len(server.batches) == len(faults) + 1


def test_pauses_double_and_retry_after_is_honoured(server, tmp_path):
    server.faults = [status(503)] * 3
    ask(server, [1], tmp_path / "cache", pause=0.1)
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert all(gap >= pause for gap, pause in zip(gaps, (0.1, 0.2, 0.4), strict=True))
    assert gaps[2] < 1
    server.times.clear()
    server.faults = [status(503, Retry_After="1")]
    ask(server, [2], tmp_path / "cache")
    assert server.times[1] - server.times[0] >= 1


def test_retry_after_may_be_a_date():
    assert 58 < pug_rest._retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert pug_rest._retry_after(formatdate(time.time() - 60, usegmt=True)) == 0
    assert pug_rest._retry_after("7") == 7
    assert pug_rest._retry_after("soon") == pug_rest._retry_after(None) == 0


def test_no_more_than_five_requests_a_second(server, tmp_path, monkeypatch):
    monkeypatch.setattr(pug_rest, "INTERVAL", 0.2)
    server.faults = [status(503)]
    ask(server, range(1, 41), tmp_path / "cache", pause=0.001)
    assert len(server.times) == 5
    assert server.times[-1] - server.times[0] >= 0.79


def test_unknown_cids_are_kept_as_such(server, tmp_path):
    """Without a SMILES in the table, or refused: batches are halved until the CID at fault stands alone."""
    cids = [*range(1, 8), 404, 405, *ABSENT]
    found = ask(server, cids, tmp_path / "cache")
    assert {cid for cid, text in found.items() if text is None} == UNKNOWN | ABSENT
    assert all(server.asked[cid] == 1 for cid in range(1, 8))
    count = len(server.batches)
    assert ask(server, cids, tmp_path / "cache") == found
    assert len(server.batches) == count


def test_a_wrong_address_is_not_taken_for_unknown_cids(server, tmp_path):
    with pytest.raises(ConnectionError, match=r"wrong/compound/cid/property/SMILES/JSON answers 404"):
        smiles_of([1, 2], tmp_path / "cache", f"{server.url}/wrong")
    assert len(server.batches) == 1


def test_a_refusal_counts_only_in_the_words_of_pubchem(server, tmp_path):
    server.faults = [lambda handler: handler.answer(400, {"Fault": {"Code": "PUGREST.BadRequest"}})]
    assert ask(server, [1], tmp_path / "cache") == {1: None}
    server.faults = [lambda handler: handler.answer(400, {"Fault": {"Code": "PUGREST.Unimplemented"}})]
    with pytest.raises(ConnectionError, match=r"answers 400"):
        ask(server, [2], tmp_path / "cache")


def test_giving_up_says_so_and_keeps_what_was_answered(server, tmp_path, monkeypatch):
    monkeypatch.setattr(pug_rest, "ATTEMPTS", 3)
    cids_file, out = tmp_path / "cids.txt", tmp_path / "cids.csv"
    cids_file.write_text("".join(f"{cid}\n" for cid in range(1, 21)))
    monkeypatch.setattr(pug_rest, "LONGEST_PAUSE", 0.01)
    ask(server, range(1, 11), tmp_path / "cids.csv.cache")
    server.faults = [status(503)] * 3
    with pytest.raises(
        ConnectionError, match=r"no answer for CIDs 11 to 20 after 3 attempts .*503.* run the same again"
    ):
        resolve(cids_file, out, server.url)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cids.csv.cache", "cids.txt"]
    assert resolve(cids_file, out, server.url) == {"asked": 20, "found": 20, "unknown": 0}
    assert set(server.asked.values()) == {1}


def test_resolve_writes_what_was_found_and_reports_the_rest(server, tmp_path, caplog):
    cids_file, out = tmp_path / "cids.txt", tmp_path / "cids.csv"
    cids_file.write_text("5\n404\n\n3\n5\n")
    assert resolve(cids_file, out, server.url) == {"asked": 3, "found": 2, "unknown": 1}
    assert out.read_text() == f"cid,smiles\n5,{smiles(5)}\n3,{smiles(3)}\n"
    assert "does not know 1 of 3 CIDs: 404" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cids.csv", "cids.csv.cache", "cids.txt"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_in_the_middle_goes_on_without_asking_twice(server, tmp_path, how):
    cids_file, out = tmp_path / "cids.txt", tmp_path / "cids.csv"
    cids_file.write_text("".join(f"{cid}\n" for cid in range(1, 51)))
    server.stall_at = 3
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"  # background jobs are deaf to it
        "import sys, pathlib; from dataset_builders import pug_rest; pug_rest.BATCH = 10; pug_rest.INTERVAL = 0.01;"
        "pug_rest.resolve(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3])"
    )
    command = [sys.executable, "-c", program, cids_file, out, server.url]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.DEVNULL) as process:
        assert server.stalled.wait(60)
        process.send_signal(how)
        assert process.wait(60) != 0
    assert not out.exists()
    server.stall_at = None
    assert resolve(cids_file, out, server.url) == {"asked": 50, "found": 50, "unknown": 0}
    assert len(out.read_text().splitlines()) == 51
    assert set(server.asked.values()) == {1}
    assert len(server.asked) == 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1\nCC\n", r"cids.txt, line 2: expected a PubChem CID .* not 'CC'"),
        (b"1\n0\n", r"cids.txt, line 2: expected a PubChem CID"),
        (b"1\n1.5\n", r"line 2"),
        (b"\n\n", r"cids.txt has no CIDs"),
        (b"", r"cids.txt is empty"),
        (b"1\n\xff\n", r"cids.txt, record 2: not UTF-8"),
    ],
)
def test_files_without_cids_are_refused(tmp_path, content, message):
    (tmp_path / "cids.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        resolve(tmp_path / "cids.txt", tmp_path / "cids.csv", "http://127.0.0.1:9")
    assert not (tmp_path / "cids.csv").exists()


def test_a_cache_that_is_none_is_refused(server, tmp_path):
    (tmp_path / "cache").write_text("cid,smiles\n1,C\n" * 100)
    with pytest.raises(OSError, match=r"cache: the cache of PubChem's answers cannot be used: file is not a database"):
        ask(server, [1], tmp_path / "cache")
    assert (tmp_path / "cache").read_text().startswith("cid,smiles")
