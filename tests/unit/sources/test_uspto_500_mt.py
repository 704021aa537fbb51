import io
import tarfile

import pytest

from dataset_builders.schema import Drop
from dataset_builders.sources.uspto_500_mt import SOURCE, read

PAIR = {"product/train.source": "C.O>>\n", "product/train.target": "CO\n"}


def packed(path, files):
    with tarfile.open(path, "w:bz2") as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_every_line_of_the_real_archive_is_a_record(shared):
    (path,) = SOURCE.present(shared / "raw")
    with tarfile.open(path) as archive:
        lines = {
            name.removeprefix("data/sample/"): archive.extractfile(name).read().decode().split("\n")[:-1]
            for name in archive.getnames()
            if name.endswith((".source", ".target"))
        }
    records = {}
    for record in read(path):
        assert not isinstance(record, Drop)
        assert record.place not in records
        records[record.place] = record
    assert len(records) == 3 * (10_000 + 5_000 + 1_000)
    ours = {
        "product": ("forward_prediction", "{reactants}>>", "{product}"),
        "reactants": ("retrosynthesis", "{product}", "{reactants}"),
        "reagents": ("reagent_prediction", "{reactants}>>{product}", "{reagents}"),
    }
    for place, record in records.items():
        folder, split, number = place.split("/")
        task, asked, answered = ours[folder]
        assert record.task == task
        assert record.notation == "smiles"
        assert record.split == {"val": "validation"}.get(split, split)
        assert asked.format(**record.molecules) == lines[f"{folder}/{split}.source"][int(number) - 1]
        assert answered.format(**record.molecules) == lines[f"{folder}/{split}.target"][int(number) - 1]


def test_the_full_release_has_capitalised_folders_and_tasks_that_are_left_out(tmp_path):
    root = "data/USPTO_500_MT"
    files = {
        f"{root}/Product/test.target": "CO\nCCO\n",  # the archive need not have partners side by side
        f"{root}/Yield/test.source": "C.O>>CO\n",
        f"{root}/Yield/test.target": "77\n",
        f"{root}/Reactants/val.source": "CO\n",
        f"{root}/mixed/test.source": "Product:C.O>>\n",
        f"{root}/mixed/test.target": "CO\n",
        f"{root}/Product/test.source": "C.O>>\nCC.O>>\n",
        f"{root}/Reactants/val.target": "C.O\n",
        f"{root}/test.csv": "level_0,index\n",
    }
    first, second, third = read(packed(tmp_path / "USPTO_500_MT.tar.bz2", files))
    assert (first.task, first.place, first.split) == ("forward_prediction", "product/test/1", "test")
    assert second.molecules == {"reactants": "CC.O", "product": "CCO"}
    assert (third.task, third.place, third.split) == ("retrosynthesis", "reactants/val/1", "validation")


@pytest.mark.parametrize(
    ("folder", "source", "target", "reason"),
    [
        ("product", "", "CO", "a blank line in the .source or .target file"),
        ("product", "C.O>>", " ", "a blank line in the .source or .target file"),
        ("product", "C.O", "CO", "the source is not reactants.reagents>>"),
        ("product", "C.O>>CO", "CO", "the source is not reactants.reagents>>"),
        ("product", ">>", "CO", "the source is not reactants.reagents>>"),
        ("reagents", "C.O>>", "CO", "not a reaction reactants>>product"),
    ],
)
def test_lines_that_cannot_be_used_are_dropped_and_the_next_ones_keep_their_partner(
    tmp_path, folder, source, target, reason
):
    good = {"product": ("C.O>>", "CO"), "reagents": ("C>>CO", "O")}[folder]
    files = {f"{folder}/train.source": f"{source}\n{good[0]}\n", f"{folder}/train.target": f"{target}\n{good[1]}\n"}
    dropped, kept = read(packed(tmp_path / "x.tar.bz2", files))
    assert (dropped.place, dropped.reason) == (f"{folder}/train/1", reason)
    assert kept.place == f"{folder}/train/2"
    assert kept.molecules["product"] == "CO"


def test_trailing_blank_lines_count_as_lines(tmp_path):
    files = {"product/train.source": "C.O>>\nC.N>>\n", "product/train.target": "CO\n\n"}
    assert [type(one).__name__ for one in read(packed(tmp_path / "x.tar.bz2", files))] == ["Record", "Drop"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (PAIR | {"product/train.target": "CO\nCN\n"}, "product/train has 1 lines in .source but 2 in .target"),
        (PAIR | {"product/val.source": "C>>\n"}, "product/val.source is there without its partner"),
        ({"mixed/train.source": "C", "mixed/train.target": "C"}, "no product, reactants, reagents folder with"),
        (PAIR | {"product/train.target": b"\xff\xfe\n"}, "the file after product/train.source is not UTF-8 text"),
    ],
)
def test_broken_contents_are_named(tmp_path, files, message):
    with pytest.raises(ValueError, match=rf"x\.tar\.bz2: {message}"):
        list(read(packed(tmp_path / "x.tar.bz2", files)))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_archive_never_passes_for_a_whole_one(shared, tmp_path, share):
    (whole,) = SOURCE.present(shared / "raw")
    data = whole.read_bytes()
    path = tmp_path / "cut.tar.bz2"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"cut\.tar\.bz2: not a whole tar.bz2 archive, it breaks after"):
        for _ in read(path):
            pass


def test_another_kind_of_file_is_named(tmp_path):
    path = tmp_path / "x.tar.bz2"
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ValueError, match=r"x\.tar\.bz2: not a whole tar.bz2 archive"):
        list(read(path))
