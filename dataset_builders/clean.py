"""Turns a source's record into a finished row: canonical molecules, SELFIES that read back, text, split and keys.

This is where the time of a build goes, so it runs in worker processes, part by part (see `parts.py`).
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from rdkit import Chem, rdBase

from dataset_builders.schema import SPLITS, Drop, Record, split_of, stable_hash
from omnimol_hf.chemistry_omnimol import ATOM_CAP, canonical_pair, canonical_smiles, mol_from_smiles, selfies_to_smiles
from omnimol_hf.tasks import ALL_TASKS, Task

_FIELD = re.compile(r"{(\w+)}")
_NOT_MOLECULES = {"text", "value", "components"}
PRODUCT = "$-1$"
"""The main product of a procedure; further ones are `$-2$`, ..."""


@dataclass(frozen=True)
class Component:
    """One molecule of a row."""

    smiles: str
    selfies: str
    key: int
    """`stable_hash` of the canonical isomeric SMILES."""


class Rejected(Exception):
    """The record gives no row; the message is the reason, without values of the row in it."""


class _Unreadable(Rejected):
    """What stands between two dots is no molecule by itself."""


@dataclass(frozen=True)
class Origin:
    """What all records of a file share.

    Attributes:
        source, license: Those of the source, for records that name none of their own.
        file: The raw file, relative to the folder of raw data; empty for data that are not read from files.
    """

    source: str
    license: str
    file: str


def clean(row_id: str, record: Record, origin: Origin, skeletons: bool) -> dict | Drop:
    """The row of a record with its keys (`parts.KEYS`), or why there is none.

    Args:
        skeletons: also work out the keys of molecules without stereo, which cost about as much as all the rest.
    """
    try:
        return _row(row_id, record, origin, skeletons)
    except Rejected as error:
        return Drop(record.task, record.place, str(error), record.source or origin.source)


def _row(row_id: str, record: Record, origin: Origin, skeletons: bool) -> dict:
    task = ALL_TASKS[record.task]
    roles = {role: components(text, record.notation, role) for role, text in record.molecules.items()}
    names = _FIELD.findall(task.record_input)
    asked = [role for role in names if role not in _NOT_MOLECULES]
    fields = {role: ".".join(one.selfies for one in molecules) for role, molecules in roles.items()}
    fields |= {"text": record.text.strip(), "value": number_text(task, record), "components": ""}
    if record.roles:
        fields["components"] = procedure_input(record, fields)
    for template in (task.record_input, task.record_output):
        for name in _FIELD.findall(template):
            if not fields.get(name):
                raise Rejected(f"no {'answer' if name == 'value' else name}")
    row_input, row_output = (template.format(**fields) for template in (task.record_input, task.record_output))
    if record.split not in ("", *SPLITS):
        raise Rejected("unknown split")
    is_reaction = bool(record.roles) or "product" in roles
    whole, keys = _reaction_keys(task, roles, skeletons) if is_reaction else _molecule_keys(roles, asked, skeletons)
    return {
        "id": row_id,
        "task": task.name,
        "category": task.category,
        "instruction": record.instruction or task.instruction(stable_hash(row_id), record.subset),
        "input": row_input,
        "output": row_output,
        "graph_smiles": _graph(task, record, roles, asked),
        "subset": record.subset,
        "components": json.dumps(_named(roles)) if record.roles else "",
        "source": record.source or origin.source,
        "license": record.license or origin.license,
        "label_source": record.label_source,
        "source_id": _source_id(record, origin.file),
        "split": record.split or split_of(record.split_key or whole),
        "published": bool(record.split),
        "repeat": stable_hash(task.name, record.subset, record.instruction, row_input, row_output),
        **keys,
    }


def _source_id(record: Record, file: str) -> str:
    if not file:
        return record.publisher_id
    return f"{file}#{record.place}" + (f":{record.publisher_id}" if record.publisher_id else "")


# --- molecules -------------------------------------------------------------------------------------------------------


def components(text: str, notation: str, role: str) -> list[Component]:
    """The molecules of one role, in the publisher's order, each canonical. "~" joins ions: it separates like ".".

    Raises:
        Rejected: for a molecule that RDKit cannot read, SELFIES cannot write, or that is larger than `ATOM_CAP`.
    """
    text = text.strip().replace("~", ".")
    pieces = text.split(".") if text else []
    try:
        try:
            return [_component(piece, notation) for piece in pieces]
        except _Unreadable:
            if len(pieces) == 1 or notation == "selfies":
                raise
            return [_component(piece, notation) for piece in _fragments(text)]
    except Rejected as error:
        raise Rejected(f"{'procedure component' if role.startswith('$') else role}: {error}") from error


@lru_cache(50_000)
def _component(text: str, notation: str) -> Component:
    if not text:
        raise Rejected("empty component between dots")
    if notation == "selfies":
        try:
            text = selfies_to_smiles(text)
        except ValueError as error:
            raise Rejected("not SELFIES of a molecule") from error
    try:
        smiles, selfies = canonical_pair(text)
    except ValueError as error:
        raise _rejected(text, error) from error
    return Component(smiles, selfies, stable_hash(smiles))


def _fragments(smiles: str) -> list[str]:
    """The molecules of a SMILES whose ring bonds cross the dots."""
    try:
        mol = mol_from_smiles(smiles)
    except ValueError as error:
        raise _Unreadable("RDKit cannot read it") from error
    return [canonical_smiles(part) for part in Chem.GetMolFrags(mol, asMols=True)]


def _rejected(smiles: str, error: ValueError) -> Rejected:
    try:
        mol = mol_from_smiles(smiles)
    except ValueError:
        return _Unreadable("RDKit cannot read it")
    if mol.GetNumAtoms() > ATOM_CAP:
        return Rejected(f"more than {ATOM_CAP} atoms")
    return Rejected(
        "SELFIES cannot write it: " + re.sub(r"'.*'", "another molecule", str(error).partition("SELFIES: ")[2])
    )


def _graph(task: Task, record: Record, roles: dict[str, list[Component]], asked: list[str]) -> list[str]:
    """Canonical SMILES of the molecules that `graph_components` picks from the row's input by the task's rule."""
    if task.graph_rule == "none":
        return []
    if task.graph_rule == "placeholders":
        asked = [name for names in record.roles.values() for name in names if not name.startswith("$-")]  # as listed
    elif task.graph_rule == "reactants":
        asked = ["reactants"]
    molecules = [one.smiles for role in asked for one in roles[role]]
    return molecules[:1] if task.graph_rule == "first" else molecules


# --- text ------------------------------------------------------------------------------------------------------------


def number_text(task: Task, record: Record) -> str:
    """The answer of a number task: the publisher's own words if the record has them, else the task's."""
    if record.value is None or record.text:
        return record.text.strip()
    negative_zero = record.value < 0 and task.answer_text(record.value) == task.answer_text(-0.0)
    return task.answer_text(0.0 if negative_zero else record.value)


def procedure_input(record: Record, selfies: dict[str, str]) -> str:
    """Components by role (Appendix J.16): `Reactants:$1$:[START_SELFIES]...[END_SELFIES] $2$:... Product:$-1$:...`."""
    return " ".join(
        f"{role}:" + " ".join(f"{name}:[START_SELFIES]{selfies[name]}[END_SELFIES]" for name in names)
        for role, names in record.roles.items()
        if names
    )


def _named(roles: dict[str, list[Component]]) -> dict[str, str]:
    return {name: ".".join(one.smiles for one in molecules) for name, molecules in roles.items()}


# --- keys ------------------------------------------------------------------------------------------------------------


def _molecule_keys(roles: dict[str, list[Component]], asked: list[str], skeletons: bool) -> tuple[str, dict]:
    """Of a molecule task: the whole molecule that is asked about, or, where text is asked about, answered."""
    molecules = [one for role in asked or roles for one in roles[role]]
    return _keys(molecules, [], [], False, skeletons)


def _reaction_keys(task: Task, roles: dict[str, list[Component]], skeletons: bool) -> tuple[str, dict]:
    """Of a reaction task: its product; the other molecules of its input; all its other molecules.

    A retrosynthesis row is given nothing but the product: its reactants count as given.
    """
    product = roles.get("product") or roles.get(PRODUCT) or []
    others = {role: molecules for role, molecules in roles.items() if role != "product" and not role.startswith("$-")}
    asked = others.values() if task.answer == "procedure" else [others.get("reactants", [])]
    given = [one for molecules in asked for one in molecules]
    known = [one for molecules in others.values() for one in molecules]
    return _keys(product, given, known, True, skeletons)


def _keys(
    subject: list[Component], given: list[Component], known: list[Component], reaction: bool, skeletons: bool
) -> tuple[str, dict]:
    """The whole molecule or reaction as text, and the keys by which `decontaminate.py` compares rows."""
    whole = ".".join(sorted(one.smiles for one in subject))
    keys = {
        "reaction": reaction,
        "subject": stable_hash(whole),
        "given": sorted({one.key for one in given}),
        "known": sorted({one.key for one in known}),
        "subject_skeleton": _skeleton(subject) if skeletons else 0,
        "given_skeletons": sorted({_skeleton([one]) for one in given}) if skeletons else [],
    }
    return ".".join(sorted(one.smiles for one in given)) + ">>" * reaction + whole, keys


def _skeleton(molecules: list[Component]) -> int:
    return stable_hash(*sorted(_inchikey_14(one.smiles) for one in molecules))


@lru_cache(50_000)
def _inchikey_14(smiles: str) -> str:
    """The connectivity part of the InChIKey; the SMILES itself where InChI cannot express the molecule."""
    with rdBase.BlockLogs():
        return Chem.MolToInchiKey(Chem.MolFromSmiles(smiles))[:14] or smiles
