"""Experimental procedures of Organic Syntheses as action sequences, published with ProcedureT5 (`train.jsonl` etc.).

A line has `source`, a fixed question followed by a reaction SMILES, and `target`, the actions. Both are kept as
published:

- Components are joined by `.`, the ions of one by `~`. `$k$` in the actions is the k-th component on the left, `$-k$`
  the k-th product. The left side does not tell reagents from solvents or catalysts, so all are listed as reactants; a
  component may stand there twice, or go unnamed in the actions. Where there are several products all are listed.
- `#k#` and `@k@` are temperatures and durations in the classes of Vaucher et al. (Nat. Commun. 2021, 12, 2573):
  #1# below -50 °C, #2# to -10 °C, #3# to 10 °C, #4# to 40 °C, #5# to 80 °C, #6# above;
  @1@ below 30 minutes, @2@ to 3 hours, @3@ to 10 hours, @4@ to 50 hours, @5@ longer.

The publisher's test file serves as test; where it is absent, the validation file does.
"""

import re
from collections.abc import Container, Iterator
from pathlib import Path

from dataset_builders.fields import SPLIT_WORDS, serving_split
from dataset_builders.reading import json_lines
from dataset_builders.schema import Drop, Record
from dataset_builders.source import NOT_STATED, Download, Source

TASK = "experiment_procedure"

_QUESTION = "Predict the experimental procedure of the following reaction:"
_REPOSITORY = "https://raw.githubusercontent.com/yuxuanzhang-1024/ProcedureT5/168b163d64b7b4152b95fc309be54f9f5b1d0459"

SOURCE = Source(
    name="orgsyn_procedures",
    title="Organic Syntheses procedures (ProcedureT5)",
    home="https://github.com/yuxuanzhang-1024/ProcedureT5",
    license=NOT_STATED,
    citation=(
        "Zhang et al., ProcedureT5, https://github.com/yuxuanzhang-1024/ProcedureT5; procedures: Organic Syntheses, "
        "http://www.orgsyn.org; action format: Vaucher et al., Nat. Commun. 2021, 12, 2573, "
        "https://doi.org/10.1038/s41467-021-22951-1"
    ),
    files=("train.jsonl", "valid.jsonl", "test.jsonl"),
    tasks={TASK: "action sequence that experts took from the published procedure; temperatures and times in classes"},
    downloads=tuple(
        Download(
            path=f"orgsyn_procedures/{split}.jsonl",
            url=f"{_REPOSITORY}/dataset/Orgsyn/T5/{split}.jsonl",
            sha256=sha256,
        )
        for split, sha256 in (
            ("train", "a2a9260c11a38295b49a2f6f6bf9b302428ac15027681aa5809f638099408a47"),
            ("valid", "62101d0ca801bc871bf4ad09f7fdf9aa6e81764d5eee278fdd9a0febfa6aea6f"),
            ("test", ""),
        )
    ),
    left_out="The augmented variant (Orgsyn_Aug) and the Pistachio data, which the publisher may not pass on.",
    notes=(
        "Solvents, catalysts and reagents are not told apart: all stand under `Reactants`. Validation serves as test "
        "(or train) where that file is absent."
    ),
)


def read(path: Path) -> Iterator[Record | Drop]:
    """The records of one of the files; the place is the line.

    Raises:
        ValueError: If the file is no UTF-8 text, or no line of it is JSON; names the file.
    """
    split = split_of_file(path)
    for number, row in json_lines(path):
        if isinstance(row, Drop):
            yield row
            continue
        try:
            molecules, text = _procedure(row)
        except ValueError as reason:
            yield Drop(TASK, str(number), str(reason))
            continue
        yield Record(
            task=TASK,
            place=str(number),
            molecules=molecules,
            roles={
                "Reactants": tuple(name for name in molecules if not name.startswith("$-")),
                "Product": tuple(name for name in molecules if name.startswith("$-")),
            },
            text=text,
            split=split,
            publisher_id=str(row.get("rxID", "")),
        )


def _procedure(row: dict) -> tuple[dict[str, str], str]:
    """The molecules by name, and the actions; a `ValueError` is the reason to drop the row."""
    source, text = row.get("source"), row.get("target")
    if not isinstance(source, str) or not isinstance(text, str):
        raise ValueError("source or target is missing, or no text")
    question, found, reaction = source.partition(_QUESTION)
    left, arrow, right = reaction.partition(">>")
    if question or not found or not arrow or ">" in right:
        raise ValueError("the source is not the usual question with a reaction")
    sides = [[component.strip() for component in side.split(".")] for side in (left, right)]
    if not all(map(all, sides)):
        raise ValueError("the reaction has an empty component")
    if [len(side) for side in sides] != [
        row.get("num_reactants", len(sides[0])),
        row.get("num_products", len(sides[1])),
    ]:
        raise ValueError("the reaction has not as many components as the row says")
    molecules = {
        f"${sign}{k}$": smiles for sign, side in zip(("", "-"), sides, strict=True) for k, smiles in enumerate(side, 1)
    }
    check_actions(text, molecules)
    return molecules, text.strip()


def check_actions(text: str, names: Container[str]) -> None:
    """Raises a `ValueError`, the reason to drop the row, if there are no actions or they name what is not listed."""
    if not text.strip():
        raise ValueError("there are no actions")
    if not all(name in names for name in re.findall(r"\$-?\d+\$", text)):
        raise ValueError("the actions name a component that is not listed")


def split_of_file(path: Path) -> str:
    """The split of a publisher's file by its name; see `serving_split`."""
    return serving_split(SPLIT_WORDS[path.stem], lambda other: path.with_stem(other).exists())
