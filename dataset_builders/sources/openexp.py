"""OpenExp: experimental procedures of patents and the Open Reaction Database as action sequences (ReactXT's data).

`train.json`, `valid.json` and `test.json` are lists of records. Their layout is known from the publisher's processing
script and loader alone, and the reader is tested on a file written in it:

- `REACTANT`, `PRODUCT`, `CATALYST`, `SOLVENT`: lists of SMILES, the ions of a salt joined by `.`.
- `actions`: the sequence, e.g. `ADD $1$ (57.2 g) ; STIR for @4@ at #3# ; YIELD $-1$ (20.8 g).`
- `extracted_molecules`, `extracted_temperature`, `extracted_duration`: SMILES -> `$k$` (the product is `$-1$`),
  temperature -> `#k#`, duration -> `@k@`, where k counts through all three.
- `molecules`: name in the original text -> SMILES (or null); `index`; `score`; `source`.

The input lists no temperatures and durations, so those are written out in the actions. A record whose actions still
have names or SMILES in them, without `extracted_molecules`, is renamed by `rename_components`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset_builders.reading import json_items
from dataset_builders.schema import Drop, Record
from dataset_builders.source import NOT_STATED, Source
from dataset_builders.sources.orgsyn_procedures import TASK, check_actions, split_of_file

SOURCE = Source(
    name="openexp",
    title="OpenExp (ReactXT)",
    home="https://github.com/syr-cn/ReactXT",
    license=NOT_STATED,
    citation=(
        "Liu et al., ReactXT: Understanding Molecular Reaction-ship via Reaction-Contextualized Molecule-Text "
        "Pretraining, Findings of ACL 2024, https://arxiv.org/abs/2405.14225"
    ),
    files=("train.json", "valid.json", "test.json"),
    tasks={
        TASK: "action sequence that a language model took from the procedure's text, with quantities and conditions"
    },
    paper_sizes={TASK: {"train": 241000}},
    how_to_get=(
        "Download OpenExp from https://osf.io/3dv4k (or `action_data` from https://osf.io/e68v4) and put train.json, "
        "valid.json and test.json into `openexp`."
    ),
    notes=(
        "The publisher's code is MIT; for the data no licence was found, and the Open Reaction Database, from which "
        "part of them comes, is CC-BY-SA-4.0. The paper prints about 241 thousand records and no exact number; its "
        "splits add up to 110 %, the publisher's script takes 80/10/10."
    ),
)

ROLES = {"Reactants": "REACTANT", "Product": "PRODUCT", "Catalysts": "CATALYST", "Solvents": "SOLVENT"}
"""Role in a procedure's input, in its order -> the record's key."""


def read(path: Path) -> Iterator[Record | Drop]:
    """The records of one of the files; the place is the number in the list.

    Raises:
        ValueError: If the file is no JSON list, or cut short; names the file and the last record.
    """
    split = split_of_file(path)
    for number, row in json_items(path):
        if isinstance(row, Drop):
            yield row
            continue
        try:
            molecules, roles, text = _procedure(row)
        except ValueError as reason:
            yield Drop(TASK, str(number), str(reason))
            continue
        yield Record(
            task=TASK,
            place=str(number),
            molecules=molecules,
            roles=roles,
            text=text,
            split=split,
            publisher_id=str(row.get("index", "")),
        )


def rename_components(
    actions: str, roles: Mapping[str, Sequence[str]], spellings: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, tuple[str, ...]], str]:
    """Gives the components of a procedure names by role: `$1$`, `$2$`, ... and `$-1$`, ... for products.

    Args:
        actions: The sequence, with components as SMILES or in `spellings`.
        roles: Role -> SMILES; names are given in this order.
        spellings: How a component is called in the actions -> its SMILES. What `YIELD` is followed by is the product,
            whatever it is called.

    Returns:
        Name -> SMILES, role -> names, and the actions with names in place of SMILES and spellings.

    Raises:
        ValueError: If a component stands in two roles, or there is not one product at least; the reason to drop it.
    """
    molecules: dict[str, str] = {}
    named: dict[str, tuple[str, ...]] = {}
    count = {"": 0, "-": 0}
    for role, components in roles.items():
        sign = "-" if role == "Product" else ""
        for smiles in dict.fromkeys(components):
            count[sign] += 1
            name = f"${sign}{count[sign]}$"
            molecules[name] = smiles
            named[role] = (*named.get(role, ()), name)
    names = {smiles: name for name, smiles in molecules.items()}
    if len(names) != len(molecules):
        raise ValueError("a component stands in two roles")
    if "$-1$" not in molecules:
        raise ValueError("there is no product")
    written = names | {spelling: names[smiles] for spelling, smiles in spellings.items() if smiles in names}
    longest_first = "|".join(re.escape(spelling) for spelling in sorted(written, key=len, reverse=True))
    text = re.sub(rf"(?<!\S)(?:{longest_first})(?=[\s,;.]|$)", lambda match: written[match[0]], actions)
    text = re.sub(r"(?<!\S)YIELD (?!\$).+?(?= \(\d| ;|\.?$)", "YIELD $-1$", text)
    return molecules, named, text


def _procedure(row: dict[str, Any]) -> tuple[dict[str, str], dict[str, tuple[str, ...]], str]:
    """Molecules by name, names by role and the actions; a `ValueError` is the reason to drop the record."""
    actions = row.get("actions")
    if not isinstance(actions, str):
        raise ValueError("the actions are missing, or no text")
    components = {role: _smiles_list(row, key) for role, key in ROLES.items()}
    if not components["Reactants"] or not components["Product"]:
        raise ValueError("there is no reactant or no product")
    if "extracted_molecules" in row:
        molecules, roles = _named(components, _mapping(row, "extracted_molecules"))
    else:
        molecules, roles, actions = rename_components(actions, components, _mapping(row, "molecules"))
    conditions = _mapping(row, "extracted_temperature") | _mapping(row, "extracted_duration")
    text = _written_out(actions, {token: value for value, token in conditions.items()})
    check_actions(text, molecules)
    return molecules, roles, text.strip()


def _smiles_list(row: dict[str, Any], key: str) -> list[str]:
    smiles = row.get(key) or []
    if not isinstance(smiles, list) or not all(isinstance(item, str) and item for item in smiles):
        raise ValueError(f"{key} is not a list of SMILES")
    return smiles


def _mapping(row: dict[str, Any], key: str) -> dict[str, str]:
    """The mapping at `key`, without what maps to null."""
    mapping = row.get(key) or {}
    if not isinstance(mapping, dict) or not all(isinstance(value, str | None) for value in mapping.values()):
        raise ValueError(f"{key} does not map texts to texts")
    return {name: value for name, value in mapping.items() if value}


def _named(
    components: Mapping[str, Sequence[str]], names: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The molecules by the names that the publisher gave them, and those names by role."""
    if any(smiles not in names for role in components.values() for smiles in role):
        raise ValueError("a component has no name in the actions")
    roles = {role: tuple(names[smiles] for smiles in smileses) for role, smileses in components.items() if smileses}
    return {names[smiles]: smiles for role in components.values() for smiles in role}, roles


def _written_out(actions: str, conditions: Mapping[str, str]) -> str:
    """The actions with temperatures and durations in place of `#k#` and `@k@`."""
    tokens = re.findall(r"#\d+#|@\d+@", actions)
    if not all(token in conditions for token in tokens):
        raise ValueError("the actions name a temperature or duration that is not listed")
    return re.sub(r"#\d+#|@\d+@", lambda match: conditions[match[0]], actions)
