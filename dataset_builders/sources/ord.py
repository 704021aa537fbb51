"""Open Reaction Database: which solvents and which catalysts a reaction was run with, from `ord_dataset-*.pb.gz`.

A file is one protobuf message and is held in memory whole (the largest are some hundred MB); its reactions are read
one by one, and each gives one record or one drop for either task.

- The question is `reactants>>product`, as in PRESTO's condition tasks, so its left side has only what gives atoms to
  the product: of a reaction with an atom-mapped reaction SMILES (the patents) the inputs with mapped atoms, as ORDerly
  does too; of others the inputs of role REACTANT. Bases, acids and other REAGENTs are left out.
- Molecules are the SMILES identifiers of the inputs and products. The mapped reaction SMILES only tells which inputs
  react: it splits salts, and calls the rest of the flask agents.
- Roles were assigned by a program or by the chemist, and are noisy. A molecule counts once, whichever stock solutions
  bring it; a mixed solvent is split; salts are no solvents (brine is water); a catalyst is not what is a solvent, in
  this reaction or always; no compound of the answer stands in the question (crystal water and counter-ions may).
- An answer that would be incomplete, because a solvent or catalyst has a name but no SMILES, is dropped.
"""

import gzip
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from google.protobuf.message import DecodeError
from ord_schema.proto.dataset_pb2 import Dataset
from ord_schema.proto.reaction_pb2 import (
    Compound,
    CompoundIdentifier,
    ProductCompound,
    Reaction,
    ReactionIdentifier,
    ReactionRole,
)
from rdkit import Chem, rdBase

from dataset_builders.reading import open_binary
from dataset_builders.schema import Drop, Record
from dataset_builders.source import Download, Source

SOLVENTS, CATALYSTS = "solvent_prediction", "catalyst_prediction"

_DATASETS = (
    "00005539a1e04c809a9a78647bea649c",  # Buchwald-Hartwig reactions of an electronic laboratory notebook
    "0b70410902ae4139bd5d334881938f69",  # patents, 1986-09
    "0bb2e99daa66408fb8dbd6a0781d241c",  # patents, 1978-12
    "0c61835e3a0b4986aabf2b61b708e322",  # patents, 1995-11
    "0c75d67751634f0594b24b9f498b77c2",  # imidazole arylation, high throughput
    "6a0bfcdf53a64c07987822162ae591e2",  # islatravir by enzymes
    "cb0fdfa937234c78b020ec878a93b94c",  # patents, 1980-08
    "cbcc4048add7468e850b6ec42549c70d",  # C-N coupling, nanomole scale
)

SOURCE = Source(
    name="ord",
    title="Open Reaction Database",
    home="https://open-reaction-database.org",
    license="CC-BY-SA-4.0",
    citation=(
        "Kearnes et al., The Open Reaction Database, J. Am. Chem. Soc. 2021, 143, 18820, "
        "https://doi.org/10.1021/jacs.1c09820"
    ),
    files=("**/ord_dataset-*.pb.gz",),
    tasks={
        SOLVENTS: "solvents of the reaction as its record names them, SMILES joined by `.`",
        CATALYSTS: "catalysts of the reaction as its record names them (ligands included), SMILES joined by `.`",
    },
    downloads=tuple(
        Download(
            path=f"ord/ord_dataset-{name}.pb.gz",
            hub_id="open-reaction-database/ord-data",
            hub_file=f"data/{name[:2]}/ord_dataset-{name}.pb.gz",
        )
        for name in _DATASETS
    ),
    how_to_get=(
        "The whole database (some 2 million reactions): clone https://github.com/open-reaction-database/ord-data with "
        "Git LFS and link its `data` folder as `ord`."
    ),
    left_out=(
        "Yields (conditions differ from dataset to dataset), and the patents' procedures, which are free text and no "
        "action sequences."
    ),
    notes=(
        "Datasets are revised now and then, hence no checksums. Solvents of the patents include some of the work-up. "
        "High-throughput sets repeat a question with other answers."
    ),
)

# Molecules that patents call catalysts now and then, and that are none.
_NEVER_CATALYSTS = {
    *("O", "CO", "CCO", "CC(C)(C)O", "CCOCC", "C1CCOC1", "C1COCCO1", "CC(C)=O", "CCOC(C)=O", "CC#N"),
    *("ClCCl", "ClC(Cl)Cl", "CCCCCC", "c1ccccc1", "Cc1ccccc1"),
}

Molecules = dict[str, str]
"""Canonical SMILES -> the SMILES as published, without doublets, in the order of the record."""


class _Unusable(Exception):
    """Why a reaction, or a role of it, gives no record."""


def read(path: Path) -> Iterator[Record | Drop]:
    """The records of one dataset: a `Record` or a `Drop` for each reaction and each of the two tasks.

    Raises:
        ValueError: If the file is empty, cut short, no protobuf, or without reactions; names the file.
    """
    for number, reaction in enumerate(_dataset(path).reactions, 1):
        yield from _records(reaction, str(number))


def _dataset(path: Path) -> Dataset:
    try:
        with open_binary(path) as file:
            dataset = Dataset.FromString(file.read())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: its compressed data ends or breaks before the first reaction: {error}") from error
    except DecodeError as error:
        raise ValueError(f"{path}: its data are no ORD dataset (a protobuf message): {error}") from error
    if not dataset.reactions:
        raise ValueError(f"{path}: the dataset has no reactions")
    return dataset


def _records(reaction: Reaction, place: str) -> Iterator[Record | Drop]:
    inputs: dict[int, list[Compound]] = defaultdict(list)
    # Sorted, because the inputs are a protobuf map, whose order is not fixed.
    for _, group in sorted(reaction.inputs.items(), key=lambda item: (item[1].addition_order, item[0])):
        for compound in group.components:
            inputs[compound.reaction_role].append(compound)
    try:
        product = _product(reaction, inputs)
        reactants = _reactants(reaction, inputs[ReactionRole.REACTANT])
    except _Unusable as reason:
        yield from (Drop(task, place, str(reason)) for task in (SOLVENTS, CATALYSTS))
        return
    for task, role, answer in ((SOLVENTS, "solvents", _solvents), (CATALYSTS, "catalysts", _catalysts)):
        try:
            answers = _without(answer(inputs), reactants | product)
            if not answers:
                raise _Unusable(f"nothing that is called one of the {role} can be one")
        except _Unusable as reason:
            yield Drop(task, place, str(reason))
            continue
        molecules = {"reactants": reactants, "product": product, role: answers}
        yield Record(
            task=task,
            place=place,
            molecules={name: ".".join(smiles.values()) for name, smiles in molecules.items()},
            publisher_id=reaction.reaction_id,
        )


def _product(reaction: Reaction, inputs: dict[int, list[Compound]]) -> Molecules:
    """The one product: what is desired if anything is, and was not there before."""
    compounds = [
        product
        for outcome in reaction.outcomes
        for product in outcome.products
        if product.reaction_role in (ReactionRole.PRODUCT, ReactionRole.UNSPECIFIED)
    ]
    desired = [product for product in compounds if product.is_desired_product]
    products = _molecules(desired or compounds)
    if not products:
        raise _Unusable("no product has a SMILES")
    products = _without(products, _molecules(compound for role in inputs.values() for compound in role))
    if not products:
        raise _Unusable("the product is also an input")
    if len(products) > 1:
        raise _Unusable("there are several products")
    return products


def _reactants(reaction: Reaction, compounds: list[Compound]) -> Molecules:
    """The reactants that give atoms to the product, as far as the record tells."""
    reactants, mapped = _molecules(compounds), _mapped_reactants(reaction)
    if mapped is None:
        _complete(compounds, "reactant")
    else:
        reactants = {key: smiles for key, smiles in reactants.items() if mapped & set(key.split("."))}
        if mapped - {fragment for key in reactants for fragment in key.split(".")}:
            raise _Unusable("the mapped reaction has a reactant that the inputs lack")
    if not reactants:
        raise _Unusable("no reactant is known to give atoms to the product")
    return reactants


def _mapped_reactants(reaction: Reaction) -> set[str] | None:
    """Canonical SMILES of the fragments with mapped atoms left of `>`; None without a mapped reaction SMILES."""
    kinds = (ReactionIdentifier.REACTION_CXSMILES, ReactionIdentifier.REACTION_SMILES)
    for identifier in reaction.identifiers:
        if identifier.type in kinds and identifier.is_mapped:
            fragments = identifier.value.partition(">")[0].split(".")
            return {_canonical(fragment) for fragment in fragments if re.search(r":\d+\]", fragment)}
    return None


def _solvents(inputs: dict[int, list[Compound]]) -> Molecules:
    compounds = _named(inputs[ReactionRole.SOLVENT], "solvent")
    fragments = [fragment for smiles in _molecules(compounds).values() for fragment in smiles.split(".")]
    solvents: Molecules = {}
    for fragment in fragments:
        if not _is_ion(fragment):
            solvents.setdefault(_canonical(fragment), fragment)
    return solvents


def _catalysts(inputs: dict[int, list[Compound]]) -> Molecules:
    catalysts = _molecules(_named(inputs[ReactionRole.CATALYST], "catalyst"))
    return _without(catalysts, _molecules(inputs[ReactionRole.SOLVENT]).keys() | _NEVER_CATALYSTS)


def _named(compounds: list[Compound], role: str) -> list[Compound]:
    if not compounds:
        raise _Unusable(f"the record names no {role}")
    _complete(compounds, role)
    return compounds


def _complete(compounds: list[Compound], role: str) -> None:
    if not all(map(_smiles, compounds)):
        raise _Unusable(f"a {role} has a name but no SMILES")


def _molecules(compounds: Iterable[Compound | ProductCompound]) -> Molecules:
    molecules: Molecules = {}
    for smiles in filter(None, map(_smiles, compounds)):
        molecules.setdefault(_canonical(smiles), smiles)
    return molecules


def _smiles(compound: Compound | ProductCompound) -> str:
    """The first SMILES of a compound, "" if it has none."""
    kind = CompoundIdentifier.SMILES
    return next((item.value.strip() for item in compound.identifiers if item.type == kind), "")


def _without(molecules: Molecules, others: Iterable[str]) -> Molecules:
    return {key: molecules[key] for key in molecules if key not in others}


@lru_cache(1 << 16)
def _canonical(smiles: str) -> str:
    """Canonical SMILES without atom maps; the string itself where it cannot be read, which is not judged here."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return smiles
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    return Chem.MolToSmiles(mol)


@lru_cache(1 << 16)
def _is_ion(smiles: str) -> bool:
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    return mol is not None and Chem.GetFormalCharge(mol) != 0
