"""Fetching files from a server on loopback that breaks off, is busy, lies, or has nothing."""

import hashlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace

import pytest

from dataset_builders import download as downloading
from dataset_builders.download import download, fetch
from dataset_builders.source import Download, Source
from tests.conftest import ROOT

CONTENT = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Serves `content`; `script` says what befalls the next requests: a status, or after how many bytes it breaks."""

    protocol_version = "HTTP/1.1"
    content: bytes
    version: str | None
    ranges: bool
    script: list
    asked: list

    def do_GET(self):
        self.asked.append(self.headers.get("Range"))
        event = self.script.pop(0) if self.script else None
        if event in (404, 503):
            self.send_response(event)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, wanted = 0, self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, self.version)
        if wanted and self.ranges and same:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(self.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.version:
            self.send_header("ETag", self.version)
        body = self.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if event is None else body[: event[1]])
        if event:
            self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """A server whose class attributes are what it serves and does; `.url` leads to it."""
    handler = type(
        "Here", (Server,), {"content": CONTENT, "version": '"1"', "ranges": True, "script": [], "asked": []}
    )
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    handler.url = f"http://127.0.0.1:{running.server_port}/file.txt"
    yield handler
    running.shutdown()
    running.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(downloading, "WAIT", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def wanted(server, sha256: str = "") -> Download:
    return Download("lab/file.txt", url=server.url, sha256=sha256)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_once(server, tmp_path):
    assert fetch(wanted(server), tmp_path) == "fetched"
    assert (tmp_path / "lab" / "file.txt").read_bytes() == CONTENT
    assert fetch(wanted(server), tmp_path) == "there"
    assert fetch(wanted(server, DIGEST), tmp_path) == "there"
    assert server.asked == [None]
    assert names(tmp_path) == ["file.txt"]


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.script = [("break", 200_000), 503, ("break", 100_000)]
    assert fetch(wanted(server, DIGEST), tmp_path) == "fetched"
    assert (tmp_path / "lab" / "file.txt").read_bytes() == CONTENT
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0 for asked in server.asked]
    assert starts[0] == 0
    assert 100_000 < starts[1] <= 200_000
    assert starts[1] == starts[2] < starts[3] <= 300_000


def test_breaks_do_not_count_while_bytes_come(server, tmp_path):
    server.script = [("break", 70_000)] * (downloading.ATTEMPTS + 1)
    assert fetch(wanted(server, DIGEST), tmp_path) == "fetched"


def test_another_process_goes_on_too(server, tmp_path):
    server.script = [("break", 150_000), *[404] * 2]
    with pytest.raises(OSError, match="404"):
        fetch(wanted(server), tmp_path)
    assert names(tmp_path) == ["file.txt.part", "file.txt.part.version"]
    server.script = []
    assert fetch(wanted(server), tmp_path) == "fetched"
    assert server.asked[-1] not in (None, "bytes=0-")
    assert (tmp_path / "lab" / "file.txt").read_bytes() == CONTENT
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("version", ['"2"', None])
def test_two_versions_are_never_joined(server, tmp_path, version):
    server.version = version and '"1"'
    server.script = [("break", 150_000), 404]
    with pytest.raises(OSError, match="404"):
        fetch(wanted(server), tmp_path)
    server.content, server.version = CONTENT[::-1], version
    assert fetch(wanted(server), tmp_path) == "fetched"
    assert (tmp_path / "lab" / "file.txt").read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges = False
    server.script = [("break", 150_000)]
    assert fetch(wanted(server), tmp_path) == "fetched"
    assert (tmp_path / "lab" / "file.txt").read_bytes() == CONTENT


def test_a_part_that_is_whole_only_gets_its_name(server, tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "file.txt.part").write_bytes(CONTENT)
    assert fetch(wanted(server, DIGEST), tmp_path) == "fetched"
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    assert names(tmp_path) == ["file.txt"]


def test_a_part_that_is_too_long_is_fetched_anew(server, tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "file.txt.part").write_bytes(CONTENT + b"more")
    assert fetch(wanted(server, DIGEST), tmp_path) == "fetched"
    assert (tmp_path / "lab" / "file.txt").read_bytes() == CONTENT


def test_wrong_content_is_removed(server, tmp_path):
    with pytest.raises(ValueError, match=f"SHA-256 {DIGEST}, expected {'0' * 64}"):
        fetch(wanted(server, "0" * 64), tmp_path)
    assert names(tmp_path) == []


def test_a_wrong_file_that_is_there_is_not_replaced(server, tmp_path):
    fetch(wanted(server), tmp_path)
    with pytest.raises(ValueError, match=r"file\.txt is there with another SHA-256 .* remove it"):
        fetch(wanted(server, "0" * 64), tmp_path)
    assert names(tmp_path) == ["file.txt"]


def test_a_server_that_stays_busy_is_given_up(server, tmp_path):
    server.script = [503] * 100
    with pytest.raises(OSError, match="503"):
        fetch(wanted(server), tmp_path)
    assert len(server.asked) == downloading.ATTEMPTS
    assert names(tmp_path) == []


def test_what_is_not_there_is_asked_for_once(server, tmp_path):
    server.script = [404] * 100
    with pytest.raises(OSError, match=r"404 .*/file\.txt"):
        fetch(wanted(server), tmp_path)
    assert len(server.asked) == 1


@pytest.fixture
def registry(server, monkeypatch):
    """Two sources: one with a file that is not there and one that is; one for people."""

    def source(name: str, **kwargs) -> ModuleType:
        fixed = {"title": name, "license": "MIT", "citation": "x", "files": ("*",), "tasks": {"logp": "x"}}
        return SimpleNamespace(SOURCE=Source(name=name, home=f"https://{name}", **fixed, **kwargs))

    sources = {
        "lab": source("lab", downloads=(Download("lab/gone.txt", url=server.url), wanted(server))),
        "vault": source("vault", how_to_get="Ask the keeper."),
    }
    monkeypatch.setattr(downloading, "SOURCES", sources)
    return sources


def test_one_failure_keeps_no_other_file_back(server, registry, tmp_path, capsys):
    server.script = [404]
    with pytest.raises(ValueError, match=r"1 not fetched: lab/gone\.txt"):
        download(["all"], tmp_path)
    printed = capsys.readouterr().out
    assert "failed   lab/gone.txt: 404" in printed
    assert "fetched  lab/file.txt" in printed
    assert f"vault, by hand into {tmp_path / 'vault'}: Ask the keeper.\n  home: https://vault" in printed
    download(["lab"], tmp_path)
    printed = capsys.readouterr().out
    assert "there    lab/file.txt" in printed
    assert "vault" not in printed


def test_an_unknown_source_is_told_before_anything_is_fetched(server, registry, tmp_path):
    with pytest.raises(ValueError, match="unknown source chebi; known: all, lab, vault"):
        download(["lab", "chebi"], tmp_path)
    assert server.asked == []


def test_the_command_ends_with_one_line(tmp_path):
    command = [sys.executable, "-m", "dataset_builders", "download", "nowhere", "--to", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: unknown source nowhere; known: all, mol_instructions, uspto_500_mt")
    assert len(done.stderr.splitlines()) == 1
