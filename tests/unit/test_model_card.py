"""The model card says what was measured and nothing else, and only whole checkpoints are published."""

import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from model_cards.render import count_parameters, model_card
from omnimol_hf.metrics import score_task
from omnimol_hf.tasks import TASKS
from recipes.push_to_hub import check_checkpoint, check_licence
from tests import tiny

ANSWERS = {  # task -> answers, references, baselines
    "molecular_weight": (["46.0", "121.0"], ["46.07", "120.15"], ["80.0", "80.0"]),
    "forward_prediction": (["[C][C][O]", "hello"], ["[C][C][O]", "[O]"], ["[C]", "[C]"]),
}
LLAMA = "LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\nLlama 3.2 Version Release Date: September 25, 2024\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    tiny.model().save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({task: score_task(TASKS[task], *answers) for task, answers in ANSWERS.items()}))
    return path


def settings(tmp_path, **values):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_scores_in_the_metadata_are_the_measured_ones(checkpoint, results, tmp_path):
    run = settings(tmp_path, dataset="lab/omni-mol-instruct", model="lab/backbone", mixture={"logp": 1.0})
    path = tmp_path / "README.md"
    model_card(checkpoint, results, run, "lab/omni-mol", "v0.1").save(path)
    data = ModelCard.load(path).data
    measured = json.loads(results.read_text())
    found = {(entry.dataset_config, entry.metric_type): entry.metric_value for entry in data.eval_results}
    assert found == {
        (task, metric): measured[task]["strict"][metric]["value"]
        for task, metric in [
            ("molecular_weight", "mae"),
            ("molecular_weight", "r2"),
            ("forward_prediction", "exact_match"),
            ("forward_prediction", "morgan"),
        ]
    }
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert (data.datasets, data.base_model) == (["lab/omni-mol-instruct"], "lab/backbone")
    assert {"chemistry", "molecules", "selfies", "moe"} <= set(data.tags)


def test_scores_are_of_the_data_that_they_were_measured_on(checkpoint, results, tmp_path):
    trained = settings(tmp_path, dataset="org/trained-on")
    (entry, *_) = model_card(checkpoint, results, trained, "org/omni-mol").data.eval_results
    assert (entry.dataset_type, entry.dataset_split) == ("org/trained-on", "test")
    (tmp_path / "run.json").write_text(json.dumps({"data": {"dataset": "org/scored-on", "split": "validation"}}))
    (entry, *_) = model_card(checkpoint, results, trained, "org/omni-mol").data.eval_results
    assert (entry.dataset_type, entry.dataset_split) == ("org/scored-on", "validation")


def test_each_score_stands_beside_its_baseline(checkpoint, results):
    fields = json.loads(results.read_text())["molecular_weight"]["strict"]["mae"]
    text = str(model_card(checkpoint, results, None, "lab/omni-mol"))
    row = next(line for line in text.splitlines() if line.startswith("| molecular_weight | mae"))
    for key in ("value", "low", "high", "baseline"):
        assert f"{fields[key]:.4g}" in row, key
    assert "training median" in row
    hidden = next(line for line in text.splitlines() if line.startswith("- Not scored"))
    assert "retrosynthesis" in hidden
    assert "molecular_weight" not in hidden


def test_without_scores_the_card_claims_none(checkpoint):
    card = model_card(checkpoint, None, None, "lab/omni-mol")
    assert card.data.eval_results is None
    assert "This checkpoint has not been scored." in card.text
    assert "settings of its training run were not given" in card.text


def test_a_model_that_starts_from_nothing_is_called_a_demonstration(checkpoint, tmp_path):
    run = settings(tmp_path, dataset="starter", new_model={"vocab_size": 9}, max_heavy_atoms=18)
    (checkpoint / "training_log.json").write_text('[{"step": 25}, {"step": 1234}]')
    card = model_card(checkpoint, None, run, "lab/omni-mol")
    assert "A demonstration and not a chemist" in card.text
    assert "1,234 optimiser steps" in card.text
    assert "no molecule above 18 heavy atoms" in card.text
    assert card.data.license == "apache-2.0"


def test_the_card_has_no_local_paths(checkpoint, results, tmp_path):
    run = settings(tmp_path, dataset=str(tmp_path / "rows.jsonl"), model=str(tmp_path / "start"))
    text = str(model_card(checkpoint, results, run, "lab/omni-mol"))
    assert str(tmp_path) not in text
    assert "`rows.jsonl`" in text


@pytest.mark.parametrize("experts", ["lora", "full"])
def test_parameters_are_counted_from_the_headers(tmp_path, experts):
    model = tiny.model(expert_training=experts, num_experts=4, num_experts_per_tok=1)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    counted = count_parameters(tmp_path, model.config)
    # The frozen graph encoder keeps its weights as buffers.
    graph = [tensor for name, tensor in model.model.graph_encoder.named_buffers() if "running" not in name]
    weights = [*model.parameters(), *(tensor for tensor in graph if tensor.is_floating_point())]
    assert counted["total"] == sum(tensor.numel() for tensor in weights)
    layer = model.model.language_model.layers[1].mlp.experts
    expert = sum(parameter.numel() for parameter in layer.parameters()) // 5
    assert counted["total"] - counted["active"] == expert * (4 - 1) * len(model.config.moe_layer_indices)


def test_the_python_block_is_whole(checkpoint):
    text = str(model_card(checkpoint, None, None, "lab/omni-mol", "v0.1"))
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    compile(code, "card", "exec")
    assert code.count('"lab/omni-mol", trust_remote_code=True, revision="v0.1"') == 2


def test_bad_results_are_refused_by_name(checkpoint, tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"alchemy": {}}')
    with pytest.raises(ValueError, match="unknown task 'alchemy'"):
        model_card(checkpoint, path, None, "lab/omni-mol")
    path.write_text('{"logp": {"strict": {"mae": {"value": 1.0}}, "paper": {}}}')
    with pytest.raises(ValueError, match=r"logp/strict/mae lacks baseline, high, low, n"):
        model_card(checkpoint, path, None, "lab/omni-mol")


def test_a_whole_checkpoint_passes(checkpoint):
    check_checkpoint(checkpoint)
    check_licence(checkpoint, None, "lab/omni-mol")


@pytest.mark.parametrize(
    "name", ["config.json", "processor_config.json", "tokenizer.json", "model.safetensors", "moe_omnimol.py"]
)
def test_a_checkpoint_that_lacks_a_file_is_refused(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(ValueError, match=re.escape(name)):
        check_checkpoint(checkpoint)


def test_weights_cut_short_are_refused(checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read as safetensors"):
        check_checkpoint(checkpoint)


def test_a_tensor_that_the_index_lists_must_be_there(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    tiny.model().save_pretrained(checkpoint, max_shard_size="60KB")
    shard = sorted(checkpoint.glob("model-*.safetensors"))[0]
    save_file({}, shard)
    with pytest.raises(ValueError, match="tensors that its index lists"):
        check_checkpoint(checkpoint)


def test_another_model_type_is_refused(checkpoint):
    (checkpoint / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="type 'llama'; expected 'omnimol'"):
        check_checkpoint(checkpoint)


def test_llamas_licence_is_kept(checkpoint):
    (checkpoint / "LICENSE").write_text(LLAMA)
    with pytest.raises(ValueError, match=r"name to start with 'Llama'"):
        check_licence(checkpoint, None, "Llama-fans/omni-mol")
    with pytest.raises(ValueError, match=r"no file NOTICE"):
        check_licence(checkpoint, None, "lab/Llama-3.2-Omni-Mol")
    (checkpoint / "NOTICE").write_text("Built with Llama\n")
    check_licence(checkpoint, None, "lab/Llama-3.2-Omni-Mol")
    card = model_card(checkpoint, None, None, "lab/Llama-3.2-Omni-Mol")
    assert card.data.license == "llama3.2"
    assert "**Built with Llama**" in card.text
    assert "Llama 3.2 Community License" in card.text


def test_a_run_that_began_with_llama_is_llama(checkpoint, tmp_path):
    run = settings(tmp_path, model="meta-llama/Llama-3.2-1B-Instruct")
    with pytest.raises(ValueError, match=r"Llama 3\.2, whose licence"):
        check_licence(checkpoint, run, "lab/omni-mol")


def test_a_backbones_own_licence_is_named(checkpoint):
    (checkpoint / "LICENSE").write_text("Some other licence")
    card = model_card(checkpoint, None, None, "lab/omni-mol")
    assert (card.data.license, card.data.license_link) == ("other", "LICENSE")
    assert "Built with Llama" not in card.text
