"""The dataset built from publishers' real files, compared with those files by paths of its own (`raw_values.py`)."""

import json
import random
import re
from collections import Counter, defaultdict
from decimal import Decimal

import pyarrow.parquet as pq
import pytest
import selfies
from datasets import get_dataset_config_names, load_dataset
from rdkit import Chem
from rdkit.Chem.Descriptors import MolWt

from dataset_builders.build import Options, build_published
from dataset_builders.folder import read_report
from dataset_builders.schema import FEATURES
from omnimol_hf.tasks import ALL_TASKS, EXTRA_TASKS, TASKS
from tests.integration import raw_values
from tests.integration.raw_ord import faults_of_ord_row
from tests.integration.raw_values import (
    LICENCES,
    MOLECULE_OUTPUT,
    MOLECULE_TASKS,
    NUMBERS,
    RAW,
    REACTION_TASKS,
    TEXT_INPUT,
    decoded,
    fragments,
    from_selfies,
    hashed_split,
    row_procedure,
    row_sides,
)

pytestmark = [pytest.mark.integration, pytest.mark.skipif(RAW is None, reason="no folder ../shared with real data")]

TRACED = 200
LEAK = "its molecule or reaction is in a test or validation split"
REPEAT = "repeats an earlier row of its split"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("real") / "dataset"
    build_published(RAW, out, options=Options(workers=2))
    return out


@pytest.fixture(scope="module")
def report(folder):
    return read_report(folder)


@pytest.fixture(scope="module")
def rows(folder):
    """Task -> its rows, with their split."""
    return {
        path.name: [
            row | {"split": shard.name.split("-")[0]}
            for shard in sorted(path.glob("*.parquet"))
            for row in pq.read_table(shard).to_pylist()
        ]
        for path in sorted(folder.iterdir())
        if path.name in ALL_TASKS
    }


def place_of(row):
    """File, place in it, and the publisher's id."""
    file, _, rest = row["source_id"].partition("#")
    place, _, publisher_id = rest.partition(":")
    return file, place, publisher_id


# --- what is there ---------------------------------------------------------------------------------------------------


def test_every_task_loads_whole_and_streaming(folder, report, rows, tmp_path):
    assert len(TASKS) == 15
    assert set(get_dataset_config_names(str(folder))) == {"unified", *rows}
    assert set(rows) == set(TASKS) | {"alignment", "iupac_to_selfies", "text_guided_generation"}
    assert set(report["left_out"]) == set(EXTRA_TASKS) - set(rows)
    for name, counts in report["rows"].items():
        assert min(counts["train"], counts["test"]) > 0, name
        assert Counter(row["split"] for row in rows[name]) == Counter(counts), name
    by_split = defaultdict(list)
    for name in [*rows, "unified"]:
        loaded = load_dataset(str(folder), name, cache_dir=str(tmp_path))
        wanted = ["train", "test"] + ["validation"] * (name in USPTO_TASKS or name == "unified")
        assert set(loaded) == set(wanted)
        for split, table in loaded.items():
            assert table.features == FEATURES
            ids = table["id"][:]
            if name == "unified":
                assert Counter(ids) == Counter(by_split[split])
                assert set(table["task"]) == {task for task in TASKS if report["rows"][task][split]}
            else:
                assert ids == [row["id"] for row in rows[name] if row["split"] == split]
                by_split[split] += ids if name in TASKS else []
            streamed = load_dataset(str(folder), name, split=split, streaming=True)
            assert [row["id"] for row in streamed.take(3)] == ids[:3]
    assert len({row["id"] for table in rows.values() for row in table}) == sum(map(len, rows.values()))


USPTO_TASKS = set(raw_values.USPTO.values())


def test_no_record_is_lost(report, rows):
    """Examples in the raw files = rows + drops, for every source and task."""
    found = Counter((row["source"], task) for task, table in rows.items() for row in table)
    by_source = Counter()
    for entry in report["rows_by_source"]:
        by_source[entry["source"], entry["task"]] += entry["rows"]
    assert by_source == found
    for drop in report["drops"]:
        found[drop["source"], drop["task"]] += drop["count"]
    assert found == raw_values.raw_counts()


# --- field by field --------------------------------------------------------------------------------------------------


def samples(rows):
    """(task, source) -> up to `TRACED` random rows."""
    groups = defaultdict(list)
    for task, table in rows.items():
        for row in table:
            groups[task, row["source"]].append(row)
    chooser = random.Random(20)
    return {key: chooser.sample(group, min(TRACED, len(group))) for key, group in sorted(groups.items())}


def test_rows_equal_the_raw_files(rows):
    faults, traced = [], {}
    for key, sample in samples(rows).items():
        traced[key] = len(sample)
        for row in sample:
            faults += [f"{row['id']} ({row['source_id']}): {fault}" for fault in faults_of(row)]
    print(f"traced {sum(traced.values())} rows: {traced}")
    assert not faults, f"{len(faults)} faults, e.g.\n" + "\n".join(faults[:20])
    assert {task for task, _ in traced} >= set(TASKS)
    assert min(traced.values()) > 100


def faults_of(row):
    """The fields that differ from the raw file."""
    task, source = row["task"], row["source"]
    file, place, publisher_id = place_of(row)
    yield from faults_of_frame(row)
    if source == "ord":
        yield from faults_of_ord_row(row, file, place, publisher_id)
        return
    want = raw_values.expected(task, source, file, place, row["subset"])
    if task in TEXT_INPUT:
        got_input = row["input"]
    else:
        got_input = row_procedure(row) if task == "experiment_procedure" else row_sides(row)
    got = {
        "input": got_input,
        "output": from_selfies(row["output"]) if task in MOLECULE_OUTPUT else row["output"],
        "instruction": row["instruction"],
        "subset": row["subset"],
        "split": row["split"],
        "label_source": row["label_source"],
        "publisher_id": publisher_id,
    }
    if want.number is not None:
        pattern, decimals = NUMBERS[task]
        answer = re.fullmatch(pattern, row["output"])
        if answer is None or abs(Decimal(answer[1]) - want.number) > Decimal(10) ** -decimals * Decimal("0.5000001"):
            yield f"number is {row['output']!r}, expected {want.number}"
        del got["output"]
    if want.instruction is None:
        want.instruction = row["instruction"] if is_ours(row) else "one of the project's"
    if want.split is None:
        want.split = hashed_split(molecule_key(row))
    yield from (
        f"{name} is {value!r}, expected {getattr(want, name)!r}"
        for name, value in got.items()
        if value != getattr(want, name)
    )


def is_ours(row):
    task = ALL_TASKS[row["task"]]
    words = {"HOMO": "HOMO energy", "LUMO": "LUMO energy", "gap": "HOMO-LUMO gap"}.get(row["subset"], "")
    return row["instruction"] in [text.format(property=words) for text in task.instructions]


def faults_of_frame(row):
    """What all rows have in common: id, licence, category, the graph, the map of components."""
    task, source = row["task"], row["source"]
    if not re.fullmatch(rf"{source}-{task}-\d{{6}}", row["id"]):
        yield f"id is {row['id']}"
    if row["license"] != LICENCES[source]:
        yield f"licence is {row['license']}"
    if row["category"] != ALL_TASKS[task].category:
        yield f"category is {row['category']}"
    if source == "ord" and (row["label_source"], row["subset"]) != ("published", ""):
        yield f"label_source and subset are {row['label_source']!r}, {row['subset']!r}"
    if source == "ord" and not is_ours(row):
        yield f"the instruction is {row['instruction']!r}"
    named = {}
    if task == "experiment_procedure":
        roles = row_procedure(row)
        named = {name: molecules for role in roles.values() for name, molecules in role.items()}
        molecules = [one for name, part in named.items() if not name.startswith("$-") for one in part]
    elif task in TEXT_INPUT:
        molecules = []
    else:
        left = row_sides(row)[0]
        molecules = list(left[:1] if task in FIRST_MOLECULE else left)
    graph = [raw_values.canonical(smiles) for smiles in row["graph_smiles"]]
    if graph != molecules:
        yield f"graph_smiles are {graph}, expected {molecules}"
    components = {
        name: fragments(smiles) for name, smiles in json.loads(row["components"] or "{}").items()
    }  # fragments in the order of the text
    if components != named:
        yield f"components are {components}, expected {named}"


FIRST_MOLECULE = {"forward_prediction", "description_qa", "tpsa", "complexity"}
"""Tasks of whose input the first component becomes the graph; of the others all of the left side."""


GOLDEN = {
    "forward_prediction": (" ", ""),
    "retrosynthesis": (" The product is: ", ""),
    "reagent_prediction": (" The reaction is ", ""),
    "solvent_prediction": (" The reaction is ", "."),
    "catalyst_prediction": (" The reaction is ", "."),
    "yield_regression": (" The reaction is ", "."),
    "homo_lumo": (" The compound SELFIES sequence is: ", ""),
    "scf_energy": (" The molecule SELFIES sequence is: ", ""),
    "logp": (" The molecule SELFIES sequence is: ", ""),
    "molecular_weight": (" The molecule SELFIES sequence is: ", ""),
    "tpsa": (" The compound SELFIES sequence is: ", ""),
    "complexity": (" The compound SELFIES sequence is: ", ""),
    "molecular_captioning": (" The compound sequence is: ", ""),
    "description_qa": (" The compound SELFIES sequence is: ", ""),
    "experiment_procedure": ("", ". The Action Sequence: "),
}
"""Task -> what stands between instruction and input, and after the input, in the authors' data."""


def test_user_texts_of_golden_rows(rows):
    assert set(GOLDEN) == set(TASKS)
    for task, (between, after) in GOLDEN.items():
        for split in ("train", "test"):
            row = next(row for row in rows[task] if row["split"] == split)
            text = TASKS[task].user_text(row["instruction"], row["input"])
            assert text == row["instruction"] + between + row["input"] + after
    ammonia = {task: next(row for row in rows[task] if row["input"] == "[N]") for task in ("logp", "tpsa")}
    texts = [TASKS[task].user_text("What is it?", row["input"]) + "|" + row["output"] for task, row in ammonia.items()]
    assert texts == [
        "What is it? The molecule SELFIES sequence is: [N]|The LogP for the input molecule is -0.70.",
        "What is it? The compound SELFIES sequence is: [N]|"
        "The Topological Polar Surface Area for the input molecule is 1.00 Å².",
    ]


def test_tracing_finds_what_is_wrong(rows):
    """Each field, changed in a row that is right, gives a fault."""
    taken = {}
    for task, table in rows.items():
        taken[task] = next(row for row in table if not list(faults_of(row)))
    changed = {
        "id": "x",
        "instruction": "Something else?",
        "input": "[C][C][F]",
        "output": "[Br]",
        "graph_smiles": ["CF"],
        "subset": "another",
        "components": '{"$1$": "C"}',
        "license": "GPL",
        "label_source": "guessed",
        "split": "validation",
    }
    for task, row in taken.items():
        for name, value in changed.items():
            if task == "experiment_procedure" and name == "input":
                value = "Reactants:$1$:[START_SELFIES][C][END_SELFIES] Product:$-1$:[START_SELFIES][O][END_SELFIES]"
            if ">>" in row["input"] and name == "input":
                value += ">>[C]"
            if row["source"] == "ord" and name == "split":
                continue
            assert list(faults_of(row | {name: value})), f"{task}: {name}"


def test_buchwald_hartwig_rows_equal_another_publication(rows):
    """T5Chem publishes the same wells as reactions: halide and amine > complex, additive, base, solvent > product."""
    archive = raw_values.raw_archive()
    wells = Counter()
    for split in ("train", "test"):
        pair = (archive[f"regression/{split}.{side}"] for side in ("source", "target"))
        for reaction, percent in zip(*pair, strict=True):
            left, arrow, product = reaction.partition(">")[0], ">", reaction.rpartition(">")[2]
            agents = reaction[len(left) + len(arrow) : -len(product) - len(arrow)]
            complex_, additive, base, _ = agents.split(".")
            wells[flat(left, ligand(complex_), additive, base, product), f"{float(percent) / 100:.4f}"] += 1
    ours = Counter()
    for row in rows["yield_regression"]:
        if row["subset"] == "B-H":
            (halide, amine, _, phosphine, base, additive), (product,) = row_sides(row)
            ours[flat(f"{halide}.{amine}", phosphine, additive, base, product), row["output"]] += 1
    assert sum(ours.values()) == 3955
    assert ours == wells
    splits = Counter((row["subset"], row["split"]) for row in rows["yield_regression"])
    assert splits == {("B-H", "train"): 2768, ("B-H", "test"): 1187, ("S-M", "train"): 4032, ("S-M", "test"): 1728}


def flat(*smiles):
    """Canonical without stereo, which only one of the two publications writes for cage compounds."""
    return tuple(Chem.MolToSmiles(Chem.MolFromSmiles(one), isomericSmiles=False) for one in smiles)


def ligand(complex_):
    """The phosphine of a palladium complex: its metal taken out, the part with phosphorus."""
    mol = Chem.RWMol(Chem.MolFromSmiles(complex_))
    mol.RemoveAtom(next(atom.GetIdx() for atom in mol.GetAtoms() if atom.GetSymbol() == "Pd"))
    parts = [Chem.MolToSmiles(part) for part in Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)]
    return next(part for part in parts if "P" in part)


# --- molecules and numbers -------------------------------------------------------------------------------------------


def test_molecules_of_reactions_round_trip(rows):
    """SELFIES -> canonical SMILES -> Kekulé SMILES -> SELFIES -> canonical SMILES."""
    components = set()
    for task in REACTION_TASKS:
        for row in rows[task]:
            components |= set(re.findall(r"(?:\[(?!START_SELFIES|END_SELFIES)[^\]]+\])+", row["input"]))
            if task in MOLECULE_OUTPUT:
                components |= set(row["output"].split("."))
    print(f"{len(components)} different molecules in reactions")
    faults = [one for one in sorted(components) if decoded(written(decoded(one))) != decoded(one)]
    assert len(components) > 30_000
    assert not faults, faults[:10]


def written(smiles):
    mol = Chem.MolFromSmiles(smiles)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return selfies.encoder(Chem.MolToSmiles(mol, kekuleSmiles=True))


def test_gap_is_lumo_minus_homo(rows):
    energies = defaultdict(dict)
    for row in rows["homo_lumo"]:
        energies[row["source_id"]][row["subset"]] = Decimal(row["output"])
    assert len(energies) > 11_000
    for source_id, one in energies.items():
        assert set(one) == {"HOMO", "LUMO", "gap"}, source_id
        assert abs(one["LUMO"] - one["HOMO"] - one["gap"]) <= Decimal("0.00015"), source_id


def test_weights_equal_rdkit(rows, report):
    listed = "\n".join(report["checks"]["weights"]["listed"])
    apart = {}
    for row in rows["molecular_weight"]:
        weight = float(re.fullmatch(NUMBERS["molecular_weight"][0], row["output"])[1])
        computed = MolWt(Chem.MolFromSmiles(".".join(row_sides(row)[0])))
        if abs(weight - computed) > 0.06 + 1e-4 * computed:
            apart[row["id"]] = (weight, computed)
    assert report["checks"]["weights"]["checked"] == len(rows["molecular_weight"])
    assert len(apart) <= 0.01 * len(rows["molecular_weight"]), apart
    assert all(row_id in listed for row_id in apart), apart


def test_structures_equal_pubchems_inchikeys(rows):
    """The rows come from the SMILES tag; the InChIKey is another word of PubChem's for the same structure."""
    compared, other = 0, []
    for row in rows["molecular_weight"]:
        file, place, _ = place_of(row)
        if file.endswith(".sdf.gz"):
            compared += 1
            tags = raw_values.raw_sdf(file)[int(place) - 1]
            key = tags.get("PUBCHEM_NIST_INCHIKEY") or tags["PUBCHEM_IUPAC_INCHIKEY"]
            if Chem.MolToInchiKey(Chem.MolFromSmiles(".".join(row["graph_smiles"]))) != key:
                other.append(row["id"])
    assert compared > 500
    assert len(other) <= 0.01 * compared, other  # charges on phosphorus and arsenic, which the older InChI moved


def test_chebi_rows_survive(rows, report):
    raw = {f"chebi_20/{split}.txt": raw_values.raw_tsv(f"chebi_20/{split}.txt") for split in ("validation", "test")}
    total = sum(map(len, raw.values()))
    for task in ("molecular_captioning", "alignment", "text_guided_generation"):
        drops = Counter()
        for drop in report["drops"]:
            if (drop["source"], drop["task"]) == ("chebi_20", task):
                drops[drop["reason"]] += drop["count"]
        leaks = drops.pop(LEAK)
        assert sum(drops.values()) <= 0.001 * total, drops
        kept = {place_of(row)[:2] for row in rows[task] if row["source"] == "chebi_20"}
        assert len(kept) == total - leaks - sum(drops.values())
        doubled = [
            (file, str(n)) for file, lines in raw.items() for n, row in enumerate(lines, 1) if "\\\\" in row["SMILES"]
        ]
        assert len(doubled) > 484
        lost = set(doubled) - kept
        assert all(file == "chebi_20/validation.txt" for file, _ in lost)
        assert len(lost) <= leaks


# --- splits and decontamination --------------------------------------------------------------------------------------


def molecule_key(row):
    """The whole molecule that the row asks about, or answers with."""
    text = row["output"] if row["task"] in TEXT_INPUT else row["input"]
    return ".".join(sorted(from_selfies(text)))


def reaction_key(row):
    """Product, the other molecules that are given, and all other molecules that the row holds."""
    task = row["task"]
    if task == "experiment_procedure":
        named = {name: part for role in row_procedure(row).values() for name, part in role.items()}
        given = {one for name, part in named.items() if not name.startswith("$-") for one in part}
        return tuple(sorted(named["$-1$"])), given, given
    sides, answer = row_sides(row), from_selfies(row["output"]) if task in MOLECULE_OUTPUT else ()
    if task == "forward_prediction":
        return tuple(sorted(answer)), set(sides[0]), set(sides[0])
    if task == "retrosynthesis":
        return tuple(sorted(sides[0])), set(answer), set(answer)
    return tuple(sorted(sides[1])), set(sides[0]), set(sides[0]) | set(answer)


def leaks(rows):
    """Ids of train rows with a held-out row of the same molecule or reaction, by their tasks."""
    found = defaultdict(list)
    molecules, reactions, yields = defaultdict(set), defaultdict(list), set()
    for row in rows:
        if row["split"] != "train" and row["task"] in MOLECULE_TASKS:
            molecules[molecule_key(row)].add(row["task"])
        elif row["split"] != "train":
            product, given, known = reaction_key(row)
            reactions[product].append((row["task"], given, known))
            yields |= {(product, frozenset(given))} if row["task"] == "yield_regression" else set()
    for row in rows:
        if row["split"] == "train" and row["task"] in MOLECULE_TASKS:
            for task in molecules.get(molecule_key(row), ()):
                found[row["task"], task].append(row["id"])
        elif row["split"] == "train":
            product, given, known = reaction_key(row)
            if row["task"] == "yield_regression" and (product, frozenset(given)) in yields:
                found["yield_regression", "yield_regression"].append(row["id"])
            for task, other_given, other_known in reactions.get(product, ()):
                if {row["task"], task} != {"yield_regression"} and (given <= other_known or other_given <= known):
                    found[row["task"], task].append(row["id"])
    return found


def test_no_train_row_stands_in_a_held_out_split(rows):
    everything = [row for table in rows.values() for row in table]
    assert set(rows) == MOLECULE_TASKS | REACTION_TASKS
    assert leaks(everything) == {}
    # The same search, on a few rows that are planted: each kind of leak is seen.
    for group in (MOLECULE_TASKS, REACTION_TASKS):
        held = [next(row for row in rows[task] if row["split"] != "train") for task in group]
        for row in held:
            assert leaks([*held, row | {"split": "train", "id": "planted"}])[row["task"], row["task"]] == ["planted"]
    forward = next(row for row in rows["forward_prediction"] if row["split"] == "test")
    backward = {"task": "retrosynthesis", "input": forward["output"], "output": forward["input"].partition(".")[0]}
    planted = backward | {"split": "train", "id": "planted"}
    assert leaks([forward, planted])["retrosynthesis", "forward_prediction"] == ["planted"]


def test_molecules_without_published_split_lie_in_one_split(rows):
    """Split by hash of the molecule: the same in all tasks and sources that publish no split."""
    splits = defaultdict(set)
    for task in MOLECULE_TASKS:
        for row in rows[task]:
            if row["source"] in ("qm9", "pubchem", "drugchat", "molecule_qa"):
                splits[molecule_key(row)].add(row["split"])
    assert len(splits) > 12_000
    assert all(len(one) == 1 for one in splits.values())
    for task in ("solvent_prediction", "catalyst_prediction"):
        for row in rows[task]:
            left, product = row_sides(row)
            assert row["split"] == hashed_split(f"{'.'.join(sorted(left))}>>{'.'.join(sorted(product))}"), row["id"]


def test_overlaps_in_the_report(report):
    before, after = report["overlaps"]["before"], report["overlaps"]["after"]
    assert report["level"] == "exact"
    assert not any(count for row in after.values() for count in row.values())
    removed = Counter()
    for drop in report["drops"]:
        removed[drop["task"]] += drop["count"] if drop["reason"] == LEAK else 0
    for task, row in before.items():
        assert max(row.values()) <= removed[task] <= sum(row.values()), task
    assert before["retrosynthesis"]["retrosynthesis"] >= 39
    assert sum(1 for row in before.values() for count in row.values() if count) > 20
    assert set(before) == set(after) == set(report["rows"])


def test_published_held_out_rows_are_complete(rows, report):
    """A published test or validation row that is not there is one that RDKit or SELFIES cannot express."""
    held_out = raw_values.held_out_sources()
    lost = Counter()
    for (source, task), published in held_out.items():
        here = {"#".join(place_of(row)[:2]): row["split"] for row in rows[task] if row["source"] == source}
        assert all(here.get(place, "test") != "train" for place in published)
        for place in published.keys() - here.keys():
            lost[source, task] += 1
            assert any(map(is_beyond_selfies, published[place])), place
        cleaning = sum(
            drop["count"]
            for drop in report["drops"]
            if (drop["source"], drop["task"]) == (source, task) and drop["reason"] not in (LEAK, REPEAT)
        )
        assert lost[source, task] <= cleaning
    print(f"published test and validation rows that cannot be written: {dict(lost)}")
    assert sum(lost.values()) <= 0.005 * sum(map(len, held_out.values()))


def is_beyond_selfies(smiles):
    """Whether RDKit cannot read it, or SELFIES says something else (or nothing) when it is read back."""
    try:
        return any(decoded(written(one)) != one for one in fragments(smiles) if smiles)
    except (AttributeError, ValueError, selfies.EncoderError):
        return True
