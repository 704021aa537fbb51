"""The reader of Organic Syntheses' procedures, against the raw lines and on bad ones."""

import json
import re

import pytest

from dataset_builders.schema import Drop, Record
from dataset_builders.sources import orgsyn_procedures as source
from dataset_builders.sources.orgsyn_procedures import TASK, read
from tests.conftest import SHARED

QUESTION = "Predict the experimental procedure of the following reaction:"
ROW = {
    "rxID": "CV1",
    "source": QUESTION + "CCO.[OH-]~[K+]>>CC=O.O",
    "target": "ADD $1$ ; ADD $2$ at #4# ; STIR for @1@ ; YIELD $-1$",
    "num_reactants": 2,
    "num_products": 2,
}


@pytest.fixture(scope="module")
def files():
    if SHARED is None:
        pytest.skip("no folder ../shared with real source data")
    return source.SOURCE.present(SHARED / "raw")


def test_every_line_of_the_real_files(files):
    assert [path.name for path in files] == ["train.jsonl", "valid.jsonl"]
    for path, split, size in zip(files, ("train", "test"), (696, 149), strict=True):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found = list(read(path))
        assert len(found) == len(rows) == size
        for number, (record, row) in enumerate(zip(found, rows, strict=True), 1):
            assert (record.task, record.place, record.publisher_id) == (TASK, str(number), row["rxID"])
            assert (record.text, record.split) == (row["target"], split)
            left = [record.molecules[name] for name in record.roles["Reactants"]]
            right = [record.molecules[name] for name in record.roles["Product"]]
            assert QUESTION + ".".join(left) + ">>" + ".".join(right) == row["source"]
            assert (len(left), len(right)) == (row["num_reactants"], row["num_products"])
            assert list(record.roles["Reactants"]) == [f"${k + 1}$" for k in range(len(left))]
            named = [int(name) for name in re.findall(r"\$(-?\d+)\$", row["target"])]
            assert 0 not in named
            assert -len(right) <= min(named) <= max(named) <= len(left)


def test_several_products_are_all_listed(files):
    found = [record for path in files for record in read(path)]
    several = [record for record in found if len(record.roles["Product"]) > 1]
    assert len(several) == 25
    assert sum("$-2$" in record.text for record in several) == 6


# --- bad lines -------------------------------------------------------------------------------------------------------


def outcome_of(tmp_path, row, name="train.jsonl"):
    path = tmp_path / name
    path.write_text(json.dumps(ROW) + "\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n")
    first, second = read(path)
    assert isinstance(first, Record)
    return second


def test_a_sound_line(tmp_path):
    assert outcome_of(tmp_path, ROW) == Record(
        task=TASK,
        place="2",
        molecules={"$1$": "CCO", "$2$": "[OH-]~[K+]", "$-1$": "CC=O", "$-2$": "O"},
        roles={"Reactants": ("$1$", "$2$"), "Product": ("$-1$", "$-2$")},
        text=ROW["target"],
        split="train",
        publisher_id="CV1",
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": None}, "source or target is missing, or no text"),
        ({"source": 7}, "source or target is missing, or no text"),
        ({"source": "CCO>>CC=O"}, "the source is not the usual question with a reaction"),
        ({"source": QUESTION + "CCO.CC=O"}, "the source is not the usual question with a reaction"),
        ({"source": QUESTION + "CCO>>CC=O>>C"}, "the source is not the usual question with a reaction"),
        ({"source": QUESTION + "CCO.>>CC=O"}, "the reaction has an empty component"),
        ({"source": QUESTION + ">>CC=O"}, "the reaction has an empty component"),
        ({"num_reactants": 3}, "the reaction has not as many components as the row says"),
        ({"target": "  "}, "there are no actions"),
        ({"target": "ADD $3$ ; YIELD $-1$"}, "the actions name a component that is not listed"),
        ({"target": "ADD $1$ ; YIELD $-3$"}, "the actions name a component that is not listed"),
    ],
)
def test_bad_lines_are_dropped(tmp_path, change, reason):
    assert outcome_of(tmp_path, ROW | change) == Drop(TASK, "2", reason)


def test_a_line_that_is_no_json_is_dropped(tmp_path):
    assert isinstance(outcome_of(tmp_path, '{"rxID": '), Drop)


@pytest.mark.parametrize(
    ("present", "splits"),
    [
        (("train", "valid", "test"), {"train": "train", "valid": "validation", "test": "test"}),
        (("train", "valid"), {"train": "train", "valid": "test"}),
        (("valid", "test"), {"valid": "train", "test": "test"}),
        (("valid",), {"valid": ""}),
    ],
)
def test_validation_serves_as_what_is_missing(tmp_path, present, splits):
    for name in present:
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(ROW))
    assert {name: next(read(tmp_path / f"{name}.jsonl")).split for name in present} == splits


@pytest.mark.parametrize("data", [b"", b"\x89PNG\x00\x01", "é".encode("latin-1"), b"not json\n"])
def test_broken_files_are_named(tmp_path, data):
    (tmp_path / "train.jsonl").write_bytes(data)
    with pytest.raises(ValueError, match=r"train\.jsonl"):
        list(read(tmp_path / "train.jsonl"))
