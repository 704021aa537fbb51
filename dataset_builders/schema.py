"""The one row schema that all tasks share, and the records that sources yield.

A source says what the data is (`Record`); everything that must be equal for all sources (canonical molecules, id,
split, instruction, graph molecules) is decided in `clean.py` and `build.py`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from datasets import Features, List, Value

SPLITS = ("train", "validation", "test")

_TEXT = (
    "id",
    "task",
    "category",
    "instruction",
    "input",
    "output",
    "subset",
    "components",
    "source",
    "license",
    "label_source",
    "source_id",
)
FEATURES = Features(
    {name: Value("string") for name in _TEXT[:6]}
    | {"graph_smiles": List(Value("string"))}
    | {name: Value("string") for name in _TEXT[6:]}
)

COLUMN_MEANINGS = {
    "id": "`<source>-<task>-<number>`; the same in every build of the same files",
    "task": "name of the task, equal to the config's name",
    "category": "`reaction`, `regression`, `description` or `action`; `generation` of some extra tasks",
    "instruction": "what is asked, without the molecule",
    "input": "molecules as SELFIES joined by `.`, of reactions `reactants>>product`; of some extra tasks a text",
    "output": "the answer, in the same notation",
    "graph_smiles": "canonical SMILES of the molecules that become graph tokens, one string a molecule",
    "subset": "part of a task: `HOMO`, `LUMO`, `gap`; `B-H`, `S-M`; the kind of a question; a reaction template",
    "components": "JSON map from `$k$` names to canonical SMILES (`experiment_procedure` only)",
    "source": "where the row comes from",
    "license": "licence of that source",
    "label_source": "`measured`, `published` or `computed:<tool and method>`",
    "source_id": "where the row stands in its source: `FILE#PLACE`, and `:ID` where the publisher gives one",
}


@dataclass(frozen=True)
class Record:
    """One labelled example as its source has it, before molecules are cleaned.

    Attributes:
        task: A name in `omnimol_hf.tasks.ALL_TASKS`; its `record_input` and `record_output` say which of the fields
            below make the row's input and output.
        place: Where in the file the example stands: a record number, counted from 1 without headers, or a path that
            ends in one (`FullCV_01/17`).
        molecules: Role -> SMILES (or SELFIES, see `notation`), components joined by ".", fragments of one component
            by "." or "~". The roles are `molecule`, `edited`; `reactants`, `product`, `reagents`, `solvents`,
            `catalysts`; in procedures the names `$1$`, `$2$`, ..., `$-1$`.
        roles: Of a procedure: `Reactants`, `Product`, `Catalysts`, `Solvents` -> the `$k$` names in that role.
        value: The number to predict, in the task's unit.
        text: The text to predict (caption, answer, action sequence), or to read (IUPAC name, description). With a
            number task: the publisher's own wording of the answer, which then replaces the task's.
        instruction: The publisher's question. Empty: one of the task's instructions is chosen.
        split: `train`, `validation` or `test` as published; empty: decided by the hash of molecule or reaction.
        split_key: What that hash is taken of, when not the whole molecule or reaction.
        publisher_id: The publisher's name of the example, e.g. its CID.
        source, license: Only where they differ from row to row; otherwise the source's own.
    """

    task: str
    place: str
    molecules: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    value: float | None = None
    text: str = ""
    instruction: str = ""
    subset: str = ""
    split: str = ""
    split_key: str = ""
    label_source: str = "published"
    publisher_id: str = ""
    notation: str = "smiles"
    source: str = ""
    license: str = ""


@dataclass(frozen=True)
class Drop:
    """An example that gives no row, and why. `reason` has no values of the row in it: drops are counted by reason."""

    task: str
    place: str
    reason: str
    source: str = ""


def stable_hash(*parts: str) -> int:
    """A 64-bit number that depends on the strings alone: not on the machine, the process or the Python version."""
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:8], "big")


def split_of(key: str) -> str:
    """`"test"` for a tenth of all keys, `"train"` for the others. The same for all tasks."""
    return "test" if stable_hash("split", key) % 10 == 0 else "train"
