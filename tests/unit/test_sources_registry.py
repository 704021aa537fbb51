"""The registry of sources: everything that the card, the download and the build rely on is there."""

import pytest

from dataset_builders.download import sources_table
from dataset_builders.source import Source
from dataset_builders.sources import SOURCES
from omnimol_hf.tasks import ALL_TASKS

NAMES = [
    "mol_instructions", "uspto_500_mt", "ord", "rxn_yields", "chebi_20", "qm9", "pubchem", "orgsyn_procedures",
    "drugchat", "molecule_qa", "omni_mol", "three_d_moit", "pubchemqc", "presto", "openexp",
]  # fmt: skip


def test_names_are_those_of_the_modules_in_the_order_of_the_build():
    assert list(SOURCES) == NAMES
    assert [module.__name__.split(".")[-1] for module in SOURCES.values()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_source_says_what_has_to_be_known(name):
    source = SOURCES[name].SOURCE
    assert isinstance(source, Source)
    assert callable(SOURCES[name].read)
    assert source.home.startswith("https://")
    for text in (source.title, source.license, source.citation, source.files):
        assert text
    assert source.tasks
    assert set(source.tasks) | set(source.paper_sizes) <= set(ALL_TASKS)
    assert all(source.tasks.values())
    assert source.downloads or source.how_to_get


@pytest.mark.parametrize("name", NAMES)
def test_what_is_downloaded_is_what_is_read(name, tmp_path):
    source = SOURCES[name].SOURCE
    paths = [wanted.path for wanted in source.downloads]
    assert len(set(paths)) == len(paths)
    for wanted in source.downloads:
        folder, _, file = wanted.path.partition("/")
        assert folder == name
        assert ".." not in file
        (tmp_path / wanted.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / wanted.path).touch()
        assert bool(wanted.url) != bool(wanted.hub_id and wanted.hub_file)
        assert wanted.url.startswith("https://" if wanted.url else "")
        assert len(wanted.sha256) in (0, 64)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in source.present(tmp_path)) == sorted(paths)


def test_every_task_has_a_source():
    assert {task for module in SOURCES.values() for task in module.SOURCE.tasks} == set(ALL_TASKS)


def test_the_table_shows_what_lies_there_and_how_to_get_the_rest(tmp_path):
    (tmp_path / "chebi_20").mkdir()
    (tmp_path / "chebi_20" / "test.txt").write_text("x")
    entries = dict(entry.split(":", 1) for entry in ("\n" + sources_table(tmp_path)).split("\n") if entry[:1].strip())
    assert list(entries) == NAMES
    lines = sources_table(tmp_path).split("\n")
    here = {name: next(line for line in lines[lines.index(f"{name}:{title}") :] if "here" in line)
            for name, title in entries.items()}  # fmt: skip
    assert here["chebi_20"].split() == ["here", "test.txt"]
    assert here["qm9"].split() == ["here", "nothing;", "expected", "qm9.csv"]
    assert "    get      python -m dataset_builders download chebi_20 --to DIR" in lines
    assert f"    get      {SOURCES['openexp'].SOURCE.how_to_get}" in lines
    assert "    licence  not stated" in lines
    assert "here" not in sources_table()
