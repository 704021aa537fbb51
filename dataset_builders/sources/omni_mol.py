"""The JSON that Omni-Mol's authors release, so that their exact rows can be used.

Two layouts of the same records, told apart by nothing but file names:

* data of the first code release: `forward_reaction_prediction.json`, `yields_regression_BH.json`, ... and one
  `3d_moit*.json` for six tasks, told apart by `metadata.task`; evaluation files in `evaluate/`;
* the Hub release: a file a task in `train/` and `test/` (`forward_prediction.json`, `LogP.json`, ...), without SCF
  energy and complexity, with three tasks of the later paper.

A record is `{"instruction", "input", "output", "metadata": {"split", "task"}}` in SELFIES; a procedure's `input` names
its components `$k$` by role, each between [START_SELFIES] and [END_SELFIES]. Stage 1 is a CSV (SMILES, Description).
Instructions and answers are kept to the letter. All this is known from the authors' code and the Hub's list of files
(the Hub asks for agreement before it hands out data): the reader is tested on small files written in these layouts.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dataset_builders.fields import number, orbital, published_split, side_fields, text_field
from dataset_builders.reading import ALL_TASKS, json_items, table_rows
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Download, Source
from dataset_builders.sources import mol_instructions, presto, three_d_moit

_HUB = "CodeMagic/Omni-Mol-Dataset"
_FILES = (
    ("forward", "forward_prediction", "forward_prediction"),
    ("retrosynthesis", "retrosynthesis", "retrosynthesis"),
    ("reagent", "reagent_prediction", "reagent_prediction"),
    ("solvent", "solvent_pred", "solvent_prediction"),
    ("catalyst", "catalyst_pred", "catalyst_prediction"),
    ("yield", "yield_regression", "yield_regression"),
    ("property", "property_prediction", "homo_lumo"),
    ("molcap", "molcap", "molecular_captioning"),
    ("exp_procedure", "exp_procedure_pred", "experiment_procedure"),
    ("descriptionqa", "DescriptionQA", "description_qa"),
    ("molecular_weight", "Molecular_Weight", "molecular_weight"),
    ("logp", "LogP", "logp"),
    ("tpsa", "TPSA", "tpsa"),
    ("iupac", "IUPAC2SELFIES", "iupac_to_selfies"),
    ("text_guided", "text_guided_mol_generation", "text_guided_generation"),
    ("molecule_editing", "molecule_editing", "molecule_editing"),
)
"""What a file's name contains in either layout (in small letters), its name on the Hub, its task."""

SOURCE = Source(
    name="omni_mol",
    title="Omni-Mol, the authors' release",
    home=f"https://huggingface.co/datasets/{_HUB}",
    license="Apache-2.0",
    citation="Hu et al., Omni-Mol: Multitask Molecular Model for Any-to-any Modalities, NeurIPS 2025, "
    "arXiv:2502.01074",
    files=("*.json", "train/*.json", "test/*.json", "evaluate/*.json", "*pubchem*.csv"),
    tasks={
        "forward_prediction": "product (USPTO, via Mol-Instructions)",
        "retrosynthesis": "reactants (USPTO-500-MT, via Mol-Instructions)",
        "reagent_prediction": "reagents (USPTO-500-MT, via Mol-Instructions)",
        "solvent_prediction": "solvents (USPTO, via PRESTO)",
        "catalyst_prediction": "catalysts (USPTO, via PRESTO)",
        "yield_regression": "measured yield as a fraction, 0 to 1 (via PRESTO)",
        "homo_lumo": "orbital energy or gap of QM9, Hartree (via Mol-Instructions)",
        "scf_energy": "SCF energy of PubChemQC in the wording of 3D-MoIT, which is in eV",
        "logp": "XLogP of PubChem (via 3D-MoIT)",
        "tpsa": "topological polar surface area of PubChem, Å² (via 3D-MoIT)",
        "complexity": "complexity of PubChem (via 3D-MoIT)",
        "molecular_weight": "molecular weight of PubChem, g/mol (via 3D-MoIT)",
        "molecular_captioning": "description (ChEBI-20)",
        "description_qa": "answer (via 3D-MoIT)",
        "experiment_procedure": "action sequence (OpenExp)",
        "iupac_to_selfies": "molecule of an IUPAC name",
        "text_guided_generation": "molecule of a description",
        "molecule_editing": "edited molecule",
        "alignment": "description (PubChem)",
    },
    paper_sizes={
        **mol_instructions.SOURCE.paper_sizes,
        **presto.SOURCE.paper_sizes,
        **three_d_moit.SOURCE.paper_sizes,
        "molecular_captioning": {"train": 26_420, "validation": 3_295, "test": 3_295},
    },
    downloads=tuple(
        Download(f"omni_mol/{split}/{name}{of}.json", hub_id=_HUB, hub_file=f"{split}/{name}{of}.json")
        for split in ("train", "test")
        for _, name, task in _FILES
        for of in (("_BH", "_SM") if (split, task) == ("test", "yield_regression") else ("",))
    ),
    how_to_get=f"Accept the conditions on https://huggingface.co/datasets/{_HUB}, log in with `hf auth login`, and "
    "run the download again.",
    left_out="`distilled_data` (answers with reasoning, written by a language model), weights, and the classification "
    "sets of the rebuttal (BACE, BBBP, SIDER).",
    notes="Its rows are other sources' rows again: build from it alone or from the others. The terms of those sources "
    "stay in force; PRESTO's data are CC BY-NC 4.0. The file names that could not be seen on the Hub are those that "
    "the authors' code asks for.",
)

_VERBATIM = {"yield_regression": "reaction"} | dict.fromkeys(
    ("homo_lumo", "scf_energy", "logp", "tpsa", "complexity", "molecular_weight"), "molecule"
)
"""Tasks whose answer is a number, kept as it is written -> what stands in `input`."""
_SIDES = mol_instructions.SIDES | {
    "solvent_prediction": ("reaction", "solvents"),
    "catalyst_prediction": ("reaction", "catalysts"),
    "molecular_captioning": ("molecule", "text"),
    "description_qa": ("molecule", "text"),
    "iupac_to_selfies": ("text", "molecule"),
    "molecule_editing": ("molecule", "edited"),
}
_ASKED_BY_INSTRUCTION = ("homo_lumo", "description_qa", "molecule_editing")
_ROLE = re.compile(r"(Reactants|Product|Catalysts|Solvents):")
_COMPONENT = re.compile(r"(\$-?\d+\$):\s*\[START_SELFIES\](.+?)\[END_SELFIES\]\s*")


def read(path: Path) -> Iterator[Record | Drop]:
    """The records of one file; what the file asks is told by its name, in `3d_moit` files by the record."""
    name = path.stem.lower()
    if path.suffix == ".csv":
        yield from _stage_one(path)
        return
    of_file = next((task for part, _, task in _FILES if part in name), ALL_TASKS)
    if of_file == ALL_TASKS and "3d_moit" not in name:
        yield Drop(ALL_TASKS, "1", "the whole file: its name is none of the authors' task files")
        return
    for place, record in json_items(path):
        if isinstance(record, Drop):
            yield Drop(of_file, str(place), record.reason)
            continue
        task = of_file if "3d_moit" not in name else _task_of_record(record)
        try:
            yield Record(task, str(place), **_fields(task, name, record), notation="selfies")
        except ValueError as error:
            yield Drop(task, str(place), str(error))


def _stage_one(path: Path) -> Iterator[Record | Drop]:
    for place, row in table_rows(path, ("SMILES", "Description")):
        try:
            if isinstance(row, Drop):
                raise ValueError(row.reason)
            molecule, text = text_field(row, "SMILES"), text_field(row, "Description")
            yield Record("alignment", str(place), {"molecule": molecule}, text=text)
        except ValueError as error:
            yield Drop("alignment", str(place), str(error))


def _task_of_record(record: Mapping[str, Any]) -> str:
    metadata = record.get("metadata")
    word = metadata.get("task") if isinstance(metadata, dict) else None
    return three_d_moit.TASK_OF_WORD.get(word, ALL_TASKS) if isinstance(word, str) else ALL_TASKS


def _fields(task: str, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    if task == ALL_TASKS:
        raise ValueError("metadata.task is none of the six tasks of 3D-MoIT")
    fields = {"instruction": _instruction(task, record), "split": published_split(record)}
    if task in _VERBATIM:
        answer = record.get("output")
        fields |= side_fields({**record, "output": str(answer)}, (_VERBATIM[task], "text"))
        match = three_d_moit.NUMBER.search(fields["text"])
        value = number(answer if not isinstance(answer, str) else match and match[0])
        if task == "yield_regression" and not 0 <= value <= 1:
            raise ValueError("the yield is not between 0 and 1")
    elif task == "experiment_procedure":
        fields |= procedure(text_field(record, "input")) | {"text": text_field(record, "output")}
    else:
        fields |= side_fields(record, _SIDES[task])
    if task == "homo_lumo":
        fields["subset"] = orbital(fields["instruction"])
    elif task == "yield_regression":
        # The training file mixes the two sets and does not say which row is of which.
        fields["subset"] = {"_bh": "B-H", "_sm": "S-M"}.get(name[-3:], "")
    return fields


def _instruction(task: str, record: Mapping[str, Any]) -> str:
    """The record's, to the letter; empty where it has none and the task does not hang on it."""
    if task not in _ASKED_BY_INSTRUCTION and not str(record.get("instruction") or "").strip():
        return ""
    text_field(record, "instruction")
    return record["instruction"]


def procedure(text: str) -> dict[str, Any]:
    """`molecules` and `roles` of `Reactants:$1$:[START_SELFIES]...[END_SELFIES] $2$:... Product:$-1$:...`."""
    before, *parts = _ROLE.split(text)
    molecules: dict[str, str] = {}
    roles: dict[str, tuple[str, ...]] = {}
    for role, listed in zip(parts[::2], parts[1::2], strict=True):
        components = _COMPONENT.findall(listed)
        if _COMPONENT.sub("", listed).strip() or role in roles:
            break
        roles[role] = tuple(name for name, _ in components)
        if any(molecules.setdefault(name, selfies) != selfies for name, selfies in components):
            raise ValueError("one $k$ name stands for two molecules")
    else:
        if not before.strip() and roles.get("Reactants") and roles.get("Product"):
            return {"molecules": molecules, "roles": {role: names for role, names in roles.items() if names}}
    raise ValueError("the input is not Reactants:$k$:[START_SELFIES]...[END_SELFIES] ... Product:$-1$:...")
