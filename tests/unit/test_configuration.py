"""The configuration: the paper's defaults, no silent mistakes, and what survives saving."""

import json

import pytest
import torch
from transformers import AutoConfig, LlamaConfig

from omnimol_hf import PRESETS, OmniMolConfig, OmniMolForCausalLM, OmniMolGraphConfig
from tests import tiny


def test_defaults_are_the_papers():
    config = OmniMolConfig()
    text = config.text_config
    assert (text.num_hidden_layers, text.hidden_size, text.intermediate_size, text.vocab_size) == (
        16,
        2048,
        8192,
        128256,
    )
    assert text.rope_parameters["rope_type"] == "llama3"
    assert text.rope_parameters["factor"] == 32.0
    assert config.tie_word_embeddings is True
    assert text.tie_word_embeddings is True
    assert config.moe_layer_indices == list(range(4, 16))  # Eq. 7, literally
    assert (config.num_experts, config.num_experts_per_tok, config.experts_per_layer) == (3, 2, 4)
    assert not config.norm_topk_prob
    assert not config.preserve_at_init
    assert (config.expert_training, config.expert_rank, config.expert_alpha, config.gamma_p) == ("lora", 64, 16.0, 0.5)
    assert (config.expert_dropout, config.router_aux_loss_coef) == (0.05, 0.01)
    assert (config.graph_config.hidden_size, config.graph_config.num_layers) == (300, 5)
    assert (config.graph_token_id, config.graph_features, config.projector) == (128002, "ogb9", "linear")
    assert config.loss_reduction == "token_mean"
    assert not config.multi_graph


@pytest.mark.parametrize(
    ("moe_layers", "layers", "expected"),
    [
        ("from_quarter", 16, list(range(4, 16))),
        ("last_quarter", 16, [12, 13, 14, 15]),
        ([5, 0, 3], 16, [0, 3, 5]),
        ("from_quarter", 4, [1, 2, 3]),
        ("last_quarter", 4, [3]),
        ([2], 4, [2]),
        ([], 4, []),
    ],
)
def test_placement_of_experts(moe_layers, layers, expected):
    config = tiny.config(text={"num_hidden_layers": layers}, moe_layers=moe_layers)
    assert config.moe_layer_indices == expected


@pytest.mark.parametrize(
    ("name", "layers", "experts"),
    [("paper", list(range(4, 16)), 3), ("released", list(range(12, 16)), 5)],
)
def test_presets(name, layers, experts):
    config = OmniMolConfig(**PRESETS[name])
    assert config.moe_layer_indices == layers
    assert (config.num_experts, config.num_experts_per_tok) == (experts, 2)


def test_layers_without_experts_are_llamas_own():
    with torch.device("meta"):
        model = OmniMolForCausalLM(tiny.config(moe_layers="last_quarter"))
    kinds = [type(layer.mlp).__name__ for layer in model.model.language_model.layers]
    assert kinds == ["LlamaMLP"] * 3 + ["AnchorReconcileMoE"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_expert": 4}, ["num_expert'", "4", "num_experts"]),
        ({"moe_layer": [1]}, ["moe_layer'", "[1]", "moe_layers"]),
        ({"graph_config": {"hiden_size": 12}}, ["hiden_size", "12", "hidden_size"]),
        ({"num_experts_per_tok": 4}, ["num_experts_per_tok", "4", "1 to num_experts = 3"]),
        ({"num_experts_per_tok": 0}, ["num_experts_per_tok", "0", "1 to num_experts = 3"]),
        ({"num_experts": 0}, ["num_experts", "0", "at least 1"]),
        ({"moe_layers": [1, 16]}, ["moe_layers", "16", "0 to 15"]),
        ({"moe_layers": [-1]}, ["moe_layers", "-1", "0 to 15"]),
        ({"moe_layers": [3, 3]}, ["moe_layers", "twice", "[3, 3]"]),
        ({"moe_layers": "first_quarter"}, ["moe_layers", "first_quarter", "from_quarter", "last_quarter"]),
        ({"moe_layers": [1, "2"]}, ["moe_layers", "'2'", "list[int]"]),
        ({"graph_width": 256}, ["graph_width", "256", "300"]),
        ({"graph_config": {"hidden_size": 0}}, ["graph_config.hidden_size", "0", "at least 1"]),
        ({"graph_config": {"num_layers": -5}}, ["graph_config.num_layers", "-5", "at least 1"]),
        ({"graph_token_id": 200000}, ["graph_token_id", "200000", "128255"]),
        ({"graph_token_id": -1}, ["graph_token_id", "-1", "0 to 128255"]),
        ({"num_experts": "3"}, ["num_experts", "expected int", "'3'"]),
        ({"num_experts": True}, ["num_experts", "expected int", "True"]),
        ({"expert_rank": 4.5}, ["expert_rank", "expected int", "4.5"]),
        ({"anchor_expert": "yes"}, ["anchor_expert", "expected bool", "yes"]),
        ({"projector": "conv"}, ["projector", "conv", "linear", "mlp"]),
        ({"graph_features": "ogb"}, ["graph_features", "ogb9", "omnimol2"]),
        ({"expert_training": "frozen"}, ["expert_training", "frozen", "lora", "full"]),
        ({"loss_reduction": "mean"}, ["loss_reduction", "mean", "token_mean", "sum_per_sample"]),
        ({"text_config": 3}, ["text_config", "3", "dict"]),
        ({"graph_config": "gin"}, ["graph_config", "gin", "dict"]),
        ({"text_config": {"model_type": "mistral"}}, ["text_config.model_type", "mistral", "llama"]),
        ({"expert_rank": 0}, ["expert_rank", "0", "at least 1"]),
        ({"expert_dropout": 1.0}, ["expert_dropout", "1.0", "[0, 1)"]),
        ({"expert_dropout": -0.1}, ["expert_dropout", "-0.1", "[0, 1)"]),
        ({"router_aux_loss_coef": -0.01}, ["router_aux_loss_coef", "-0.01", "not negative"]),
        ({"router_aux_loss_coef": float("nan")}, ["router_aux_loss_coef", "nan", "finite"]),
        ({"expert_alpha": -16.0}, ["expert_alpha", "-16.0", "above 0"]),
        ({"expert_alpha": 0}, ["expert_alpha", "0", "above 0"]),
        ({"gamma_range": 0.0}, ["gamma_range", "0.0", "above 0"]),
        ({"gamma_range": float("nan")}, ["gamma_range", "nan", "finite"]),
        ({"learn_gamma_p": 1}, ["learn_gamma_p", "expected bool", "1"]),
        ({"text_config": {"hiden_size": 64}}, ["text_config", "'hiden_size'", "64", "'hidden_size'"]),
        ({"text_config": {"rope_scalin": None}}, ["text_config", "'rope_scalin'", "None", "'rope_scaling'"]),
        (
            {"text_config": LlamaConfig(num_hiden_layers=3)},
            ["text_config", "'num_hiden_layers'", "3", "num_hidden_layers"],
        ),
        ({"text_config": {"zzz": 64}}, ["text_config", "'zzz'", "its keys are", "'hidden_size'"]),
        ({"gamma_p": -0.5}, ["gamma_p", "-0.5", "not negative"]),
        ({"gamma_p": float("inf")}, ["gamma_p", "inf", "finite"]),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_mistakes_are_named(given, said):
    with pytest.raises(Exception) as raised:  # noqa: PT011 (the strict dataclass wraps ValueError and TypeError)
        OmniMolConfig(**given)
    message = f"{raised.value}"
    for part in said:
        assert part in message


def test_round_trip(tmp_path):
    given = {
        "text": {"num_hidden_layers": 6, "tie_word_embeddings": False},
        "moe_layers": [1, 4],
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "anchor_expert": False,
        "norm_topk_prob": True,
        "preserve_at_init": True,
        "expert_alpha": 8,
        "expert_dropout": 0,
        "gamma_p": 1,
        "gamma_range": 0.07,
        "learn_gamma_p": True,
        "graph_features": "omnimol2",
        "graph_width": 12,
        "projector": "mlp",
        "multi_graph": True,
        "router_aux_loss_coef": 0,
        "loss_reduction": "sum_per_sample",
    }
    config = tiny.config(**given)
    config.save_pretrained(tmp_path)
    for loaded in (OmniMolConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is OmniMolConfig
        assert type(loaded.text_config) is LlamaConfig
        assert type(loaded.graph_config) is OmniMolGraphConfig
        assert loaded.to_diff_dict() == config.to_diff_dict()
        for key, value in given.items():
            if key != "text":
                assert getattr(loaded, key) == value
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"] == auto_map["AutoModelForCausalLM"] == "modeling_omnimol.OmniMolForCausalLM"
    assert auto_map["AutoConfig"] == "configuration_omnimol.OmniMolConfig"
    assert auto_map["AutoProcessor"] == "processing_omnimol.OmniMolProcessor"


def test_a_combination_made_impossible_later_is_refused_by_the_model(tmp_path):
    tiny.config().save_pretrained(tmp_path)
    config = OmniMolConfig.from_pretrained(tmp_path, num_experts=1)  # transformers sets it on the finished object
    with (
        torch.device("meta"),
        pytest.raises(Exception, match="num_experts_per_tok is 2; it must be 1 to num_experts = 1"),
    ):
        OmniMolForCausalLM(config)


@pytest.mark.parametrize("key", ["use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "quantization_config"])
def test_keys_that_are_set_on_configs_do_not_hinder_loading(tmp_path, key):
    """`Trainer` sets `use_cache`, quantizers and users set others; what was saved must load again."""
    config = tiny.config()
    setattr(config, key, {"quant_method": "bitsandbytes"} if key == "quantization_config" else 0)
    config.save_pretrained(tmp_path)
    assert OmniMolConfig.from_pretrained(tmp_path).moe_layer_indices == config.moe_layer_indices


@pytest.mark.parametrize(
    ("top", "text", "tied"), [(None, True, True), (None, False, False), (False, True, False), (True, False, True)]
)
def test_tying_stands_in_both_configs(top, text, tied):
    config = tiny.config(text={"tie_word_embeddings": text}, tie_word_embeddings=top)
    assert config.tie_word_embeddings is tied
    assert config.text_config.tie_word_embeddings is tied


# Llama-3.2-1B's config.json as it lies on the hub.
HUB_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}


@pytest.mark.parametrize("kind", [dict, LlamaConfig.from_dict])
def test_configs_of_the_hub_are_taken(kind, tmp_path):
    OmniMolConfig(text_config=kind(HUB_CONFIG)).save_pretrained(tmp_path)
    text = OmniMolConfig.from_pretrained(tmp_path).text_config
    assert text.rope_parameters == {**HUB_CONFIG["rope_scaling"], "rope_theta": 500000.0}
    assert text.dtype == torch.bfloat16
    assert (text.hidden_size, text.num_key_value_heads, text.head_dim) == (2048, 8, 64)


def test_any_llama_config_object_is_taken():
    text = LlamaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=8, num_attention_heads=2, intermediate_size=8)
    config = OmniMolConfig(text_config=text, graph_token_id=2)
    assert config.text_config is text
    assert config.moe_layer_indices == [2, 3, 4, 5, 6, 7]
    assert config.get_text_config() is text
