r"""MoleculeQA: questions on molecules of ChEBI and PubChem, with one right and three wrong options.

Two layouts are read. `*.jsonl` holds rows of the intermediate files in the publisher's repository: `cid`, `topic`,
`question`, `smiles_from_utils/cid2smile.json`, and either `answer` or `options`, of which the first is the right one
(`extra` has the letters under which they are shown, in the same order). `train.txt`, `valid.txt` and `test.txt` are
the released files: tab-separated CID, Question, Answer, with quotes, where the answer is a letter and the question

    <definition of the task>
    Molecule SMILES: <SMILES>
    Question about this molecule: <question>
    Option A: <text>
    ...
    Option D: <text>
    Your answer for this question:

That layout is known from the publisher's program that writes it; the tests use a small file written in it.

The task is an open question, so the wrong options are left out: the question is the instruction, the text of the
right option the answer. The SMILES have ChEBI-20's doubled backslashes, which are repaired as there.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from dataset_builders.fields import serving_split
from dataset_builders.reading import json_lines, text_lines
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Download, Source
from dataset_builders.sources.chebi_20 import single_backslashes

TASK = "description_qa"
SMILES = "smiles_from_utils/cid2smile.json"
_SPLITS = {"train.txt": "train", "valid.txt": "validation", "test.txt": "test"}
_SHOWN = re.compile(
    r"Molecule SMILES: (?P<smiles>\S*)\nQuestion about this molecule: (?P<question>.*)\n"
    + "".join(rf"Option {letter}: (?P<{letter}>.*)\n" for letter in "ABCD")
)

SOURCE = Source(
    name="molecule_qa",
    title="MoleculeQA",
    home="https://github.com/IDEA-XL/MoleculeQA",
    license="Apache-2.0",
    citation=(
        "Xingyu Lu, He Cao, Zijing Liu, Shengyuan Bai, Leqing Chen, Yuan Yao, Hai-Tao Zheng, Yu Li. MoleculeQA: A "
        "Dataset to Evaluate Factual Accuracy in Molecular Comprehension. Findings of EMNLP 2024."
    ),
    files=("*.jsonl", *_SPLITS),
    tasks={TASK: "answer to a question about structure, source, use or property: the text of the right option"},
    downloads=tuple(
        Download(
            f"molecule_qa/{name}",
            hub_id="hcaoaf/MoleculeQA",
            hub_file=f"TXT/All/{name}",
            revision="cd1bcb922c9127b57e0944cdb605baccaa98ef9d",
        )
        for name in _SPLITS
    ),
    left_out="The wrong options: the task asks for an answer in words, not for a choice.",
    notes=(
        "A stand-in: the paper's questions are those of 3D-MoIT. The publisher splits by scaffold (49,993, 5,795 and "
        "5,786 questions); the rows of the JSON files are unsplit and split by hash. The repository says Apache-2.0, "
        "the card of the released files MIT."
    ),
)


def read(path: Path) -> Iterator[Record | Drop]:
    """One record a question; `subset` is its topic, where the file has one."""
    yield from _json_rows(path) if path.suffix == ".jsonl" else _shown_rows(path)


def _json_rows(path: Path) -> Iterator[Record | Drop]:
    for number, row in json_lines(path):
        if isinstance(row, Drop):
            yield row
            continue
        options = row.get("options") or [None]
        answer = row.get("answer") or options[0]
        texts = [row.get(SMILES), row.get("question"), answer]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            yield Drop(TASK, str(number), "no SMILES, no question or no answer")
            continue
        smiles, question, answer = texts
        yield _record(str(number), smiles, question, answer, str(row.get("cid", "")), subset=str(row.get("topic", "")))


def _shown_rows(path: Path) -> Iterator[Record | Drop]:
    file_of = {split: path.with_name(name) for name, split in _SPLITS.items()}
    split = serving_split(_SPLITS[path.name], lambda other: file_of[other].exists())
    lines = csv.reader((line + "\n" for _, line in text_lines(path)), delimiter="\t", strict=True)
    number = 0
    try:
        if (header := next(lines, None)) != ["CID", "Question", "Answer"]:
            raise ValueError(f"{path}: expected the columns CID, Question, Answer; it has {header}")
        for number, row in enumerate(lines, 1):
            shown = _SHOWN.search(row[1]) if len(row) == 3 else None
            if shown is None or row[2] not in ("A", "B", "C", "D"):
                yield Drop(TASK, str(number), "not a question with options A to D and the letter of the right one")
                continue
            smiles, question, answer = shown["smiles"], shown["question"], shown[row[2]]
            yield _record(str(number), smiles, question, answer, row[0], split=split, license="MIT")
    except csv.Error as error:
        raise ValueError(f"{path}, row {number + 1}: {error}") from error
    if number == 0:
        raise ValueError(f"{path} has a header but no rows")


def _record(place: str, smiles: str, question: str, answer: str, cid: str, **further: str) -> Record:
    molecules = {"molecule": single_backslashes(smiles)}
    texts = {"text": answer.strip(), "instruction": question.strip()}
    return Record(TASK, place, molecules, publisher_id=cid, **texts, **further)
