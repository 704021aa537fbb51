"""The last step of a build: statistics, checks, figures and card of a small folder with planted faults."""

import copy
import json
import random
import re
import statistics as st

import matplotlib.image
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import get_dataset_config_names, load_dataset
from datasets.utils.info_utils import NonMatchingSplitsSizesError

from dataset_builders import checks, finish
from dataset_builders.card import render_card
from dataset_builders.folder import MANIFEST, read_report
from dataset_builders.schema import FEATURES, SPLITS, stable_hash
from dataset_builders.statistics import QUANTILES, Lengths, TaskStatistics, read_numbers
from omnimol_hf.chemistry_omnimol import smiles_to_selfies
from omnimol_hf.tasks import ALL_TASKS

METHANOL, CHLOROMETHANE, CHLORIDE = "[C][O]", "[C][Cl]", "[Cl-1]"
PROCEDURE = (
    f"Reactants:$1$:[START_SELFIES]{METHANOL}[END_SELFIES] Product:$-1$:[START_SELFIES]{CHLOROMETHANE}[END_SELFIES]"
)


def row(task, number, row_input, output, graph, source="qm9", license_="CC0-1.0", **columns):
    return {
        "id": f"{source}-{task}-{number:06d}",
        "task": task,
        "category": ALL_TASKS[task].category,
        "instruction": ALL_TASKS[task].instruction(0, columns.get("subset", "")),
        "input": row_input,
        "output": output,
        "graph_smiles": graph,
        "subset": "",
        "components": "",
        "source": source,
        "license": license_,
        "label_source": "published",
        "source_id": f"{source}/file.csv#{number}",
    } | columns


def orbitals(number, selfies, smiles, homo, lumo, gap):
    return [
        row("homo_lumo", number + place, selfies, f"{value:.4f}", [smiles], subset=subset)
        for place, (subset, value) in enumerate((("HOMO", homo), ("LUMO", lumo), ("gap", gap)))
    ]


def weight(number, selfies, smiles, value):
    answer = ALL_TASKS["molecular_weight"].answer_text(value)
    return row("molecular_weight", number, selfies, answer, [smiles], "pubchem", "public domain")


def yields(number, value):
    reaction = f"{METHANOL}.{CHLORIDE}>>{CHLOROMETHANE}"
    return row("yield_regression", number, reaction, value, ["CO", "[Cl-]"], "rxn_yields", "MIT", subset="B-H")


SOUND = {
    "retrosynthesis": {"train": [row("retrosynthesis", 1, CHLOROMETHANE, f"{METHANOL}.{CHLORIDE}", ["CCl"])]},
    "yield_regression": {"train": [yields(1, "0.5000")], "test": [yields(2, "1.0000")]},
    "homo_lumo": {
        "train": orbitals(1, METHANOL, "CO", -0.2642, 0.0732, 0.3373),  # off by one in the last place: rounding
        "validation": orbitals(4, CHLOROMETHANE, "CCl", -0.3, 0.1, 0.4),
    },
    "molecular_weight": {"train": [weight(1, METHANOL, "CO", 32.04)], "test": [weight(2, METHANOL, "CO", 32.0)]},
    "experiment_procedure": {
        "test": [row("experiment_procedure", 1, PROCEDURE, "ADD $1$", ["CO"], "orgsyn_procedures", "not stated")]
    },
    "iupac_to_selfies": {"train": [row("iupac_to_selfies", 1, "methanol [sic]", METHANOL, [], "pubchem")]},
    "alignment": {"train": [row("alignment", 1, METHANOL, "A | B\nC", ["CO"], "pubchem")]},
}


def report_of(rows):
    counted = {task: {split: len(splits.get(split, [])) for split in SPLITS} for task, splits in rows.items()}
    by_source = {}
    for task, splits in rows.items():
        for split, found in splits.items():
            for one in found:
                key = (one["source"], task, split)
                by_source[key] = by_source.get(key, 0) + 1
    return {
        "name": "omni-mol-instruct",
        "version": "1",
        "sources": ["rxn_yields", "qm9", "pubchem", "orgsyn_procedures"],
        "left_out": {"logp": "no files of a source that feeds it (pubchem)"},
        "level": "exact",
        "limit": None,
        "tools": {"rdkit": "1.0"},
        "rows": counted,
        "rows_by_source": [
            {"source": source, "task": task, "split": split, "rows": n}
            for (source, task, split), n in by_source.items()
        ],
        "inputs": [{"source": "qm9", "file": "qm9/qm9.csv", "bytes": 1234, "sha256": "ab" * 32, "records": 9}],
        "drops": [
            {"task": "logp", "source": "pubchem", "reason": "no a|b tag", "count": 1234, "examples": ["pubchem/x#7"]},
        ],
        "overlaps": {
            "before": {"homo_lumo": {"homo_lumo": 0, "alignment": 17}, "alignment": {"homo_lumo": 0, "alignment": 0}},
            "after": {"homo_lumo": {"homo_lumo": 0, "alignment": 0}, "alignment": {"homo_lumo": 0, "alignment": 0}},
        },
    }


def write(folder, rows, row_group_size=None):
    for task, splits in rows.items():
        (folder / task).mkdir(parents=True, exist_ok=True)
        for split, found in splits.items():
            table = pa.Table.from_pylist(found, schema=FEATURES.arrow_schema)
            path = folder / task / f"{split}-00000-of-00001.parquet"
            pq.write_table(table, path, row_group_size=row_group_size)
    return folder


def finished(folder, rows, **kwargs):
    report = report_of(rows)
    finish.finish(write(folder, rows, **kwargs), report)
    return report


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "dataset"
    return folder, finished(folder, SOUND)


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def card_of(folder):
    return (folder / "README.md").read_text().split("\n---\n", 1)


# --- the folder ------------------------------------------------------------------------------------------------------


def test_report_is_written_and_its_checksums_hold(built):
    folder, report = built
    assert read_report(folder) == json.loads(json.dumps(report))
    assert {"statistics", "checks"} <= report.keys()


def test_same_bytes_again_and_in_place(built, tmp_path):
    folder, report = built
    finished(tmp_path / "again", SOUND)
    assert contents(tmp_path / "again") == contents(folder)
    (tmp_path / "again" / "figures" / "old.png").write_bytes(b"")
    finish.finish(tmp_path / "again", copy.deepcopy(report))
    assert contents(tmp_path / "again") == contents(folder), "renewed, without itself among the checksums"
    assert MANIFEST not in (folder / MANIFEST).read_text()


def test_rows_that_the_report_does_not_count_are_refused(tmp_path):
    report = report_of(SOUND)
    report["rows"]["alignment"]["train"] = 2
    with pytest.raises(ValueError, match=r"alignment holds 1 train rows; the report counts 2"):
        finish.finish(write(tmp_path, SOUND), report)


def test_a_row_group_at_a_time(tmp_path):
    rows = {"alignment": {"train": [row("alignment", n, METHANOL, "text", ["CO"], "pubchem") for n in range(10)]}}
    write(tmp_path, rows, row_group_size=4)
    assert [len(table) for table in finish._tables(tmp_path / "alignment", "train")] == [4, 4, 2]


# --- loading ---------------------------------------------------------------------------------------------------------


def test_configs_and_splits_load(built, tmp_path):
    folder, report = built
    assert get_dataset_config_names(str(folder)) == ["unified", *SOUND]
    everything = load_dataset(str(folder), cache_dir=str(tmp_path))
    fifteen = [task for task in SOUND if task not in ("iupac_to_selfies", "alignment")]
    assert {split: rows.num_rows for split, rows in everything.items()} == {
        split: sum(report["rows"][task][split] for task in fifteen) for split in SPLITS
    }
    assert set(everything["train"]["task"]) == {"retrosynthesis", "yield_regression", "homo_lumo", "molecular_weight"}
    for task, splits in SOUND.items():
        one = load_dataset(str(folder), task, cache_dir=str(tmp_path))
        assert {split: list(rows) for split, rows in one.items()} == splits
        assert next(iter(one.values())).features == FEATURES
    streamed = load_dataset(str(folder), "homo_lumo", split="validation", streaming=True)
    assert list(streamed) == SOUND["homo_lumo"]["validation"]


def test_shards_that_lack_rows_do_not_load(built, tmp_path):
    folder = tmp_path / "broken"
    write(folder, SOUND)
    (folder / "README.md").write_bytes((built[0] / "README.md").read_bytes())
    write(folder, {"homo_lumo": {"train": SOUND["homo_lumo"]["train"][:2]}})
    with pytest.raises(NonMatchingSplitsSizesError):
        load_dataset(str(folder), "homo_lumo", cache_dir=str(tmp_path / "cache"))


def test_yaml(built):
    header = yaml.safe_load(card_of(built[0])[0])
    assert header["license"] == "other"
    assert header["license_name"] == "per-source"
    assert header["size_categories"] == "n<1K"
    assert [config["config_name"] for config in header["configs"] if config.get("default")] == ["unified"]
    unified = {entry["split"]: entry["path"] for entry in header["configs"][0]["data_files"]}
    assert unified["validation"] == ["homo_lumo/validation-*.parquet"]
    assert unified["test"] == [f"{task}/test-*.parquet" for task in SOUND if "test" in SOUND[task]]
    infos = {info["config_name"]: info for info in header["dataset_info"]}
    assert infos["homo_lumo"]["splits"] == [
        {"name": split, "num_bytes": built[1]["statistics"]["homo_lumo"]["splits"][split]["num_bytes"]}
        | {"num_examples": 3}
        for split in ("train", "validation")
    ]
    assert infos["unified"]["splits"][0]["num_examples"] == 6
    assert {"name": "graph_smiles", "list": "string"} in infos["alignment"]["features"]


@pytest.mark.parametrize(
    ("licenses", "header"),
    [(["MIT"], {"license": "mit"}), (["MIT", "CC0-1.0"], {"license": "other", "license_name": "per-source"})],
)
def test_license_of_the_whole(tmp_path, licenses, header):
    rows = {"alignment": {"train": [row("alignment", 1, METHANOL, "text", ["CO"], "qm9", name) for name in licenses]}}
    report = finished(tmp_path, rows)
    found = yaml.safe_load(card_of(tmp_path)[0])
    assert {key: found[key] for key in header} == header
    assert found["configs"][0] == {
        "config_name": "alignment",
        "data_files": [{"split": "train", "path": ["alignment/train-*.parquet"]}],
        "default": True,
    }, "no row of the fifteen tasks: no unified config"
    assert report["statistics"]["alignment"]["splits"]["train"]["rows"] == len(licenses)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_lengths_are_exact_quantiles():
    generator = random.Random(0)
    drawn = [int(generator.lognormvariate(4, 1)) for _ in range(1_001)]
    lengths = Lengths()
    for start in range(0, len(drawn), 100):
        lengths.add(pa.chunked_array([pa.array(drawn[start : start + 100], pa.int32())]))
    expected = np.quantile(drawn, list(QUANTILES.values()), method="inverted_cdf")
    assert list(lengths.quantiles().values()) == expected.tolist()
    assert lengths.quantiles()["median"] == st.median(drawn)


def test_statistics_of_a_task():
    task = ALL_TASKS["yield_regression"]
    rows = [yields(number, f"{value:.4f}") for number, value in enumerate((0.25, 0.5, 0.75))]
    rows.append(yields(3, "1.0000") | {"input": f"{METHANOL}>>{CHLOROMETHANE}", "subset": "S-M"})
    found = TaskStatistics(task)
    for part in (rows[:1], rows[1:]):
        table = pa.Table.from_pylist(part, schema=FEATURES.arrow_schema)
        found.add("train", table, read_numbers(table["output"]))
    summary = found.summary()
    train = summary["splits"]["train"]
    assert (train["rows"], train["distinct_inputs"]) == (4, 2)
    assert (train["input_symbols"]["min"], train["input_symbols"]["max"]) == (4, 5)
    assert train["input_characters"]["max"] == len(rows[0]["input"])
    assert "output_symbols" not in train
    assert (train["values"]["B-H"]["min"], train["values"]["B-H"]["max"], train["values"]["B-H"]["mean"]) == (
        0.25,
        0.75,
        0.5,
    )
    assert train["values"]["S-M"]["rows"] == 1
    assert summary["licenses"] == [{"source": "rxn_yields", "license": "MIT", "rows": 4}]
    assert summary["label_sources"] == {"published": 4}
    assert found.lengths("input_characters").sum() == 4


def test_symbols_are_those_of_molecules(built):
    splits = {task: found["splits"] for task, found in built[1]["statistics"].items()}
    assert splits["experiment_procedure"]["test"]["input_symbols"]["max"] == 4, "the marks are no symbols"
    assert "input_symbols" not in splits["iupac_to_selfies"]["train"], "a name holds none, whatever its brackets"
    assert splits["iupac_to_selfies"]["train"]["output_symbols"]["max"] == 2


def test_example_has_the_usual_length(tmp_path):
    rows = [row("alignment", n, METHANOL, "x" * length, ["CO"]) for n, length in enumerate((9, 1, 500, 3, 7))]
    report = finished(tmp_path, {"alignment": {"train": rows}})
    assert report["statistics"]["alignment"]["example"] == rows[4]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-0.2482", -0.2482),
        ("The LogP for the input molecule is -1.20.", -1.2),
        ("1e-05", 1e-5),
        ("about 12 g/mol", 12),
        ("none", None),
    ],
)
def test_numbers_are_read(text, value):
    (found,) = read_numbers(pa.chunked_array([[text]]))
    assert np.isnan(found) if value is None else found == value


# --- checks ----------------------------------------------------------------------------------------------------------


def test_sound_rows_pass(built):
    outcome = built[1]["checks"]
    assert {name: (check["checked"], check["failed"]) for name, check in outcome.items()} == {
        "numbers": (10, 0),
        "yields": (2, 0),
        "gaps": (2, 0),
        "weights": (2, 0),
        "molecules": (14, 0),
    }


FAULTS = {
    "numbers": ("yield_regression", [yields(7, "high")], r"rxn_yields-yield_regression-000007: high"),
    "yields": ("yield_regression", [yields(7, "85.0")], r"rxn_yields-yield_regression-000007: 85"),
    "gaps": ("homo_lumo", orbitals(7, METHANOL, "CO", -0.3, 0.1, 0.4004), r"HOMO -0\.3, LUMO 0\.1, gap 0\.4004"),
    "weights": ("molecular_weight", [weight(7, METHANOL, "CO", 33.05)], r"33\.05, RDKit 32\.042"),
    "graph": (
        "retrosynthesis",
        [row("retrosynthesis", 7, CHLOROMETHANE, METHANOL, ["CO"])],
        "000007: the graph is not of the input's molecules",
    ),
    "answer": ("retrosynthesis", [row("retrosynthesis", 7, CHLOROMETHANE, "[C][Foo]", ["CCl"])], r"000007: .*Foo"),
    "product": (
        "yield_regression",
        [yields(7, "0.5") | {"input": f"{METHANOL}.{CHLORIDE}>>methane"}],
        r"000007: .*methane",
    ),
    "component": (
        "experiment_procedure",
        [row("experiment_procedure", 7, PROCEDURE.replace("[Cl]", "[Xx]"), "ADD", ["CO"])],
        r"000007: .*Xx",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found_and_listed(tmp_path, fault):
    task, rows, message = FAULTS[fault]
    report = finished(tmp_path, {task: {"train": rows}})
    name = fault if fault in ("numbers", "yields", "gaps", "weights") else "molecules"
    assert {other: check["failed"] for other, check in report["checks"].items() if check["failed"]} == {name: 1}
    (listed,) = report["checks"][name]["listed"]
    assert re.search(message, listed), listed
    assert listed in card_of(tmp_path)[1]


def test_one_of_several_calculations_fits():
    """The same molecule twice: its gap need not be that of the other's orbitals."""
    rows = orbitals(1, METHANOL, "CO", -0.3, 0.1, 0.4) + orbitals(4, METHANOL, "CO", -0.29, 0.12, 0.41)
    found = checks.Checks({"homo_lumo": {"train": 6}})
    table = pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    for part in (table.slice(0, 2), table.slice(2)):
        found.add(ALL_TASKS["homo_lumo"], part, read_numbers(part["output"]))
    gaps = found.result()["gaps"]
    assert (gaps["checked"], gaps["failed"]) == (1, 0)


def test_lists_end_somewhere():
    check = checks.Check("nothing")
    for number in range(checks.LISTED + 5):
        check.note(str(number))
    assert (check.failed, len(check.listed)) == (checks.LISTED + 5, checks.LISTED)


def test_samples_are_even_and_the_same_each_time():
    rows = [row("alignment", number, METHANOL, "text", ["CO"]) for number in range(8 * checks.SAMPLE)]
    table = pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    task = ALL_TASKS["alignment"]
    first, again = (checks.Checks({"alignment": {"train": len(rows)}}) for _ in range(2))
    first.add(task, table, None)
    again.add(task, table.slice(0, 5), None)
    again.add(task, table.slice(5), None)
    assert vars(first.molecules) == vars(again.molecules)
    assert first.molecules.checked == sum(stable_hash(one["id"]) % 8 == 0 for one in rows)
    assert 0.8 * checks.SAMPLE < first.molecules.checked < 1.2 * checks.SAMPLE


@pytest.mark.parametrize(("published", "agrees"), [(290.4, True), (290.45, True), (289.43, False), (290.6, False)])
def test_weights_agree_within_what_is_printed(published, agrees):
    assert checks.weight_agrees(published, 290.447) is agrees


def test_weights_of_real_records(shared):
    """At least 99 % of PubChem's weights, rounded as a row has them, are RDKit's."""
    from rdkit import Chem
    from rdkit.Chem.Descriptors import MolWt

    from dataset_builders.sources import pubchem

    records = [
        record
        for record in pubchem.read(shared / "raw" / "pubchem" / "Compound_1_1000.csv")
        if record.task == "molecular_weight" and Chem.MolFromSmiles(record.molecules["molecule"])
    ]
    agree = [
        checks.weight_agrees(round(one.value, 2), MolWt(Chem.MolFromSmiles(one.molecules["molecule"])))
        for one in records
    ]
    assert len(agree) > 900
    assert sum(agree) / len(agree) >= 0.99


# --- figures ---------------------------------------------------------------------------------------------------------


def test_figures(built):
    figures = {path.name: matplotlib.image.imread(path) for path in (built[0] / "figures").iterdir()}
    assert set(figures) == {"lengths.png", "values.png", "sources.png", "overlaps.png"}
    for name, picture in figures.items():
        assert min(picture.shape[:2]) > 150, name
        assert picture.std() > 0.02, f"{name} is blank"
        assert f"](figures/{name})" in card_of(built[0])[1]


def test_no_figure_of_values_without_numbers(tmp_path):
    rows = {"alignment": SOUND["alignment"]}
    finished(tmp_path, rows)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"lengths.png", "sources.png", "overlaps.png"}
    assert "values.png" not in (tmp_path / "README.md").read_text()


# --- card ------------------------------------------------------------------------------------------------------------


def test_card_says_what_people_need(built):
    _, card = card_of(built[0])
    for text in (
        "**14 rows** in 7 tasks: 8 train, 3 validation, 3 test.",
        "| `homo_lumo` | regression | Hartree | 3 | 3 | – | 360,113 | 1,987 |",
        "Not part of `unified`, only configs of their own: `iupac_to_selfies`, `alignment`.",
        "- `logp`: no files of a source that feeds it (pubchem).",
        "| logp | no a\\|b tag | 1,234 | pubchem/x#7 |",
        "<details><summary>pubchem: 1,234</summary>",
        "| `homo_lumo` | `alignment` | 17 | 0 |",
        "level `exact`",
        "| `molecular_weight` | public domain | pubchem | 2 |",
        "| qm9/qm9.csv | 1,234 | 9 |",
        "--source rxn_yields qm9 pubchem orgsyn_procedures --decontaminate exact --out DIR",
        f"user:   {SOUND['retrosynthesis']['train'][0]['instruction']} The product is: {CHLOROMETHANE}",
        "graph:  none",
        "| every answer of a number task holds a number | 10 | 0 | 100.00% |",
        "| `homo_lumo` | qm9 | train | 3 |",
        "rdkit 1.0",
    ):
        assert text in card, text
    assert card.count("<details>") == card.count("</details>")
    assert "{{" not in card
    assert "object at 0x" not in card


def test_tables_are_tables(built):
    """Every line of a table has as many cells as its head."""
    width = None
    for line in card_of(built[0])[1].splitlines():
        cells = line.replace("\\|", "").count("|") if line.startswith("|") else None
        assert cells == width or cells is None or width is None, line
        width = cells


def test_card_of_an_undecontaminated_quick_look(built):
    report = copy.deepcopy(built[1]) | {"level": "none", "limit": 5}
    report["overlaps"]["after"] = report["overlaps"]["before"]
    card = render_card(report)
    for text in ("not decontaminated", "| `homo_lumo` | `alignment` | 17 | 17 |", "--limit 5", "quick look"):
        assert text in card
    assert "are removed" not in card


def test_card_names_what_is_not_published(built):
    report = copy.deepcopy(built[1])
    report["unlicensed"] = [{"source": "orgsyn", "task": "experiment_procedure", "split": "train", "rows": 1050}]
    assert "- orgsyn: 1,050 rows of `experiment_procedure` (train)" in render_card(report)
    assert "state no licence were built" not in render_card(built[1])


def test_card_of_the_starter_data(tmp_path):
    rows = {"molecular_weight": {"train": [weight(1, smiles_to_selfies("CCO"), "CCO", 46.07)]}}
    report = report_of(rows) | {"name": "starter", "sources": ["starter"], "inputs": [], "drops": []}
    report["overlaps"] = {"before": {}, "after": {}}
    finish.finish(write(tmp_path, rows), report)
    _, card = card_of(tmp_path)
    for text in ("Omni-Mol Instruct: starter", "--source starter", "not a benchmark", "Nothing was dropped."):
        assert text in card
    for text in ("paper: train", "dataset_builders download", "overlaps.png"):
        assert text not in card, text
