"""The one row schema that all tasks share, and the record that a source yields.

A source says what the data is (`Record`); everything that must be equal for all sources (id, split, instruction, graph
molecules) is decided in `build.py`.
"""

import hashlib
from dataclasses import dataclass

from datasets import Features, List, Value

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
    "id": "`<build>-<task>-<number>`; the same in every build of the same version",
    "task": "name of the task, equal to the config's name",
    "category": "`reaction`, `regression`, `description` or `action`",
    "instruction": "what is asked, without the molecule",
    "input": "molecules as SELFIES joined by `.`, of reactions `reactants>>product`; the prompt adds the instruction",
    "output": "the answer, in the same notation",
    "graph_smiles": "canonical SMILES of the molecules that become graph tokens, one string a molecule",
    "subset": "part of a task: `HOMO`, `LUMO`, `gap`; the kind of a question; the name of a reaction template",
    "components": "JSON map from `$k$` names to canonical SMILES (`experiment_procedure` only)",
    "source": "where the molecule comes from",
    "license": "licence of that source",
    "label_source": "`measured`, `published` or `computed:<tool and method>`",
    "source_id": "the molecule's id at its source; reactants separated by `+`",
}


@dataclass(frozen=True)
class Record:
    """One labelled example of a source, before it gets an id, a split and an instruction."""

    task: str
    input: str
    output: str
    key: str
    """SMILES without stereo of the molecule, or of the reaction's product: rows with one key share their split."""
    source: str
    license: str
    label_source: str
    source_id: str
    subset: str = ""
    instruction: str = ""
    """Empty: one of the task's instructions is chosen when the dataset is built."""
    components: str = ""


def stable_hash(*parts: str) -> int:
    """A 64-bit number that depends on the strings alone: not on the machine, the process or the Python version."""
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:8], "big")


def split_of(key: str) -> str:
    """`"test"` for a tenth of all keys, `"train"` for the others. The same for all tasks."""
    return "test" if stable_hash("split", key) % 10 == 0 else "train"
