"""Checks of fields that the records of several publishers share.

Each raises a `ValueError` whose message is a reason to drop the record, without values of the record in it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

SPLIT_WORDS = {"train": "train", "valid": "validation", "test": "test"}
"""Publishers' words for a split -> ours."""


def text_field(record: Mapping[str, Any], key: str) -> str:
    """A field that must hold text."""
    content = record.get(key)
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"{key} is missing, blank or not text")
    return content.strip()


def number(content: Any) -> float:
    """A finite number, as JSON number or as text."""
    try:
        value = math.nan if isinstance(content, bool) else float(content)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("the answer is not a number")
    return value


def reaction(text: str) -> dict[str, str]:
    """The two sides of `reactants>>product`."""
    left, _, right = (part.strip() for part in text.partition(">>"))
    if not left or not right or ">" in left + right:
        raise ValueError("not a reaction reactants>>product")
    return {"reactants": left, "product": right}


def published_split(record: Mapping[str, Any]) -> str:
    """The split that hides in `metadata`."""
    metadata = record.get("metadata")
    word = metadata.get("split") if isinstance(metadata, dict) else None
    if not isinstance(word, str) or word not in SPLIT_WORDS:
        raise ValueError(f"metadata.split is none of {', '.join(SPLIT_WORDS)}")
    return SPLIT_WORDS[word]


def serving_split(split: str, is_there: Callable[[str], bool]) -> str:
    """The split, but validation serves as train or test where that file is absent; empty where both are."""
    missing = [one for one in ("train", "test") if not is_there(one)]
    if split != "validation" or not missing:
        return split
    return missing[0] if len(missing) == 1 else ""


def side_fields(record: Mapping[str, Any], sides: tuple[str, str]) -> dict[str, Any]:
    """`molecules`, `text` and `value` of a `Record`, from `input` and `output`."""
    fields: dict[str, Any] = {"molecules": {}}
    for key, role in zip(("input", "output"), sides, strict=True):
        if role == "value":
            fields["value"] = number(record.get(key))
        elif role == "text":
            fields["text"] = text_field(record, key)
        elif role == "reaction":
            fields["molecules"] |= reaction(text_field(record, key))
        else:
            fields["molecules"][role] = text_field(record, key)
    return fields


def orbital(instruction: str) -> str:
    """Which quantity is asked for: `HOMO`, `LUMO` or, where both or a gap are named, `gap`."""
    words = instruction.lower()
    homo = "homo" in words or "highest occupied" in words
    lumo = "lumo" in words or "lowest unoccupied" in words
    if "gap" in words or (homo and lumo):
        return "gap"
    if not (homo or lumo):
        raise ValueError("the instruction names neither HOMO nor LUMO")
    return "HOMO" if homo else "LUMO"
