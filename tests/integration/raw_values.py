"""What a row of the dataset must hold, read from the publishers' raw files by paths of its own.

Nothing here uses the sources' readers or the cleaning: files are read with json, csv, pandas, tarfile, RDKit's SDF
reader and protobuf, molecules with RDKit, SELFIES with `selfies.decoder`.
"""

import bz2
import gzip
import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

import pandas
import selfies
from ord_schema.proto import dataset_pb2
from rdkit import Chem, rdBase

from tests.conftest import SHARED

RAW = SHARED / "raw" if SHARED else None
MOLECULE_TASKS = {
    *("molecular_captioning", "description_qa", "homo_lumo", "scf_energy", "logp", "tpsa", "complexity"),
    *("molecular_weight", "alignment", "iupac_to_selfies", "text_guided_generation"),
}
REACTION_TASKS = {
    *("forward_prediction", "retrosynthesis", "reagent_prediction", "solvent_prediction", "catalyst_prediction"),
    *("yield_regression", "experiment_procedure"),
}
TEXT_INPUT = {"iupac_to_selfies", "text_guided_generation"}
MOLECULE_OUTPUT = TEXT_INPUT | REACTION_TASKS - {"yield_regression", "experiment_procedure"}
NUMBERS = {
    "yield_regression": (r"(\d\.\d{4})", 4),
    "homo_lumo": (r"(-?\d+\.\d{4})", 4),
    "scf_energy": (r"The SCF Energy for the input molecule is (-?\d+\.\d{4}) Hartree\.", 4),
    "logp": (r"The LogP for the input molecule is (-?\d+\.\d\d)\.", 2),
    "tpsa": (r"The Topological Polar Surface Area for the input molecule is (\d+\.\d\d) Å²\.", 2),
    "complexity": (r"The Complexity for the input molecule is (\d+\.\d\d)\.", 2),
    "molecular_weight": (r"The Molecular Weight for the input molecule is (\d+\.\d\d) g/mol\.", 2),
}
"""Task -> the whole answer, and decimals, as 3D-MoIT and the authors write them."""
LICENCES = {
    "mol_instructions": "CC-BY-4.0",
    "uspto_500_mt": "MIT",
    "ord": "CC-BY-SA-4.0",
    "rxn_yields": "MIT",
    "chebi_20": "CC-BY-4.0",
    "qm9": "CC0-1.0",
    "pubchem": "public domain",
    "orgsyn_procedures": "not stated",
    "drugchat": "BSD-3-Clause",
    "molecule_qa": "Apache-2.0",
}


@dataclass
class Expected:
    """What the raw file says. `input`: canonical components of each side, a text, or the `$k$` map; `number` exact.

    `split` None: by hash. `instruction` None: one of the project's.
    """

    input: object
    output: object = None
    number: Decimal | None = None
    instruction: str | None = None
    subset: str = ""
    split: str | None = None
    label_source: str = "published"
    publisher_id: str = ""


# --- molecules -------------------------------------------------------------------------------------------------------


@cache
def canonical(smiles: str) -> str:
    """Canonical SMILES without atom maps, read back until it no longer changes."""
    with rdBase.BlockLogs():
        for _ in range(4):
            mol = Chem.MolFromSmiles(smiles)
            for atom in mol.GetAtoms():
                atom.SetAtomMapNum(0)
            before, smiles = smiles, Chem.MolToSmiles(mol)
            if smiles == before:
                break
    return smiles


@cache
def fragments(smiles: str) -> tuple[str, ...]:
    """The molecules of a raw SMILES in the publisher's order: the graph is cut, not the text."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles.replace("~", "."))
        if mol is None:
            raise ValueError(f"RDKit cannot read {smiles}")
        return tuple(canonical(Chem.MolToSmiles(part)) for part in Chem.GetMolFrags(mol, asMols=True))


@cache
def decoded(component: str) -> str:
    """Canonical SMILES of one SELFIES."""
    return canonical(selfies.decoder(component))


def from_selfies(text: str) -> tuple[str, ...]:
    return tuple(decoded(component) for component in text.split("."))


def row_sides(row: dict) -> tuple[tuple[str, ...], ...]:
    """Canonical components of each side of the row's input."""
    return tuple(from_selfies(side) for side in row["input"].split(">>"))


def row_procedure(row: dict) -> dict[str, dict[str, tuple[str, ...]]]:
    """Role -> `$k$` -> canonical components, of a procedure's input, read by its grammar."""
    roles = {}
    name, molecule = r"\$-?\d+\$", r"\[START_SELFIES\][^ ]+?\[END_SELFIES\]"
    listed = rf"(?:Reactants|Product|Catalysts|Solvents):{name}:{molecule}(?: {name}:{molecule})*"
    assert re.fullmatch(f"{listed}(?: {listed})*", row["input"]), row["input"]
    for part in re.split(r" (?=[A-Z][a-z]+:\$)", row["input"]):
        role, _, rest = part.partition(":")
        pairs = re.findall(r"(\$-?\d+\$):\[START_SELFIES\](.+?)\[END_SELFIES\]", rest)
        roles[role] = {key: from_selfies(text) for key, text in pairs}
    return roles


def hashed_split(key: str) -> str:
    number = int.from_bytes(hashlib.sha256(f"split\x1f{key}".encode()).digest()[:8], "big")
    return "test" if number % 10 == 0 else "train"


# --- raw files -------------------------------------------------------------------------------------------------------


@cache
def raw_json(file: str) -> object:
    return json.loads((RAW / file).read_bytes())


@cache
def raw_json_lines(file: str) -> list[dict]:
    return [json.loads(line) for line in (RAW / file).read_bytes().decode().split("\n") if line]


@cache
def raw_csv(file: str) -> list[dict]:
    return pandas.read_csv(RAW / file, dtype=str, keep_default_na=False).to_dict("records")


@cache
def raw_tsv(file: str) -> list[dict]:
    header, *lines = (RAW / file).read_bytes().decode().rstrip("\n").split("\n")
    names = header.rstrip("\r").split("\t")
    return [dict(zip(names, line.rstrip("\r").split("\t"), strict=True)) for line in lines]


@cache
def raw_sheet() -> list[dict]:
    return pandas.read_excel(RAW / "rxn_yields/Dreher_and_Doyle_input_data.xlsx", "FullCV_01").to_dict("records")


@cache
def raw_archive() -> dict[str, list[str]]:
    """Member (`product/train.source`) -> its lines."""
    packed = bz2.decompress((RAW / "uspto_500_mt/sample_data.tar.bz2").read_bytes())
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return {
            member.name.removeprefix("data/sample/"): archive.extractfile(member)
            .read()
            .decode()
            .rstrip("\n")
            .split("\n")
            for member in archive
            if member.isfile()
        }


@cache
def raw_sdf(file: str) -> list[dict]:
    with gzip.open(RAW / file) as stream, rdBase.BlockLogs():
        return [
            mol.GetPropsAsDict(autoConvertStrings=False) for mol in Chem.ForwardSDMolSupplier(stream, sanitize=False)
        ]


@cache
def raw_ord(file: str) -> list:
    return list(dataset_pb2.Dataset.FromString(gzip.decompress((RAW / file).read_bytes())).reactions)


def raw_counts() -> Counter:
    """(source, task) -> examples in the raw files, whether or not they make good rows."""
    counts = Counter()
    for task, file in MOL_INSTRUCTIONS.items():
        counts["mol_instructions", task] = len(raw_json(f"mol_instructions/{file}.json"))
    for folder, task in USPTO.items():
        counts["uspto_500_mt", task] = sum(len(raw_archive()[f"{folder}/{split}.source"]) for split in USPTO_SPLITS)
    reactions = sum(len(raw_ord(path.relative_to(RAW).as_posix())) for path in (RAW / "ord").glob("*.pb.gz"))
    counts["ord", "solvent_prediction"] = counts["ord", "catalyst_prediction"] = reactions
    counts["rxn_yields", "yield_regression"] = len(raw_sheet()) + len(raw_tsv("rxn_yields/random_split_0.tsv"))
    for task in ("molecular_captioning", "alignment", "text_guided_generation"):
        counts["chebi_20", task] = sum(len(raw_tsv(f"chebi_20/{split}.txt")) for split in ("validation", "test"))
    counts["qm9", "homo_lumo"] = 3 * len(raw_csv("qm9/qm9.csv"))
    counts["qm9", "scf_energy"] = len(raw_csv("qm9/qm9.csv"))
    compounds = len(raw_csv("pubchem/Compound_1_1000.csv")) + len(raw_sdf("pubchem/pubchem_hard_set.sdf.gz"))
    for task in ("logp", "tpsa", "complexity", "molecular_weight", "iupac_to_selfies"):
        counts["pubchem", task] = compounds
    counts["pubchem", "alignment"] = len(raw_csv("pubchem/Compound_1_1000_with_description.csv"))
    counts["orgsyn_procedures", "experiment_procedure"] = sum(
        len(raw_json_lines(f"orgsyn_procedures/{split}.jsonl")) for split in ("train", "valid")
    )
    counts["drugchat", "description_qa"] = sum(map(len, raw_json("drugchat/ChEMBL_QA_test.json").values()))
    counts["molecule_qa", "description_qa"] = len(raw_json_lines("molecule_qa/rows.jsonl"))
    return counts


def held_out_sources() -> dict[tuple[str, str], dict[str, list[str]]]:
    """(source, task) -> source id without publisher's id -> raw molecules: all that publishers put in test or val.

    Where validation serves as train or test, what it serves as counts.
    """
    held = {}
    for task, file in MOL_INSTRUCTIONS.items():
        held["mol_instructions", task] = {
            f"mol_instructions/{file}.json#{number}": []
            for number, record in enumerate(raw_json(f"mol_instructions/{file}.json"), 1)
            if record["metadata"]["split"] == "test"
        }
    for folder, task in USPTO.items():
        held["uspto_500_mt", task] = {
            f"uspto_500_mt/sample_data.tar.bz2#{folder}/{split}/{number}": [*source.split(">>"), target]
            for split in ("val", "test")
            for number, (source, target) in enumerate(
                zip(*(raw_archive()[f"{folder}/{split}.{side}"] for side in ("source", "target")), strict=True), 1
            )
        }
    for task in ("molecular_captioning", "alignment", "text_guided_generation"):
        held["chebi_20", task] = {
            f"chebi_20/test.txt#{n}": [] for n in range(1, len(raw_tsv("chebi_20/test.txt")) + 1)
        }
    sheet, table = len(raw_sheet()), len(raw_tsv("rxn_yields/random_split_0.tsv"))
    held["rxn_yields", "yield_regression"] = {
        f"rxn_yields/Dreher_and_Doyle_input_data.xlsx#FullCV_01/{n}": [] for n in range(2769, sheet + 1)
    } | {f"rxn_yields/random_split_0.tsv#{n}": [] for n in range(4033, table + 1)}
    held["orgsyn_procedures", "experiment_procedure"] = {
        f"orgsyn_procedures/valid.jsonl#{number}": record["source"].partition(":")[2].split(">>")
        for number, record in enumerate(raw_json_lines("orgsyn_procedures/valid.jsonl"), 1)
    }
    return held


# --- rows of each source ---------------------------------------------------------------------------------------------

MOL_INSTRUCTIONS = {
    "forward_prediction": "forward_reaction_prediction",
    "retrosynthesis": "retrosynthesis",
    "reagent_prediction": "reagent_prediction",
}
USPTO = {"product": "forward_prediction", "reactants": "retrosynthesis", "reagents": "reagent_prediction"}
USPTO_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def expected(task: str, source: str, file: str, place: str, subset: str) -> Expected:
    return globals()[f"_{source}"](task, file, place, subset)


def _mol_instructions(task: str, file: str, place: str, _: str) -> Expected:
    assert file == f"mol_instructions/{MOL_INSTRUCTIONS[task]}.json"
    record = raw_json(file)[int(place) - 1]
    sides = tuple(from_selfies(side) for side in record["input"].split(">>"))
    return Expected(sides, from_selfies(record["output"]), split=record["metadata"]["split"])


def _uspto_500_mt(task: str, _: str, place: str, __: str) -> Expected:
    folder, split, number = place.split("/")
    assert USPTO[folder] == task
    source, target = (raw_archive()[f"{folder}/{split}.{side}"][int(number) - 1] for side in ("source", "target"))
    sides = tuple(fragments(side) for side in source.removesuffix(">>").split(">>"))
    return Expected(sides, fragments(target), split=USPTO_SPLITS[split])


def _rxn_yields(_: str, file: str, place: str, __: str) -> Expected:
    if file.endswith(".xlsx"):
        number = int(place.removeprefix("FullCV_01/"))
        well = raw_sheet()[number - 1]
        halide, ligand, base, additive = (
            fragments(well[name]) for name in ("Aryl halide", "Ligand", "Base", "Additive")
        )
        palladium = fragments("Nc1ccccc1-c1ccccc1[Pd]OS(=O)(=O)C(F)(F)F")
        left = halide + fragments("Cc1ccc(N)cc1") + palladium + ligand + base + additive
        # Every aryl halide is written halogen first: in its place the nitrogen of p-toluidine.
        product = fragments(f"Cc9ccc(N{re.sub('^(Cl|Br|I)', '', well['Aryl halide'])})cc9")
        split = "train" if number <= 2768 else "test"
        return Expected((left, product), None, Decimal(repr(well["Output"])) / 100, None, "B-H", split, "measured")
    well = raw_tsv(file)[int(place) - 1]
    sides = tuple(fragments(side) for side in well["rxn"].split(">>"))
    split = "train" if int(place) <= 4032 else "test"
    return Expected(sides, None, Decimal(well["y"]), None, "S-M", split, "measured", well[""])


def _chebi_20(task: str, file: str, place: str, _: str) -> Expected:
    row = raw_tsv(file)[int(place) - 1]
    molecule = (fragments(row["SMILES"]),)  # RDKit reads doubled backslashes as single ones
    split = {"chebi_20/validation.txt": "train", "chebi_20/test.txt": "test"}[file]
    text = row["description"].strip()
    pair = (text, molecule[0]) if task in TEXT_INPUT else (molecule, text)
    return Expected(*pair, split=split, publisher_id=row["CID"])


def _qm9(task: str, file: str, place: str, subset: str) -> Expected:
    row = raw_csv(file)[int(place) - 1]
    if task == "scf_energy":
        subset, number = "", Decimal(row["u0"]) - Decimal(row["zpve"])
    else:
        subset = subset if subset in ("HOMO", "LUMO") else "gap"
        number = Decimal(row[subset.lower()])
    label = "computed:Gaussian 09, B3LYP/6-31G(2df,p)"
    molecule = (fragments(row["smiles"]),)
    return Expected(molecule, None, number, None, subset, label_source=label, publisher_id=row["mol_id"])


def _pubchem(task: str, file: str, place: str, _: str) -> Expected:
    rows = raw_sdf(file) if file.endswith(".gz") else raw_csv(file)
    tags = rows[int(place) - 1]
    molecule = fragments(tags.get("PUBCHEM_OPENEYE_ISO_SMILES") or tags["PUBCHEM_SMILES"])
    cid = tags["PUBCHEM_COMPOUND_CID"]
    if task == "alignment":
        return Expected((molecule,), tags["Description"].strip(), publisher_id=cid)
    if task == "iupac_to_selfies":
        return Expected(tags["PUBCHEM_IUPAC_NAME"], molecule, publisher_id=cid)
    xlogp = "PUBCHEM_XLOGP3" if tags.get("PUBCHEM_XLOGP3") else "PUBCHEM_XLOGP3_AA"
    tag, label = {
        "logp": (xlogp, "computed:" + xlogp.removeprefix("PUBCHEM_").replace("_", "-")),
        "tpsa": ("PUBCHEM_CACTVS_TPSA", "computed:Cactvs"),
        "complexity": ("PUBCHEM_CACTVS_COMPLEXITY", "computed:Cactvs"),
        "molecular_weight": ("PUBCHEM_MOLECULAR_WEIGHT", "computed:PubChem"),
    }[task]
    return Expected((molecule,), number=Decimal(tags[tag]), label_source=label, publisher_id=cid)


def _orgsyn_procedures(_: str, file: str, place: str, __: str) -> Expected:
    record = raw_json_lines(file)[int(place) - 1]
    left, right = (
        record["source"].removeprefix("Predict the experimental procedure of the following reaction:").split(">>")
    )
    roles = {
        role: {f"${sign}{k}$": fragments(one) for k, one in enumerate(side.split("."), 1)}
        for role, sign, side in (("Reactants", "", left), ("Product", "-", right))
    }
    split = {"train.jsonl": "train", "valid.jsonl": "test"}[file.split("/")[1]]
    return Expected(roles, record["target"], split=split, publisher_id=record["rxID"])


def _drugchat(_: str, file: str, place: str, __: str) -> Expected:
    number, position = map(int, place.split("/"))
    smiles, pairs = list(raw_json(file).items())[number - 1]
    question, answer = pairs[position - 1]
    text = {True: "Yes", False: "No"}[answer] if isinstance(answer, bool) else str(answer).strip()
    return Expected((fragments(smiles),), text, instruction=question.strip())


def _molecule_qa(_: str, file: str, place: str, __: str) -> Expected:
    row = raw_json_lines(file)[int(place) - 1]
    answer = row["answer"] if "answer" in row else row["options"][0]
    molecule = (fragments(row["smiles_from_utils/cid2smile.json"]),)
    return Expected(molecule, answer, instruction=row["question"], subset=row["topic"], publisher_id=row["cid"])
