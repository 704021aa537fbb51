"""USPTO-500-MT of T5Chem: pairs of text files in a `.tar.bz2`, a line a molecule or reaction, in SMILES.

The archive holds a folder a task with `{train,val,test}.{source,target}`; line n of the source asks for line n of the
target. The sample that T5Chem ships (`data/sample/product/train.source`) is tested on the real file. The full release
has the same files under `data/USPTO_500_MT/` with capitalised folders, as its Readme says.

* product: `reactants.reagents>>` -> product
* reactants: product -> reactants
* reagents: `reactants>>product` -> reagents
"""

import bz2
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dataset_builders.fields import reaction
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Download, Source

SOURCE = Source(
    name="uspto_500_mt",
    title="USPTO-500-MT",
    home="https://github.com/HelloJocelynLu/t5chem",
    license="MIT",
    citation="Lu and Zhang, Unified Deep Learning Model for Multitask Reaction Predictions with Explanation, "
    "J. Chem. Inf. Model. 2022, 62, 1376",
    files=("*.tar.bz2",),
    tasks={
        "forward_prediction": "product recorded in a US patent",
        "retrosynthesis": "reactants recorded in a US patent",
        "reagent_prediction": "reagents recorded in a US patent",
    },
    downloads=(
        Download(
            "uspto_500_mt/USPTO_500_MT.tar.bz2",
            url="https://yzhang.hpc.nyu.edu/T5Chem/data/USPTO_500_MT.tar.bz2",
        ),
    ),
    left_out="`mixed` repeats the three tasks with a prefix; `classification` (reaction type) and `pretrain` (single "
    "molecules) are no tasks of the paper; yields (`regression` of the sample, `Yield` of the release) are "
    "Buchwald-Hartwig rows that rxn_yields brings, and yields read off patents; the CSV files repeat the rows.",
    notes="The release has 116,360 train, 12,937 validation and 14,238 test reactions, each in all three tasks. The "
    "paper's reagent and retrosynthesis rows come from it by way of Mol-Instructions, where their sizes stand.",
)

_TASKS = {"product": "forward_prediction", "reactants": "retrosynthesis", "reagents": "reagent_prediction"}
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def read(path: Path) -> Iterator[Record | Drop]:
    """The pairs of the three tasks, in the order in which the archive completes them.

    The archive is read once, from front to back; what is held in memory are the files whose partner has not come yet.
    """
    waiting: dict[tuple[str, str], dict[str, list[str]]] = {}
    found = False
    for folder, split, side, lines in _members(path):
        pair = waiting.setdefault((folder, split), {})
        pair[side] = lines
        if len(pair) == 2:
            found = True
            yield from _pairs(path, folder, split, **waiting.pop((folder, split)))
    for (folder, split), pair in waiting.items():
        raise ValueError(f"{path}: {folder}/{split}.{''.join(pair)} is there without its partner .source or .target")
    if not found:
        raise ValueError(f"{path}: no {', '.join(_TASKS)} folder with train, val or test .source and .target files")


def _members(path: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Folder, split, `source` or `target`, and lines of each file that is used."""
    last = "the start"
    try:
        with bz2.open(path) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                folder, split, side = name.parent.name.lower(), name.stem, name.suffix[1:]
                if member.isfile() and folder in _TASKS and split in _SPLITS and side in ("source", "target"):
                    yield folder, split, side, list(io.StringIO(archive.extractfile(member).read().decode()))
                last = member.name
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole tar.bz2 archive, it breaks after {last}: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the file after {last} is not UTF-8 text: {error}") from error


def _pairs(path: Path, folder: str, split: str, source: list[str], target: list[str]) -> Iterator[Record | Drop]:
    if len(source) != len(target):
        raise ValueError(
            f"{path}: {folder}/{split} has {len(source)} lines in .source but {len(target)} in .target; "
            "the lines of the two belong together"
        )
    task = _TASKS[folder]
    for number, (question, answer) in enumerate(zip(source, target, strict=True), 1):
        place = f"{folder}/{split}/{number}"
        try:
            yield Record(task, place, _molecules(folder, question.strip(), answer.strip()), split=_SPLITS[split])
        except ValueError as error:
            yield Drop(task, place, str(error))


def _molecules(folder: str, question: str, answer: str) -> dict[str, str]:
    if not question or not answer:
        raise ValueError("a blank line in the .source or .target file")
    if folder == "reactants":
        return {"product": question, "reactants": answer}
    if folder == "reagents":
        return reaction(question) | {"reagents": answer}
    reactants, arrow, rest = question.partition(">>")
    if not arrow or not reactants or rest:
        raise ValueError("the source is not reactants.reagents>>")
    return {"reactants": reactants, "product": answer}
