"""DrugChat's questions about drugs: JSON objects `{SMILES: [[question, answer], ...], ...}`.

Answers that are numbers or booleans in the JSON become text (`true` is Yes, as the publisher writes it elsewhere). A
question that the publisher answers more than once, such as the mechanism of action, gives a record for each answer.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataset_builders.reading import json_members
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Download, Source

TASK = "description_qa"
_PUBLISHED = {"ChEMBL_QA_train.json": "train", "ChEMBL_QA_test.json": "test"}
_HUB = {"hub_id": "alxfgh/drugchat", "revision": "e03b517ae0a0e507bfcaa3518ff001c07864273b"}

SOURCE = Source(
    name="drugchat",
    title="DrugChat",
    home="https://github.com/UCSD-AI4H/drugchat",
    license="BSD-3-Clause",
    citation=(
        "Youwei Liang, Ruiyi Zhang, Li Zhang, Pengtao Xie. DrugChat: Towards Enabling ChatGPT-Like Capabilities on "
        "Drug Molecule Graphs. arXiv:2309.03907, 2023. Facts: Anna Gaulton et al. The ChEMBL database in 2017. "
        "Nucleic Acids Research 45, 2017."
    ),
    files=(*_PUBLISHED, "PubChem_QA.json"),
    tasks={TASK: "answer to a question about a drug, from ChEMBL's and PubChem's records"},
    downloads=tuple(Download(f"drugchat/{name}", hub_file=name, **_HUB) for name in (*_PUBLISHED, "PubChem_QA.json")),
    left_out="ChEMBL_QA.json, which is the train and the test file in one.",
    notes=(
        "A stand-in: the paper's questions are those of 3D-MoIT. The answers come from ChEMBL (CC BY-SA 3.0) and "
        "PubChem. The publisher's split is used where train and test lie together; a single file is split by hash."
    ),
)


def read(path: Path) -> Iterator[Record | Drop]:
    """One record a question and answer; `place` is `<molecule>/<pair>`."""
    split = _PUBLISHED.get(path.name, "")
    if not all((path.parent / name).exists() for name in _PUBLISHED):
        split = ""
    for number, (smiles, pairs) in json_members(path):
        if not isinstance(pairs, list):
            yield Drop(TASK, str(number), "the molecule has no list of questions and answers")
            continue
        for position, pair in enumerate(pairs, 1):
            place = f"{number}/{position}"
            if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
                yield Drop(TASK, place, "not a pair of question and answer")
            elif not (question := pair[0].strip()):
                yield Drop(TASK, place, "no question")
            elif not (answer := _text(pair[1])):
                yield Drop(TASK, place, "no answer")
            else:
                yield Record(TASK, place, {"molecule": smiles}, text=answer, instruction=question, split=split)


def _text(answer: Any) -> str:
    """The answer as text; empty for what is neither text nor number nor boolean."""
    if isinstance(answer, bool):
        return "Yes" if answer else "No"
    return str(answer).strip() if isinstance(answer, str | int | float) else ""
