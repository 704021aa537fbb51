"""Which rows are held out, which models load, and that several tasks are scored as each one alone."""

import json

import pytest
import torch
from datasets import load_dataset

from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters
from omnimol_hf.adapters.export import export
from omnimol_hf.metrics import score_task
from omnimol_hf.scoring import held_out_rows, load_model, places_by_task, row_scores, score_answers
from omnimol_hf.tasks import TASKS
from tests import tiny


def make_dataset(folder, splits=("train", "test")):
    """30 rows of two tasks and a split in a folder of JSON files, one a split."""
    folder.mkdir()
    for split in splits:
        lines = [
            {"task": task, "id": f"{split}-{i}", "instruction": "?", "input": "[C]" * (i % 5 + 1) + "[O]",
             "output": output.format(i=i), "subset": "", "graph_smiles": []}
            for i in range(30)
            for task, output in (("logp", "{i}"), ("forward_prediction", "[C][O]"))
        ]  # fmt: skip
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_all_held_out_rows_in_the_order_of_dataset_and_tables(tmp_path):
    held = held_out_rows(make_dataset(tmp_path / "data"))
    assert [row["task"] for row in held.rows] == ["forward_prediction"] * 30 + ["logp"] * 30
    assert [row["id"] for row in held.rows[30:]] == [f"test-{i}" for i in range(30)]
    assert held.about["rows"] == 60
    assert set(held.train["id"]) == {f"train-{i}" for i in range(30)}


def test_some_rows_of_some_tasks(tmp_path):
    source = make_dataset(tmp_path / "data")
    few = held_out_rows(source, ["logp"], per_task=7)
    assert set(few.train["task"]) == {"logp"}
    numbers = [int(row["output"]) for row in few.rows]
    assert len(numbers) == 7
    assert numbers == sorted(numbers)
    assert held_out_rows(source, ["logp"], per_task=7).rows == few.rows
    assert [int(row["output"]) for row in held_out_rows(source, ["logp"], per_task=7, seed=1).rows] != numbers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["logpp"]}, "unknown task 'logpp'; did you mean 'logp'"),
        ({"tasks": ["tpsa"]}, "has no test rows of tpsa; it has forward_prediction, logp"),
        ({"split": "validation"}, "has no split 'validation'; it has train, test"),
    ],
)
def test_rows_that_are_not_there(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        held_out_rows(make_dataset(tmp_path / "data"), **options)


def test_revision_of_a_hub_dataset_is_read_from_its_files(tmp_path, monkeypatch):
    import omnimol_hf.scoring as scoring

    source = make_dataset(tmp_path / "data")
    assert held_out_rows(source).about["revision"] is None
    rows = load_dataset(source)["test"]
    rows.info.download_checksums = {f"hf://datasets/org/name@{'0a' * 20}/test.parquet": {}}
    assert scoring._revision(rows) == "0a" * 20


def test_scores_are_those_of_each_task_alone(tmp_path):
    held = held_out_rows(make_dataset(tmp_path / "data"))
    answers = ["[C][O]"] * 20 + ["[N]"] * 10 + [str(i + 2) for i in range(29)] + ["none"]
    results = score_answers(held.rows, answers, held.train, list)
    assert list(results) == list(places_by_task(held.rows)) == ["forward_prediction", "logp"]
    expected = score_task(
        TASKS["logp"], answers[30:], [str(i) for i in range(30)], ["The LogP for the input molecule is 14.50."] * 30,
        subsets=[""] * 30, tokenize=list,
    )  # fmt: skip
    assert results["logp"] == expected
    assert results["forward_prediction"]["strict"]["exact_match"]["value"] == pytest.approx(20 / 30)
    assert results["forward_prediction"]["strict"]["exact_match"]["baseline"] == 1
    without = score_answers(held.rows, answers, None, list)
    assert without["forward_prediction"]["strict"]["exact_match"]["baseline"] is None

    # by hand: the labels 0..29 have a median absolute deviation of 7.5
    scores = row_scores(held.rows, answers, held.train)
    assert scores[:20] == [1.0] * 20
    assert scores[30:59] == pytest.approx([torch.tensor(-2 / 7.5).exp().item()] * 29)
    assert scores[59] == 0
    assert row_scores(held.rows, answers, None) == scores


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.model(seed=1).save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    adapted = add_adapters(tiny.model(seed=1), AdaptiveLoraConfig(r=2))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "gamma" in name:
                parameter.normal_(std=0.3)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    return folder


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**tiny.prompts(tiny.chat("What is the weight?", "CCO"))).logits


def test_adapter_gives_what_its_merged_export_gives(base, adapter, tmp_path):
    export(adapter, "merged", tmp_path / "merged")
    loaded, merged, plain = (load_model(str(folder)) for folder in (adapter, tmp_path / "merged", base))
    assert torch.allclose(logits(loaded.model), logits(merged.model), atol=1e-5)
    assert not torch.allclose(logits(loaded.model), logits(plain.model), atol=1e-2)
    assert loaded.about["base"] == str(base)
    assert loaded.about["base_weights"] == plain.about["weights"]
    assert len({one.about["weights"] for one in (loaded, merged, plain)}) == 3


def test_precision(base):
    loaded = load_model(str(base), "bfloat16").model
    assert loaded.lm_head.weight.dtype == torch.bfloat16
    assert loaded.model.graph_encoder.state_dict()["batch_norms.0.weight"].dtype == torch.float32
    with pytest.raises(ValueError, match="dtype is 'half'; expected one of auto"):
        load_model(str(base), "half")


def test_adapter_of_another_base(adapter, tmp_path):
    others = {"wider": {"text": {"hidden_size": 40}}, "deeper": {"text": {"num_hidden_layers": 5}},
              "shallower": {"moe_layers": [2, 3]}}  # fmt: skip
    for name, sizes in others.items():
        tiny.model(**sizes).save_pretrained(tmp_path / name)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    for base, message in (
        *((str(tmp_path / name), f"{adapter.name} is for another base than .*{name}") for name in others),
        (str(tmp_path / "gone"), "belongs to the model .*gone, which cannot be read"),
        (None, "does not name its base model"),
    ):
        moved = tmp_path / adapter.name
        moved.mkdir(exist_ok=True)
        (moved / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
        (moved / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))
        with pytest.raises(ValueError, match=message):
            load_model(str(moved))


def test_what_is_no_model(base, tmp_path):
    with pytest.raises(ValueError, match="is no folder and cannot be downloaded"):
        load_model(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no safetensors file in it"):
        load_model(str(tmp_path / "empty"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_quantisation_needs_a_gpu(base, adapter):
    with pytest.raises(ValueError, match="quantise=8bit needs a GPU"):
        load_model(str(base), quantise="8bit")
    with pytest.raises(ValueError, match="quantise is '3bit'"):
        load_model(str(base), quantise="3bit")
    with pytest.raises(ValueError, match=r"merge it first: python -m omnimol_hf\.adapters export"):
        load_model(str(adapter), quantise="4bit")
