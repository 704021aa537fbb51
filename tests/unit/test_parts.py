"""Parts: rows and drops in one file, whole or not there at all."""

import pyarrow.parquet as pq
import pytest

from dataset_builders.clean import Origin
from dataset_builders.parts import SCHEMA, Drops, read_drops, read_keys, write_part
from dataset_builders.schema import Drop, Record

ORIGIN = Origin("book", "CC0", "book/page.csv")


def items(smiles):
    return [
        (f"book-logp-{n}", Record("logp", str(n), {"molecule": one}, value=1.0)) for n, one in enumerate(smiles, 1)
    ]


def test_rows_and_drops(tmp_path):
    given = [
        *items(["C", "*C", "CC", "*CC", "*CCC", "*CCCC"]),
        Drop("all tasks", "7", "torn"),
        Drop("logp", "8", "x", "y"),
    ]
    write_part(tmp_path / "a.parquet", ORIGIN, given, False)
    write_part(tmp_path / "b.parquet", ORIGIN, items(["*", "CCC"]), False)
    parts = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    assert pq.read_schema(parts[0]).names == SCHEMA.names
    assert pq.read_table(parts[0])["id"].to_pylist() == ["book-logp-1", "book-logp-3"]
    assert read_keys(parts).num_rows == 3
    drops, records = read_drops(parts)
    assert records == [8, 2]
    wildcard = "molecule: SELFIES cannot write it: it has a wildcard atom"
    assert drops.listed() == [
        {"task": "all tasks", "source": "book", "reason": "torn", "count": 1, "examples": ["book/page.csv#7"]},
        {
            "task": "logp",
            "source": "book",
            "reason": wildcard,
            "count": 5,
            "examples": [f"book/page.csv#{n}" for n in (2, 4, 5)],
        },
        {"task": "logp", "source": "y", "reason": "x", "count": 1, "examples": ["book/page.csv#8"]},
    ]


def test_examples_are_few_however_they_come_together():
    one = Drops()
    for number in range(5):
        one.add("logp", "book", "torn", str(number))
    assert one.listed()[0]["examples"] == ["0", "1", "2"]
    both = Drops()
    both.merge(one.listed())
    both.merge(one.listed())
    (drop,) = both.listed()
    assert (drop["count"], drop["examples"]) == (10, ["0", "1", "2"])


def test_a_part_without_rows_keeps_its_drops(tmp_path):
    write_part(tmp_path / "a.parquet", ORIGIN, items(["*"]), False)
    drops, records = read_drops([tmp_path / "a.parquet"])
    assert records == [1]
    assert drops.listed()[0]["count"] == 1
    assert read_keys([tmp_path / "a.parquet"]).num_rows == 0


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    def fail(table, path, **_):
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="No space left"):
        write_part(tmp_path / "a.parquet", ORIGIN, items(["C"]), False)
    assert list(tmp_path.iterdir()) == []
