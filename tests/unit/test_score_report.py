"""The report of an evaluation: its tables hold what results.json and the paper hold, and it opens anywhere."""

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from omnimol_hf.analysis.answer_plots import equal_bins
from omnimol_hf.analysis.report import write_results
from omnimol_hf.analysis.score_report import write_report
from omnimol_hf.analysis.score_tables import PAPER, ScoredModel, choose_cases, paper_value
from omnimol_hf.chemistry_omnimol import smiles_to_selfies
from omnimol_hf.metrics import score_task
from omnimol_hf.tasks import TASKS

MOLECULES = [smiles_to_selfies(smiles) for smiles in ("CCO", "CCN", "c1ccccc1", "CC(C)=O", "C[C@H](N)C(=O)O", "CS")]
KINDS = {
    "forward_prediction": (MOLECULES, [*MOLECULES[:3], "[C]", "<b>no|molecule</b>", ""]),
    "homo_lumo": (["-0.25", "0.01", "0.26"] * 2, ["-0.24", "0.02", "0.26", "-0.3", "none", "0.2"]),
    "molecular_weight": ([f"{i}.5" for i in range(90, 96)], ["90.5", "93", "-92.5", "1e3", "94.5", "95.5"]),
    "description_qa": (
        ["It is an acid."] * 6,
        ["It is an acid.", "", "A base $x$", "It is", "acid", "It is an acid."],
    ),
    "experiment_procedure": (
        ["ADD $1$ ; STIR for 2 h"] * 6,
        ["ADD $1$ ; STIR for 2 h", "ADD $1$", "", "x", "ADD", "y"],
    ),
}
SUBSETS = {"homo_lumo": ["HOMO", "LUMO", "gap"] * 2}


def make_rows() -> list[dict]:
    return [
        {"task": task, "id": f"{task}-{i}", "instruction": TASKS[task].instruction(0, subset), "input": molecule,
         "output": output, "subset": subset, "graph_smiles": ["C" * (i + 1)]}
        for task, (outputs, _) in KINDS.items()
        for i, (output, molecule) in enumerate(zip(outputs, MOLECULES, strict=True))
        for subset in [SUBSETS.get(task, [""] * 6)[i]]
    ]  # fmt: skip


def make_model(name: str, rotate: int = 0) -> ScoredModel:
    """A model whose answers to each task are those of `KINDS`, shifted by some rows."""
    answers, results = [], {}
    for task, (outputs, texts) in KINDS.items():
        texts = texts[rotate:] + texts[:rotate]
        constant = [outputs[0]] * 6
        subsets = SUBSETS.get(task, [""] * 6)
        results[task] = score_task(TASKS[task], texts, outputs, constant, subsets=subsets, tokenize=str.split)
        answers += [
            {"task": task, "answer": text, "ended": bool(text), "tokens": 3, "logprob": -float(i) if i else None}
            for i, text in enumerate(texts)
        ]
    return ScoredModel(name, results, answers, [i % 4 / 3 for i in range(len(answers))])


RUN = {
    "command": "accelerate launch recipes/score.py --model a&b",
    "data": {"dataset": "here", "revision": "0a" * 20, "split": "test", "rows": 30, "fingerprint": "f" * 64},
    "models": {
        "unified": {"parameters": 1_700_000_000, "seconds_per_row": 0.25, "rows_answered": 30},
        "separate": {"parameters": None},
    },
    "generation": {"max_new_tokens": 9, "num_beams": 1, "do_sample": False, "candidates": 1},
    "versions": {"torch": "2.13.0"},
}


class Page(HTMLParser):
    """All tables of a page as text, by id; and every address that it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables, self.links, self.rows, self.cell = {}, [], None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [value for key, value in attributes.items() if key in ("src", "href")]
        if tag == "table":
            self.rows = self.tables[attributes["id"]] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    models = [make_model("unified"), make_model("separate", 2)]
    write_report(folder, make_rows(), models, RUN)
    for model in models:
        write_results(model.results, folder / f"{model.name}.json")
    return folder


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page((folder / "report.html").read_text())


def same(text: str, value: float | None) -> bool:
    """Whether a cell holds a number, to the last of the digits that it prints."""
    if value is None:
        return text == "-"
    if "e" in text:
        return float(text) == pytest.approx(value, rel=0.05)
    digits = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.5 * 10**-digits + 1e-12


@pytest.mark.parametrize("name", ["unified", "separate"])
def test_task_tables_are_the_results(folder, page, name):
    results = json.loads((folder / f"{name}.json").read_text())
    for task, protocols in results.items():
        head, *rows = page.tables[f"metrics-{name}-{task}"]
        baseline = {"number": "training median"}.get(TASKS[task].answer, "most frequent training answer")
        assert head == ["metric", "protocol", name, "95 % interval", baseline, "rows", "misses"]
        assert [row[:2] for row in rows] == [
            [metric, protocol] for protocol in ("strict", "paper") for metric in protocols[protocol]
        ]
        for metric, protocol, value, limits, constant, count, misses in rows:
            fields = protocols[protocol][metric]
            assert same(value, fields["value"])
            assert same(constant, fields["baseline"])
            low, _, high = limits.partition(" to ")
            assert same(low, fields["low"])
            assert same(high or "-", fields["high"])
            assert count == str(fields["n"])
            assert misses == (", ".join(f"{why}: {count}" for why, count in fields["misses"].items()) or "-")


def test_overview_and_distance_of_the_protocols(folder, page):
    results = json.loads((folder / "separate.json").read_text())
    row = next(row for row in page.tables["overview"] if row[:2] == ["molecular weight", "separate"])
    fields = {protocol: results["molecular_weight"][protocol]["mae"] for protocol in ("strict", "paper")}
    assert row[2] == "mae (g/mol)"
    assert same(row[3], fields["strict"]["value"])
    assert same(row[5], fields["strict"]["baseline"])
    assert same(row[7], fields["paper"]["value"])
    assert row[8:] == ["15.080", "0.389", "100%", "100%", "6"]
    for row in page.tables["protocols"][1:]:
        protocols = json.loads((folder / f"{row[1]}.json").read_text())[row[0].replace(" ", "_")]
        strict, paper = (protocols[protocol][row[2]]["value"] for protocol in ("strict", "paper"))
        if None not in (strict, paper):
            assert float(row[5]) == pytest.approx(paper - strict, rel=1e-3, abs=1e-9)


def test_the_papers_tables_hold_this_run_and_what_the_paper_prints(folder, page):
    results = json.loads((folder / "unified.json").read_text())
    head, *rows = page.tables["paper-0-forward_prediction"]
    assert head[4:] == ["Exact ↑", "BLEU ↑", "Levenshtein ↓", "RDK ↑", "MACCS ↑", "Morgan ↑", "Validity ↑"]
    metrics = ["exact_match", "bleu", "levenshtein", "rdk", "maccs", "morgan", "validity"]
    for row, protocol in zip(rows[:2], ("paper", "strict"), strict=True):
        assert row[:4] == ["unified", "this run", "1.7B", protocol]
        fields = results["forward_prediction"][protocol]
        assert all(same(cell, fields[name]["value"]) for cell, name in zip(row[4:], metrics, strict=True))
    printed = [row for row in rows if row[3] == "as printed"]
    assert len(printed) == 7
    assert printed[-1] == ["Omni-Mol", "Generalist", "1.7B", "as printed",
                           "0.718", "0.981", "6.528", "0.878", "0.934", "0.854", "1.000"]  # fmt: skip
    assert [row[0] for row in rows if row[1] == "baseline, this run"] == ["most frequent training answer"] * 2
    # a table of several tasks, of which one was scored
    properties = page.tables["paper-3-properties"]
    assert re.fullmatch(r"[\d.]+ \(100%\)", properties[1][4])
    assert properties[1][5:] == ["-"] * 4
    assert properties[-1][4:] == ["15.08 (100%)", "0.59 (100%)", "11.17 (100%)", "49.38 (100%)", "0.55 (99%)"]
    assert [row[4:] for row in page.tables["paper-2-homo_lumo"]][-1] == ["0.0047", "0.0056", "0.0060", "0.0052"]


def test_the_papers_numbers():
    assert [table["number"] for table in PAPER["tables"]] == ["1", "2", "3", "5 (left)", "5 (right)", "6", "7"]
    for table in PAPER["tables"]:
        for section in table["sections"]:
            assert all(len(row["values"]) == len(table["columns"]) for row in section["rows"])
            assert section["rows"][-1]["model"] == "Omni-Mol"
    assert paper_value("retrosynthesis", "exact_match") == 0.559
    assert paper_value("scf_energy", "mae") == 0.55
    assert paper_value("yield_regression", "r2/S-M") == 0.560
    assert paper_value("experiment_procedure", "rouge-l") == 0.460
    assert paper_value("experiment_procedure", "meteor") is None


def test_page_needs_nothing_else(folder, page):
    assert all(link.startswith(("data:", "#")) for link in page.links)
    text = (folder / "report.html").read_text()
    assert "<b>no|molecule" not in text  # answers are text, never markup
    assert "&lt;b&gt;no|molecule" in text
    assert "--model a&amp;b" in text
    assert "0.25 s a row over 30 rows" in text
    assert "revision " + "0a" * 20 in text


def test_markdown_holds_the_same_tables(folder, page):
    text = (folder / "report.md").read_text()
    tables, cells = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("| ---"):
            continue
        if line.startswith("| "):
            cells.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif not line.startswith("|") and cells:
            tables.append(cells)
            cells = []
    assert [len(table) for table in tables] == [len(table) for table in page.tables.values()]
    plain = [table for name, table in page.tables.items() if not name.startswith("cases")]
    assert [table for table in plain if table not in tables] == []
    assert all((folder / link).is_file() for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text))


def test_named_baselines_stand_beside_the_model(tmp_path):
    """Each by its name, in its own row of the paper's tables and its own column of the task's."""
    model = make_model("unified")
    model = model._replace(results={"logp": model.results["molecular_weight"]})
    rows = [row | {"task": "logp"} for row in make_rows() if row["task"] == "molecular_weight"]
    answers = [one | {"task": "logp"} for one in model.answers if one["task"] == "molecular_weight"]
    values = {"mae": 0.75, "valid_answer_rate": 0.5}
    baselines = {"logp": {"RDKit Crippen LogP": {"strict": values, "paper": {"mae": 0.25}}}}
    write_report(tmp_path, rows, [model._replace(answers=answers, scores=[0.5] * 6)], RUN, baselines)
    page = Page((tmp_path / "report.html").read_text())
    column = page.tables["metrics-unified-logp"][0].index("RDKit Crippen LogP")
    cells = {(row[0], row[1]): row[column] for row in page.tables["metrics-unified-logp"]}
    assert cells["mae", "strict"] == "0.750"
    assert cells["mae", "paper"] == "0.250"
    assert cells["r2", "strict"] == "-"
    named = [row for row in page.tables["paper-3-properties"] if row[0] == "RDKit Crippen LogP"]
    assert [row[3:6] for row in named] == [["paper", "-", "0.250"], ["strict", "-", "0.750 (50%)"]]


def test_csv_holds_all_scores(folder):
    with (folder / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for name in ("unified", "separate"):
        results = json.loads((folder / f"{name}.json").read_text())
        expected = {
            (name, task, protocol, metric): fields["value"]
            for task, protocols in results.items()
            for protocol, metrics in protocols.items()
            for metric, fields in metrics.items()
        }
        found = {tuple(line[key] for key in ("model", "task", "protocol", "metric")): line["value"] for line in lines}
        assert {key: float(found[key]) if found[key] else None for key in expected} == expected
    assert len(lines) == len(found)


def test_answers_must_be_those_of_the_rows(tmp_path):
    model = make_model("unified")
    with pytest.raises(ValueError, match="unified: 30 answers and 30 scores for 29 rows"):
        write_report(tmp_path, make_rows()[1:], [model], RUN)


def test_cases():
    assert choose_cases([[0.2, 1.0, 0.5, 0.0, 0.6]], [-1] * 5) == {"best": 1, "typical": 2, "worst": 3}
    # among equals the model was surest of those shown
    assert choose_cases([[1.0, 1.0, 0.0, 0.0, 0.4]], [-3, -1, -2, -9, -5]) == {"best": 1, "typical": 4, "worst": 2}
    assert choose_cases([[0.5]], [None]) == {"best": 0}
    two = [[1, 1, 0.1, 0.5, 0], [1, 0.2, 0.9, 0.5, 0]]
    assert choose_cases(two, [-1] * 5) == {"best": 0, "typical": 2, "worst": 4, "most different": 1}


def test_equal_bins():
    bins = equal_bins(np.array([5.0, 1, 1, 1, 9, 7]), most=3, least_rows=2)
    assert sorted(i for one in bins for i in one) == list(range(6))
    assert any({1, 2, 3} <= set(one.tolist()) for one in bins)
    assert len(equal_bins(np.arange(1000.0))) == 8


MEASURE = """<script>window.onload = () => {
    const images = [...document.images].filter(one => one.naturalWidth > 0);
    document.title = document.documentElement.scrollWidth + " wide, " + images.length + " images";
}</script></body>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium on this machine")
def test_page_opens_without_errors_and_fits_a_phone(folder, tmp_path):
    page = tmp_path / "report.html"
    page.write_text((folder / "report.html").read_text().replace("</body>", MEASURE))
    done = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom",
         "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", f"file://{page}"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    width, images = re.search(r"<title>(\d+) wide, (\d+) images</title>", done.stdout).groups()
    assert int(width) <= 500  # the page itself does not scroll sideways, its tables do
    assert int(images) == 5 * 4 + 5
