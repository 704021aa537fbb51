"""The model of a run: what it starts from, what trains, and the projector of stage 1."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import TrainingArguments

from omnimol_hf import OmniMolForCausalLM
from omnimol_hf.adapters import AdaptiveLoraConfig
from omnimol_hf.dense_llama import extract_llama
from omnimol_hf.run import RunArguments
from omnimol_hf.run_model import adapter_config, choose_what_trains, load_projector, prepare_model, save_projector
from tests import tiny
from tests.unit.test_upcycling import GRAPH, IDS, dense_llama

PEFT_SETTINGS = {"r": 4, "lora_alpha": 8, "gamma_p": 1.0, "gamma_range": 0.1}


def prepare(folder, rows=None, **settings):
    run = RunArguments(**settings)
    return prepare_model(run, TrainingArguments(str(folder), use_cpu=True, report_to="none"), folder, rows)


# --- adapters --------------------------------------------------------------------------------------------------------


def test_kinds_of_adapters():
    adaptive = adapter_config(PEFT_SETTINGS)
    assert type(adaptive) is AdaptiveLoraConfig
    assert (adaptive.r, adaptive.lora_alpha, adaptive.gamma_p, adaptive.gamma_range) == (4, 8, 1.0, 0.1)
    for kind, rslora in (("lora", False), ("rslora", True)):
        plain = adapter_config(PEFT_SETTINGS | {"kind": kind})
        assert type(plain) is LoraConfig
        assert (plain.r, plain.lora_alpha, plain.use_rslora, plain.lora_dropout) == (4, 8, rslora, 0.05)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kind": "dora"}, "kind is 'dora'; expected one of adaptive, lora, rslora"),
        ({"rank": 4}, "adapter: .*unexpected keyword argument 'rank'"),
        ({"gamma_range": -1.0}, "gamma_range is -1.0"),
    ],
)
def test_impossible_adapters(settings, problem):
    with pytest.raises(ValueError, match=problem):
        adapter_config(settings)


def test_what_trains_is_counted():
    model = tiny.model()
    run = RunArguments(model="x", adapter={"r": 2, "lora_dropout": 0.0})
    adapted, counts = choose_what_trains(model, run, tiny.processor())
    every = sum(p.numel() for p in adapted.parameters()) + sum(b.numel() for b in model.model.graph_encoder.buffers())
    assert sum(counts.values()) == every
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == every - counts["frozen"]
    assert {"projector", "router", "experts", "attention adapters", "attention gammas"} <= set(counts)


# --- where a run starts ----------------------------------------------------------------------------------------------


def test_a_backbone_is_upcycled_once(tmp_path):
    dense_llama(tmp_path / "llama")
    settings = {"backbone": str(tmp_path / "llama"), "upcycle": {"graph_config": GRAPH, "expert_rank": 4}}
    model, processor = prepare(tmp_path / "run", **settings)
    assert model.config.moe_layer_indices == [1, 2, 3, 4, 5]
    assert processor.graph_token_id == model.config.graph_token_id
    written = (tmp_path / "run" / "initial" / "model.safetensors").stat().st_mtime_ns
    prepare(tmp_path / "run", **settings)
    assert (tmp_path / "run" / "initial" / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match=r"upcycle: .*'prest'|has no key 'prest'"):
        prepare(tmp_path / "other", backbone=str(tmp_path / "llama"), upcycle={"prest": "paper"})


SELFIES_ROWS = Dataset.from_list(
    [
        {"task": "logp", "instruction": "?", "input": "[C][=C][O]" * 12, "output": "It is 1.2"},
        {"task": "iupac_to_selfies", "instruction": "?", "input": "as in [1]", "output": "[N][Branch1]"},
    ]
)
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 8}
NEW = {"vocab_size": 300, "selfies_units": False, "text_config": TEXT, "expert_rank": 4, "graph_config": GRAPH}


@pytest.mark.parametrize("start", ["model", "backbone", "new_model"])
def test_selfies_tokens_from_every_start(tmp_path, start):
    """The checkpoint in DIR/initial is complete by itself, and what it was made from stays as it is."""
    plain = tmp_path / "plain"
    if start == "backbone":
        dense_llama(plain)
    elif start == "model":
        tiny.model().save_pretrained(plain)
        tiny.processor().save_pretrained(plain)
    settings = {"backbone": str(plain), "upcycle": {"graph_config": GRAPH, "expert_rank": 4}}
    settings = {"model": {"model": str(plain)}, "backbone": settings, "new_model": {"new_model": NEW}}[start]
    if start != "new_model":
        (plain / "LICENSE").write_text("to be passed on")
        before = {path.name: path.read_bytes() for path in plain.iterdir()}
    settings |= {"adapter": {"r": 4}, "selfies_tokens": True}
    prepare(tmp_path / "run", SELFIES_ROWS, **settings)
    model, processor = prepare(tmp_path / "run", None, **settings)  # as a run that goes on
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["initial"]
    text = "[C][=C][O][N][Branch1]"
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert processor.tokenizer.convert_ids_to_tokens(ids) == ["[C]", "[=C]", "[O]", "[N]", "[Branch1]"]
    assert len(processor.tokenizer) <= model.config.text_config.vocab_size
    if start != "new_model":
        assert {path.name: path.read_bytes() for path in plain.iterdir()} == before
        assert (tmp_path / "run" / "initial" / "LICENSE").is_file()
        pieces = tiny.tokenizer()("[N]", add_special_tokens=False)["input_ids"]
        weight = model.get_input_embeddings().weight
        assert torch.allclose(weight[ids[3]], weight[pieces].mean(0), atol=1e-7)
    _, counts = choose_what_trains(model, RunArguments(**settings), processor)
    assert counts["rows of embed_tokens"] == 5 * 32


def test_frozen_selfies_tokens_are_refused():
    with pytest.raises(ValueError, match="'selfies_tokens' makes new embeddings, which have to train"):
        RunArguments(model="x", selfies_tokens=True, trainable=["projector"])


def test_another_architecture_is_named(tmp_path):
    dense_llama(tmp_path / "llama")
    with pytest.raises(ValueError, match="plain Llama: give it as 'backbone'"):
        prepare(tmp_path / "run", model=str(tmp_path / "llama"))
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="model of type 'gpt2'; expected 'omnimol'"):
        prepare(tmp_path / "run", model=str(tmp_path / "gpt"))
    with pytest.raises(ValueError, match="model_type 'gpt2'; expected 'llama'"):
        prepare(tmp_path / "run", backbone=str(tmp_path / "gpt"))


def test_the_llama_inside_a_dense_model(tmp_path):
    model = tiny.model(moe_layers=[])
    model.save_pretrained(tmp_path / "dense")
    tiny.processor().save_pretrained(tmp_path / "dense")
    extract_llama(tmp_path / "dense", tmp_path / "llama")
    again, _ = prepare(tmp_path / "run", backbone=str(tmp_path / "llama"), upcycle={"moe_layers": []})
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    tiny.model().save_pretrained(tmp_path / "experts")
    with pytest.raises(ValueError, match=r"has experts in layers \[1, 2, 3\]"):
        extract_llama(tmp_path / "experts", tmp_path / "out")
    with pytest.raises(ValueError, match="exists already"):
        extract_llama(tmp_path / "dense", tmp_path / "llama")


# --- the projector ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_projector_goes_from_model_to_model(tmp_path, kind):
    one, other = tiny.model(projector=kind), tiny.model(seed=1, projector=kind).to(torch.bfloat16)
    save_projector(one, tmp_path / "projector.safetensors")
    load_projector(other, tmp_path / "projector.safetensors")
    for ours, theirs in zip(other.model.projector.parameters(), one.model.projector.parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)


def test_projectors_that_do_not_fit(tmp_path):
    path = tmp_path / "projector.safetensors"
    save_projector(tiny.model(projector="mlp"), path)
    model: OmniMolForCausalLM = tiny.model()
    before = model.model.projector.weight.clone()
    with pytest.raises(ValueError, match=r"does not fit the model: .*'2.weight': \(32, 32\).*\(32, 12\)"):
        load_projector(model, path)
    save_file({"weight": torch.zeros(32, 13), "bias": torch.zeros(32)}, path)
    with pytest.raises(ValueError, match=r"\(32, 13\).*\(32, 12\)"):
        load_projector(model, path)
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"projector\.safetensors cannot be read as safetensors"):
        load_projector(model, path)
    with pytest.raises(ValueError, match=r"gone cannot be read"):
        load_projector(model, tmp_path / "gone")
    assert torch.equal(model.model.projector.weight, before)
