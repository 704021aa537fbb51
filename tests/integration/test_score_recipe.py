"""The scoring recipe as its user runs it: two processes, killed and continued, give what one process gives."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from model_cards.render import read_results
from omnimol_hf.generation import GenerationSettings
from omnimol_hf.loading import load_model
from omnimol_hf.predictions import add_scores, read_predictions
from omnimol_hf.scoring import answer_rows, held_out_rows, row_scores, score_answers
from tests import tiny
from tests.conftest import ROOT

pytestmark = pytest.mark.integration
ROWS = 30  # a task
TOKENS = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    made = tiny.model(seed=1)
    made.generation_config.suppress_tokens = [made.config.graph_token_id]
    made.save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for split in ("train", "test"):
        with (folder / f"{split}.jsonl").open("w") as file:
            for i in range(ROWS):
                molecule = "[C]" * (i % 13 + 1) + "[N]" * (i % 3) + "[O]"
                for task, answer in (("logp", f"{i / 7:.2f}"), ("forward_prediction", molecule)):
                    row = {"task": task, "id": f"{split}-{i}", "instruction": "What comes of it?", "input": molecule,
                           "output": answer, "subset": "", "graph_smiles": ["C" * (i % 13 + 1)]}  # fmt: skip
                    file.write(json.dumps(row) + "\n")
    return folder


def start(model: Path, dataset: Path, out: Path) -> subprocess.Popen:
    """Start the recipe with two processes."""
    command = [
        *[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "recipes/score.py"],
        *["--device", "cpu", "--model", str(model), "--dataset", str(dataset), "--out", str(out)],
        *["--batch_size", "1", "--max_new_tokens", str(TOKENS)],
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


def test_two_killed_and_continued_processes_equal_one(model, dataset, tmp_path):
    out = tmp_path / "scores"
    parts = out / ".predictions.unfinished"
    first = start(model, dataset, out)
    answered = 0
    for _ in range(24000):
        answered = sum(path.read_bytes().count(b"\n") for path in parts.glob("process-*.jsonl"))
        if answered >= 4 or first.poll() is not None:
            break
        time.sleep(0.005)
    launcher = psutil.Process(first.pid)  # it would start its workers again, or let them go on, if killed alone
    for process in [launcher, *launcher.children(recursive=True)]:
        process.kill()
    first.communicate()
    assert 4 <= answered < 2 * ROWS
    assert not (out / "predictions.jsonl").exists()

    second = start(model, dataset, out)
    printed, _ = second.communicate(timeout=400)
    assert second.returncode == 0, printed[-4000:]
    assert " 0 of 60 rows are answered" not in printed
    assert " of 60 rows are answered" in printed
    assert not parts.exists()

    # one process, nothing killed: the same file and scores
    held = held_out_rows(str(dataset))
    loaded = load_model(str(model))
    settings = GenerationSettings(max_new_tokens=TOKENS)
    alone = tmp_path / "alone.jsonl"
    assert answer_rows(alone, loaded, held.rows, held.about, settings, batch_size=1) == 2 * ROWS
    texts = [line["answer"] for line in read_predictions(alone)]
    add_scores(alone, row_scores(held.rows, texts, held.train))
    assert (out / "predictions.jsonl").read_bytes() == alone.read_bytes()
    # all rows in one batch: the same texts
    together = tmp_path / "together.jsonl"
    answer_rows(together, loaded, held.rows, held.about, settings, batch_size=2 * ROWS)
    assert [line["answer"] for line in read_predictions(together)] == texts
    assert len(set(texts)) > ROWS / 2  # the model does not say the same to all
    results = json.loads((out / "results.json").read_text())
    assert results == score_answers(held.rows, texts, held.train, loaded.processor.tokenizer.tokenize)
    assert read_results(out / "results.json") == results  # what a model card is filled from

    run = json.loads((out / "run.json").read_text())
    assert run["data"]["fingerprint"] == held.about["fingerprint"]
    assert 0 < run["models"][model.parent.name]["rows_answered"] < 2 * ROWS
    assert run["command"].startswith("torchrun --nproc-per-node 2 recipes/score.py --device cpu --model")
    assert {"report.html", "report.md", "results.csv", "figures"} <= {path.name for path in out.iterdir()}
