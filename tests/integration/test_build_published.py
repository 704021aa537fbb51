"""Building from publishers' files: broken files, a full disk, a kill, the same bytes, and what `load_dataset` sees."""

import gzip
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from datasets import get_dataset_config_names, load_dataset

from dataset_builders.__main__ import main
from dataset_builders.build import Options, build_published
from dataset_builders.folder import read_report
from dataset_builders.schema import FEATURES
from tests.conftest import ROOT

pytestmark = pytest.mark.integration


def qm9_rows(count):
    """Distinct molecules in the columns of QM9, with energies that obey gap = LUMO - HOMO."""
    for number, (a, b, c) in enumerate(itertools.islice(itertools.product(range(1, 21), repeat=3), count)):
        homo, lumo = -0.2 - number / 1e4, 0.05 + number / 1e4
        smiles = f"F{'C' * a}O{'C' * b}N{'C' * c}"
        yield f"{number},gdb_{number},{smiles},{homo:.4f},{lumo:.4f},{lumo - homo:.4f},0.1,-40.5"


def write_qm9(raw, count):
    (raw / "qm9").mkdir(parents=True)
    lines = [",mol_id,smiles,homo,lumo,gap,zpve,u0", *qm9_rows(count)]
    (raw / "qm9" / "qm9.csv").write_text("\n".join(lines) + "\n")


def write_chebi(raw):
    (raw / "chebi_20").mkdir(parents=True)
    for split, first in (("train", 1), ("validation", 40), ("test", 50)):
        rows = [f"{n}\t{'C' * n}O\tThe molecule is an alcohol with {n} carbons." for n in range(first, first + 10)]
        (raw / "chebi_20" / f"{split}.txt").write_text("\n".join(["CID\tSMILES\tdescription", *rows]) + "\n")


@pytest.fixture
def raw(tmp_path):
    write_qm9(tmp_path / "raw", 30)
    write_chebi(tmp_path / "raw")
    return tmp_path / "raw"


def build(raw, out, *more):
    main(["build", "--raw", str(raw), "--out", str(out), "--num-proc", "1", *more])


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refused(capsys, raw, out, *more):
    """The message of a build that fails; it leaves no output."""
    with pytest.raises(SystemExit) as end:
        build(raw, out, *more)
    assert end.value.code == 1
    assert not out.exists()
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    return message


def test_dataset_loads(raw, tmp_path):
    out = tmp_path / "out"
    build(raw, out)
    report = read_report(out)
    assert report["rows"]["homo_lumo"]["train"] + report["rows"]["homo_lumo"]["test"] == 90
    assert report["rows"]["molecular_captioning"] == {"train": 10, "validation": 10, "test": 10}
    names = get_dataset_config_names(str(out))
    assert set(names) == {"unified", *report["rows"]}
    for name in names:
        loaded = load_dataset(str(out), name, cache_dir=str(tmp_path / "cache"))
        for split, rows in loaded.items():
            assert rows.features == FEATURES
            streamed = load_dataset(str(out), name, split=split, streaming=True)
            assert [row["id"] for row in streamed] == rows["id"]
            if name != "unified":
                assert len(rows) == report["rows"][name][split]
    unified = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert set(unified["train"]["task"]) == {"homo_lumo", "scf_energy", "molecular_captioning"}


def test_same_bytes_whatever_the_process_count(raw, tmp_path):
    build_published(raw, tmp_path / "one", options=Options(workers=1))
    build_published(raw, tmp_path / "two", options=Options(workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "raw", "two"], "nothing is left beside"


def test_removed_rows_are_those_counted(raw, tmp_path):
    """Decontaminated train rows, by the report, are those that a build with `none` has more."""
    csv = raw / "qm9" / "qm9.csv"
    csv.write_text(
        csv.read_text() + "".join(f"{n},gdb_{n},{'C' * n}O,-0.2,0.1,0.3,0.1,-40.5\n" for n in range(40, 60))
    )
    reports = {}
    for level in ("exact", "strict", "none"):
        build(raw, tmp_path / level, "--decontaminate", level)
        reports[level] = read_report(tmp_path / level)
    removed = {
        level: {
            (drop["source"], drop["task"]): drop["count"]
            for drop in reports[level]["drops"]
            if "test or validation split" in drop["reason"]
        }
        for level in reports
    }
    assert removed["none"] == {}
    assert removed["exact"] == removed["strict"]
    assert removed["exact"]["qm9", "scf_energy"] > 10
    counts = {
        level: {(entry["source"], entry["task"], entry["split"]): entry["rows"] for entry in report["rows_by_source"]}
        for level, report in reports.items()
    }
    for key, rows in counts["none"].items():
        assert rows - counts["exact"].get(key, 0) == (removed["exact"].get(key[:2], 0) if key[2] == "train" else 0)
    assert sum(map(len, map(dict.values, reports["exact"]["overlaps"]["after"].values()))) > 0
    assert not any(n for row in reports["exact"]["overlaps"]["after"].values() for n in row.values())
    assert reports["none"]["overlaps"]["after"] == reports["exact"]["overlaps"]["before"]


# --- broken input ----------------------------------------------------------------------------------------------------


def break_column(raw):
    file = raw / "qm9" / "qm9.csv"
    file.write_text(file.read_text().replace("homo", "HOMO_eV", 1))
    return "qm9.csv has no column homo"


def break_binary(raw):
    (raw / "qm9" / "qm9.csv").write_bytes(b"mol_id,smiles,homo,lumo,gap,zpve,u0\n\x00\x01\x02\xff\n")
    return r"qm9.csv, line 2: this is a binary file"


def break_encoding(raw):
    file = raw / "chebi_20" / "test.txt"
    file.write_bytes(file.read_bytes() + "60\tC\tThe molecule is a résumé.\n".encode("latin-1"))
    return r"test.txt, record 1\d: not UTF-8"


def break_empty(raw):
    (raw / "chebi_20" / "train.txt").write_bytes(b"")
    return "train.txt is empty"


def break_gzip(raw):
    (raw / "pubchem").mkdir()
    block = "\n  x\n\n  1  0  0  0  0  0            999 V2000\n    0.0000    0.0000    0.0000 C   0  0\nM  END\n"
    sdf = "".join(
        f"{n}{block}> <PUBCHEM_COMPOUND_CID>\n{n}\n\n> <PUBCHEM_MOLECULAR_WEIGHT>\n16.04\n\n$$$$\n" for n in range(900)
    )
    packed = gzip.compress(sdf.encode())
    (raw / "pubchem" / "some.sdf.gz").write_bytes(packed[: len(packed) // 2])
    return r"some.sdf.gz.*(record|compound) \d+"


def break_header_only(raw):
    (raw / "qm9" / "qm9.csv").write_text(",mol_id,smiles,homo,lumo,gap,zpve,u0\n")
    return "qm9.csv has a header but no rows"


@pytest.mark.parametrize(
    "damage", [break_column, break_binary, break_encoding, break_empty, break_gzip, break_header_only]
)
def test_broken_file(damage, raw, tmp_path, capsys):
    whole = tmp_path / "whole"
    shutil.copytree(raw, whole)
    expected = damage(raw)
    assert re.search(expected, refused(capsys, raw, tmp_path / "out"))
    shutil.rmtree(raw)
    shutil.copytree(whole, raw)
    build(raw, tmp_path / "out")  # once the file is whole the same command completes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw", "whole"]


def test_bad_rows_are_counted_and_lose_no_good_one(raw, tmp_path):
    file = raw / "chebi_20" / "train.txt"
    file.write_text(
        file.read_text()
        + "77\tc1cccc1\tnonsense\n78\tCC\t\n79\tCC\n80\t\tnothing\n81\tCCN\tThe molecule is an amine.\n"
    )
    build(raw, tmp_path / "out", "--source", "chebi_20")
    report = read_report(tmp_path / "out")
    assert report["rows"]["molecular_captioning"] == {"train": 11, "validation": 10, "test": 10}
    reasons = {drop["reason"]: drop for drop in report["drops"]}
    assert reasons["molecule: RDKit cannot read it"]["examples"][0].startswith("chebi_20/train.txt#11")
    assert "the row has not the header's number of columns" in reasons
    assert report["inputs"][0]["file"] == "chebi_20/train.txt"


def test_wrong_arguments(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert "unknown source nonsense; known: mol_instructions" in refused(capsys, raw, out, "--source", "nonsense")
    assert "no files of ord" in refused(capsys, raw, out, "--source", "ord")
    assert "is not a folder" in refused(capsys, tmp_path / "nowhere", out)
    (tmp_path / "hollow").mkdir()
    assert "no files of any source" in refused(capsys, tmp_path / "hollow", out)
    with pytest.raises(ValueError, match="limit is 0"):
        Options(limit=0)
    with pytest.raises(ValueError, match="level is 'weak'"):
        Options(level="weak")


def test_what_is_missing_is_said(raw, tmp_path, capsys):
    build(raw, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "no rows for logp: no files of a source that feeds it (pubchem" in printed
    assert "not used: ord, would feed catalyst_prediction, solvent_prediction" in printed


# --- interruptions ---------------------------------------------------------------------------------------------------


def command(raw, out):
    return [sys.executable, "-m", "dataset_builders", "build", "--raw", raw, "--out", out, "--num-proc", "1"]


def test_kill_and_go_on(tmp_path):
    write_qm9(tmp_path / "raw", 8000)
    whole, out = tmp_path / "whole", tmp_path / "out"
    build(tmp_path / "raw", whole)
    process = subprocess.Popen(command(tmp_path / "raw", out), cwd=ROOT, start_new_session=True)
    parts = tmp_path / ".out.building" / "parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("*.parquet"))) < 2:
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    kept = {part.name: part.stat().st_mtime_ns for part in parts.glob("*.parquet")}
    assert len(kept) < 8
    build(tmp_path / "raw", out)
    assert contents(out) == contents(whole)
    assert not parts.exists()


def test_parts_are_not_made_twice(raw, tmp_path, monkeypatch):
    """A build that fails after its parts were made goes on with them; other settings start anew."""
    import dataset_builders.build as module

    def fail(*_):
        raise ValueError("no card today")

    monkeypatch.setattr(module, "finish", fail)
    out, parts = tmp_path / "out", tmp_path / ".out.building" / "parts"
    times = []
    for limit in (None, None, 5):
        with pytest.raises(ValueError, match="no card today"):
            build_published(raw, out, options=Options(workers=1, limit=limit))
        times.append({part.name: part.stat().st_mtime_ns for part in parts.iterdir()})
        assert not out.exists()
    assert times[0] == times[1] != times[2]


def test_two_builds_of_one_folder(raw, tmp_path, capsys):
    import fcntl

    work = tmp_path / ".out.building"
    work.mkdir()
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another build of" in refused(capsys, raw, tmp_path / "out")


def test_full_disk(raw, tmp_path):
    """On a file system of one megabyte, in a mount namespace of its own."""
    write = f"""
        mount -t tmpfs -o size=256k tmpfs {tmp_path}/small || exit 77
        {sys.executable} -m dataset_builders build --raw {raw} --out {tmp_path}/small/out --num-proc 1
        echo code $?
        ls -A {tmp_path}/small
        mount -o remount,size=64m {tmp_path}/small
        {sys.executable} -m dataset_builders build --raw {raw} --out {tmp_path}/small/out --num-proc 1
        echo code $?
        ls -A {tmp_path}/small
    """
    (tmp_path / "small").mkdir()
    fill = qm9_rows(4000)
    (raw / "qm9" / "qm9.csv").write_text("\n".join([",mol_id,smiles,homo,lumo,gap,zpve,u0", *fill]) + "\n")
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", write], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert "error: no space left on the disk" in done.stderr
    assert "Traceback" not in done.stderr
    _, second = done.stdout.split("code 1\n", 1)
    assert second.splitlines()[0] == ".out.building", "no output, half-written or whole"
    assert "code 0" in second
    assert second.splitlines()[-1] == "out"
