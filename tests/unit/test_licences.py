"""Rows of sources without a stated licence: they are counted, and a copy without them is a dataset as built."""

import copy
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from dataset_builders.finish import finish
from dataset_builders.folder import read_report
from dataset_builders.licences import count_unlicensed, licensed_copy
from dataset_builders.schema import FEATURES
from dataset_builders.source import NOT_STATED

LICENSES = {"chebi_20": "CC-BY-4.0", "orgsyn_procedures": NOT_STATED, "openexp": NOT_STATED, "omni_mol": "Apache-2.0"}
# task -> split -> shards, each a list of (source, rows)
LAYOUT = {
    "molecular_captioning": {"train": [[("chebi_20", 7)]], "test": [[("chebi_20", 3)]]},
    "experiment_procedure": {
        "train": [[("orgsyn_procedures", 4)], [("orgsyn_procedures", 2), ("omni_mol", 3), ("openexp", 1)]],
        "test": [[("omni_mol", 2)]],
    },
    "molecule_editing": {"train": [[("openexp", 5)]]},
}


def row(task: str, split: str, source: str, number: int) -> dict:
    text = dict.fromkeys(FEATURES, "")
    graphs = {"graph_smiles": ["C" * (number + 1)], "input": "[C]" * (number + 1)}
    known = {"id": f"{source}-{task}-{split}{number}", "task": task, "instruction": "What is it?", "output": "[C]"}
    terms = {"source": source, "license": LICENSES[source], "label_source": "published", "source_id": f"f#{number}"}
    return text | graphs | known | terms


def build(folder, layout) -> dict:
    """Writes a dataset as `build` does, row groups of two rows; returns its report."""
    rows: dict = {}
    by_source: dict = {}
    for task, splits in layout.items():
        (folder / task).mkdir(parents=True)
        rows[task] = {"train": 0, "validation": 0, "test": 0}
        for split, shards in splits.items():
            for number, parts in enumerate(shards):
                made = [row(task, split, source, 10 * number + i) for source, count in parts for i in range(count)]
                file = folder / task / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
                pq.write_table(pa.Table.from_pylist(made, schema=FEATURES.arrow_schema), file, row_group_size=2)
                rows[task][split] += len(made)
                for source, count in parts:
                    by_source[source, task, split] = by_source.get((source, task, split), 0) + count
    report = {
        "name": "omni-mol-instruct", "version": "1", "level": "exact", "limit": None, "tools": {}, "inputs": [],
        "rows": rows, "sources": list(LICENSES), "drops": [], "overlaps": {"before": {}, "after": {}}, "left_out": {},
        "missing_sources": {},
        "rows_by_source": [
            {"source": source, "task": task, "split": split, "rows": count}
            for (source, task, split), count in by_source.items()
        ],
    }  # fmt: skip
    finish(folder, report)
    return report


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "built"
    return folder, build(folder, LAYOUT)


@pytest.fixture(scope="module")
def copied(built):
    folder, report = built
    before = copy.deepcopy(report)
    target = folder.with_name("copy")
    target.mkdir()
    licensed_copy(folder, target, report, count_unlicensed(folder))
    assert report == before
    return target


def test_rows_without_a_licence_are_counted(built):
    assert count_unlicensed(built[0]) == {
        ("experiment_procedure", "train", "orgsyn_procedures"): 6,
        ("experiment_procedure", "train", "openexp"): 1,
        ("molecule_editing", "train", "openexp"): 5,
    }


def test_the_copy_says_what_it_holds_and_what_it_lacks(copied):
    report = read_report(copied)  # checksums and files agree
    assert report["rows"] == {
        "molecular_captioning": {"train": 7, "validation": 0, "test": 3},
        "experiment_procedure": {"train": 3, "validation": 0, "test": 2},
    }
    assert [(entry["source"], entry["rows"]) for entry in report["rows_by_source"]] == [
        ("chebi_20", 7), ("chebi_20", 3), ("omni_mol", 3), ("omni_mol", 2)
    ]  # fmt: skip
    assert report["sources"] == ["chebi_20", "omni_mol"]
    assert report["left_out"]["molecule_editing"] == "its rows are of openexp, which states no licence"
    assert {(entry["source"], entry["task"]): entry["rows"] for entry in report["unlicensed"]} == {
        ("orgsyn_procedures", "experiment_procedure"): 6,
        ("openexp", "experiment_procedure"): 1,
        ("openexp", "molecule_editing"): 5,
    }
    shards = sorted(str(file.relative_to(copied)) for file in copied.rglob("*-*"))
    assert shards == [
        "experiment_procedure/test-00000-of-00001.parquet",
        "experiment_procedure/train-00000-of-00001.parquet",
        "molecular_captioning/test-00000-of-00001.parquet",
        "molecular_captioning/train-00000-of-00001.parquet",
    ]


def test_the_original_is_left_as_it_was(built, copied):
    assert read_report(built[0]) == json.loads(json.dumps(built[1]))
    assert count_unlicensed(built[0])
    assert not count_unlicensed(copied)


def test_the_copy_loads_as_the_original_does(built, copied, tmp_path):
    original, found = (
        load_dataset(str(folder), "experiment_procedure", cache_dir=str(tmp_path)) for folder in (built[0], copied)
    )
    for split in ("train", "test"):
        assert list(found[split]) == [row for row in original[split] if row["license"] != NOT_STATED]
        assert found[split].features == original[split].features
    assert len(found["train"]) == 3


def test_a_dataset_without_any_licence_is_not_copied(built, tmp_path):
    folder, report = built
    alone = {**report, "rows": {"molecule_editing": report["rows"]["molecule_editing"]}}
    with pytest.raises(ValueError, match="nothing is left to publish"):
        licensed_copy(folder, tmp_path, alone, {("molecule_editing", "train", "openexp"): 5})
    assert not list(tmp_path.iterdir())
