"""The modules for the library `evaluate`: loaded by folder, equal to the plain functions, ready to be a Space."""

from pathlib import Path

import evaluate
import pytest
import yaml

from omnimol_hf import metrics
from omnimol_hf.from_scratch import train_tokenizer
from omnimol_hf.metrics import score_task
from omnimol_hf.tasks import TASKS

FOLDER = Path(metrics.__file__).parent
ACID, ALCOHOL = "[C][C][=Branch1][C][=O][O]", "[C][C][O]"
CAPTIONS = ["The molecule is an organic acid.", "It is a salt of sodium."]
STEPS = ["ADD $1$ ; STIR ; YIELD $-1$", "FILTER ; WASH $2$"]
# module -> task of `score_task`, answers, references
CASES = {
    "molecule_metrics": ("retrosynthesis", [ACID, "", ALCOHOL], [ACID, ACID, ACID]),
    "text_metrics": ("molecular_captioning", ["The molecule is an acid.", ""], CAPTIONS),
    "number_metrics": ("logp", ["-1.2", "3 or 4", "?"], ["-1.0", "2.0", "5.0"]),
    "procedure_metrics": ("experiment_procedure", ["ADD $1$ ; STIR", "FILTER ; WASH $7$"], STEPS),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([*CAPTIONS, *STEPS], 400).save_pretrained(folder)
    return str(folder)


def load(name, tmp_path):
    return evaluate.load(str(FOLDER / name), cache_dir=str(tmp_path))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_equal_to_the_plain_functions(name, protocol, tmp_path, tokenizer):
    task, answers, references = CASES[name]
    with_tokenizer = name in ("text_metrics", "procedure_metrics")
    options = {"tokenizer": tokenizer} if with_tokenizer else {}
    result = load(name, tmp_path).compute(predictions=answers, references=references, protocol=protocol, **options)
    pieces = {}
    if with_tokenizer:
        from transformers import AutoTokenizer

        pieces = {"tokenize": AutoTokenizer.from_pretrained(tokenizer).tokenize, "tokenizer_name": tokenizer}
    expected = score_task(TASKS[task], answers, references, **pieces)[protocol]
    details = result.pop("details")
    assert result == {metric: fields["value"] for metric, fields in expected.items()}
    assert details == {
        metric: {key: value for key, value in fields.items() if key != "baseline"}
        for metric, fields in expected.items()
    }


def test_strict_is_the_default_and_other_protocols_are_refused(tmp_path):
    module = load("number_metrics", tmp_path)
    assert module.compute(predictions=["-1"], references=["1"])["mae"] == 2
    with pytest.raises(ValueError, match="protocol must be one of strict, paper, got 'fair'"):
        module.compute(predictions=["-1"], references=["1"], protocol="fair")


def test_options_of_numbers(tmp_path):
    module = load("number_metrics", tmp_path)
    data = {"predictions": ["-0.2", "0.5 Ha"], "references": ["-0.3", "0.5"]}
    paper = module.compute(**data, protocol="paper", task="homo_lumo", subsets=["HOMO", "gap"])
    assert paper["mae/HOMO"] == pytest.approx(0.1)
    assert paper["mae/gap"] is None
    strict = module.compute(predictions=["?"], references=["1"], constant_answers=["4"])
    assert strict["mae"] == 3


def test_tokens_are_named(tmp_path, tokenizer):
    module = load("text_metrics", tmp_path)
    strict = module.compute(predictions=CAPTIONS, references=CAPTIONS)["details"]
    paper = module.compute(predictions=CAPTIONS, references=CAPTIONS, protocol="paper", tokenizer=tokenizer)["details"]
    assert "words and punctuation marks" in strict["bleu-4"]["variant"]
    assert paper["bleu-4"]["variant"] == f"pieces of {tokenizer}"
    assert "no WordNet" in strict["meteor"]["variant"]
    assert tokenizer in paper["meteor"]["variant"]


def test_rows_can_be_added_in_batches_and_modules_combined(tmp_path):
    module = load("number_metrics", tmp_path)
    module.add_batch(predictions=["1", "2"], references=["1", "3"])
    module.add(prediction="5", reference="5")
    assert module.compute()["mae"] == pytest.approx(1 / 3)
    both = evaluate.combine([load("text_metrics", tmp_path), load("procedure_metrics", tmp_path)])
    assert {"meteor", "accuracy@50"} <= set(both.compute(predictions=STEPS, references=STEPS))


@pytest.mark.parametrize("name", CASES)
def test_folder_is_ready_to_be_a_space(name, tmp_path):
    folder = FOLDER / name
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        f"{name}.py",
        "README.md",
        "app.py",
        "requirements.txt",
    }
    _, header, card = (folder / "README.md").read_text().split("---\n", 2)
    fields = yaml.safe_load(header)
    assert (fields["sdk"], fields["app_file"]) == ("gradio", "app.py")
    assert {"evaluate", "metric"} <= set(fields["tags"])
    task, answers, references = CASES[name]
    for metric in score_task(TASKS[task], answers, references)["strict"]:
        assert f"`{metric}`" in card, metric
    assert "protocol" in load(name, tmp_path).inputs_description
