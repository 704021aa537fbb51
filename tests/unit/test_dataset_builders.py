"""Building a dataset folder: same bytes, one schema, a sound split, and refusals."""

import json

import pytest

pytest.importorskip("tblite", reason="the starter extra is not installed")

from datasets import get_dataset_config_names, load_dataset
from rdkit import Chem

from dataset_builders.__main__ import main
from dataset_builders.build import Options, build_starter
from dataset_builders.folder import read_report
from dataset_builders.schema import FEATURES, split_of, stable_hash
from omnimol_hf.chemistry_omnimol import graph_components, selfies_to_smiles
from omnimol_hf.tasks import EXTRA_TASKS, TASKS

LIMIT = 80


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "starter"
    return folder, build_starter(folder, Options(limit=LIMIT, workers=2))["rows"]


@pytest.fixture(scope="module")
def rows(built, tmp_path_factory):
    return load_dataset(str(built[0]), cache_dir=str(tmp_path_factory.mktemp("cache")))


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_same_bytes_whatever_the_process_count(built, tmp_path):
    build_starter(tmp_path / "again", Options(limit=LIMIT, workers=1))
    assert contents(tmp_path / "again") == contents(built[0])
    assert [file.name for file in tmp_path.iterdir()] == ["again"], "nothing is left beside the result"


def test_configs(built, rows, tmp_path):
    folder, counts = built
    assert set(counts) == set(TASKS) - {"yield_regression"}
    assert get_dataset_config_names(str(folder)) == ["unified", *counts]
    assert {split: len(rows[split]) for split in rows} == {
        split: sum(splits[split] for splits in counts.values()) for split in ("train", "test")
    }
    logp = load_dataset(str(folder), "logp", cache_dir=str(tmp_path))
    assert {split: len(logp[split]) for split in logp} | {"validation": 0} == counts["logp"]
    assert logp["train"].features == FEATURES
    streamed = load_dataset(str(folder), "logp", split="train", streaming=True)
    assert list(streamed) == list(logp["train"])


def test_ids_are_unique(rows):
    ids = [row_id for split in rows.values() for row_id in split["id"]]
    assert len(set(ids)) == len(ids)


def test_rows_follow_their_task(rows):
    for row in rows["test"]:
        task = TASKS[row["task"]]
        assert row["category"] == task.category
        if row["task"] != "description_qa":
            number = stable_hash(row["id"])
            assert row["instruction"] == task.instruction(number, row["subset"])
        components = graph_components(row["input"], task.graph_rule)
        assert row["graph_smiles"] == [selfies_to_smiles(component) for component in components]
        assert all(row[column] for column in ("input", "output", "source", "license", "label_source", "source_id"))


def flat(selfies):
    return Chem.MolToSmiles(Chem.MolFromSmiles(selfies_to_smiles(selfies)), isomericSmiles=False)


def test_no_molecule_and_no_product_is_on_both_sides(rows):
    """Molecules of molecule tasks and products of reaction tasks, without stereo, over all tasks together."""
    sides = {"train": set(), "test": set()}
    for split, side in sides.items():
        for row in rows[split]:
            if row["task"] == "forward_prediction":
                side.add(flat(row["output"]))
            elif row["category"] == "reaction" and ">>" in row["input"]:
                side.add(flat(row["input"].partition(">>")[2]))
            elif row["category"] != "action":
                side.add(flat(row["input"]))
    assert len(sides["test"]) > 20
    assert not sides["train"] & sides["test"]


def test_split_share():
    share = sum(split_of(f"C{number}") == "test" for number in range(5_000)) / 5_000
    assert 0.085 < share < 0.115


def test_report_and_card(built):
    folder, counts = built
    report = read_report(folder)
    assert report["rows"] == counts
    assert report["left_out"].keys() == {"yield_regression", *EXTRA_TASKS}
    assert report["limit"] == LIMIT
    card = (folder / "README.md").read_text()
    for text in ("BertzCT", "not measured", "yield_regression", "default: true", "BSD-3-Clause", "--limit"):
        assert text in card
    for drop in report["drops"]:
        assert f"| {drop['task']} | {drop['reason']} | {drop['count']} |" in card


def test_existing_folder_is_refused(built, tmp_path):
    folder, _ = built
    with pytest.raises(ValueError, match=r"exists already.*--overwrite"):
        build_starter(folder, Options(limit=LIMIT))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not a built dataset"):
        build_starter(foreign, Options(limit=LIMIT, overwrite=True))
    assert (foreign / "thesis.txt").read_text() == "precious"


def test_overwrite_and_other_version(built, tmp_path):
    folder, _ = built
    before = contents(folder)
    build_starter(folder, Options(limit=LIMIT, workers=2, overwrite=True))
    assert contents(folder) == before
    other = tmp_path / "other"
    other.mkdir()
    for name, data in before.items():
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_bytes(data)
    report = json.loads(before["build_report.json"]) | {"version": "0"}
    from dataset_builders.folder import write_manifest

    (other / "SHA256SUMS").unlink()
    (other / "build_report.json").write_text(json.dumps(report))
    write_manifest(other)
    with pytest.raises(ValueError, match="version 0"):
        build_starter(other, Options(overwrite=True))


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"workers": -1}])
def test_bad_numbers(tmp_path, arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        build_starter(tmp_path / "x", Options(**arguments))


def test_push_refuses_what_was_not_built(built, tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        main(["push", "--path", str(tmp_path), "--repo-id", "lab/data"])
    assert "is not a built dataset" in capsys.readouterr().err
    broken = tmp_path / "broken"
    for name, data in contents(built[0]).items():
        (broken / name).parent.mkdir(exist_ok=True, parents=True)
        (broken / name).write_bytes(data + b" " if name == "README.md" else data)
    with pytest.raises(SystemExit, match="1"):
        main(["push", "--path", str(broken), "--repo-id", "lab/data"])
    assert "README.md has changed" in capsys.readouterr().err
