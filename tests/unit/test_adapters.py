"""Adapters on an Omni-Mol model: what is adapted, what trains in which precision, and which settings are refused."""

import pytest
import torch
from peft import LoraConfig, PeftModel

from omnimol_hf import OmniMolForCausalLM
from omnimol_hf.adapters import AdaptiveLinear, AdaptiveLoraConfig, add_adapters, trainable_summary
from omnimol_hf.adapters.model import adapted_deltas
from tests import tiny
from tests.adapted import EXPERT_UP, Q, layer_of, logits, move, settings, trained


@pytest.fixture(scope="module")
def batch():
    chats = [tiny.chat("What is it?", "CCO", answer="[C][C][O]"), tiny.chat("And this?", "C", answer="[C]")]
    return tiny.training_batch(*chats)


def test_what_is_adapted_and_what_trains():
    model = add_adapters(tiny.model(), settings())
    adapted = {name for name, m in model.get_base_model().named_modules() if isinstance(m, AdaptiveLinear)}
    layers = [f"model.language_model.layers.{n}" for n in range(4)]
    expected = {f"{layer}.self_attn.{x}_proj" for layer in layers for x in "qkvo"}
    assert adapted == expected | {f"{layers[0]}.mlp.{x}_proj" for x in ("gate", "up", "down")}
    assert model.peft_config["default"].modules_to_save == ["projector", "router", "experts"]
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name in trains:
        assert ".lora_" in name or ".modules_to_save.default." in name, name
    for part in ("graph_encoder", "lm_head", "mlp.base", "embed_tokens", "norm", "original_module"):
        assert not any(part in name for name in trains), part
    assert sum("modules_to_save" in name for name in trains) == 2 + 3 * (1 + 8)


def test_whole_experts_get_adapters_and_a_dense_model_has_no_router():
    full = add_adapters(tiny.model(expert_training="full"), settings())
    assert isinstance(layer_of(full, EXPERT_UP), AdaptiveLinear)
    assert full.peft_config["default"].modules_to_save == ["projector", "router"]
    dense = add_adapters(tiny.model(moe_layers=[]), settings())
    assert dense.peft_config["default"].modules_to_save == ["projector"]


def test_frozen_stays_frozen_and_the_rest_moves(batch):
    model = add_adapters(tiny.model(), settings()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in trains), name


def test_trainable_summary(batch):
    model = add_adapters(tiny.model(), settings(learn_p=True))
    summary = trainable_summary(model)
    assert list(summary)[-1] == "frozen"
    assert sum(summary.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert summary["projector"] == 12 * 32 + 32
    assert summary["router"] == 3 * 3 * 32
    assert summary["experts"] == 3 * (4 * 3 * 4 * (32 + 48) + 3 * 3 * 4)
    assert summary["attention gammas"] == 4 * 4 * 3
    assert summary["feed-forward adapters"] == 3 * 4 * (32 + 48)
    assert set(summary) == {
        *("attention adapters", "attention gammas", "feed-forward adapters", "feed-forward gammas"),
        *("experts", "projector", "router", "frozen"),
    }


@pytest.mark.parametrize("use_rslora", [False, True])
def test_plain_lora_for_the_ablation(use_rslora, batch, tmp_path):
    """LoRA's scale everywhere and no gamma that trains, not even after PEFT has switched adapters or loaded one."""
    config = LoraConfig(r=2, lora_alpha=6, use_rslora=use_rslora, lora_dropout=0.1)
    model = move(add_adapters(tiny.model(), config)).eval()
    scale = 6 / 4 ** (0.5 if use_rslora else 1)  # the deltas' rank is the model's
    with model.disable_adapter():
        pass
    expected = logits(model, batch)
    model.save_pretrained(tmp_path / "adapter")
    model.load_adapter(tmp_path / "adapter", "default", is_trainable=True)
    trains = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any("gamma" in name for name in trains)
    assert any("experts.modules_to_save.default.gate_A" in name for name in trains)
    loaded = PeftModel.from_pretrained(tiny.model(), tmp_path / "adapter")
    for one in (model, loaded):
        assert torch.equal(logits(one.eval(), batch), expected)
        for deltas in adapted_deltas(one, "default"):
            torch.testing.assert_close(deltas.gamma(), torch.full((3, 4), scale), rtol=1e-6, atol=0)
    merged = loaded.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = OmniMolForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(again, batch), logits(merged, batch))
    bf16 = add_adapters(tiny.model().to(torch.bfloat16), LoraConfig(r=2))
    assert {parameter.dtype for parameter in bf16.parameters() if parameter.requires_grad} == {torch.float32}


def test_plain_lora_cannot_be_held_in_a_range():
    with pytest.raises(ValueError, match=r"gamma_range is 0\.1"):
        add_adapters(tiny.model(gamma_range=0.1), LoraConfig(r=4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"lora_alpha": 0},
        {"lora_alpha": float("nan")},
        {"alpha_pattern": {"q_proj": -1}},
        {"gamma_p": -0.5},
        {"gamma_range": 0},
        {"use_rslora": True},
        {"init_lora_weights": "pissa"},
        {"lora_bias": True},
    ],
    ids=str,
)
def test_settings_that_are_no_scale(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("alpha_pattern", "lora_alpha")):
        AdaptiveLoraConfig(**wrong)


def test_other_layers_and_other_models_are_refused():
    with pytest.raises(ValueError, match=r"embed_tokens is Embedding"):
        add_adapters(tiny.model(), settings(target_modules=["embed_tokens"]))
    with pytest.raises(ValueError, match="combination"):
        add_adapters(tiny.model(), settings(use_dora=True))
    with pytest.raises(ValueError, match="'llama'"):
        add_adapters(tiny.model().model.language_model, settings())
    with pytest.raises(ValueError, match="folded"):
        trained().add_weighted_adapter(["default"], [1.0], "sum")


def test_bf16_base(batch):
    """Molecules included: the projector that trains is fp32, the one that it replaces bf16."""
    model = add_adapters(tiny.model().to(torch.bfloat16), settings())
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.dtype == torch.float32, name
    assert layer_of(model, Q).base_layer.weight.dtype == torch.bfloat16
    assert logits(model, batch).dtype == torch.bfloat16
    model.train()(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.dtype == torch.float32, name
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(logits(model, batch), logits(tiny.model().to(torch.bfloat16).train(), batch))
    merged = move(model).eval().merge_and_unload()
    assert merged.model.language_model.layers[2].self_attn.q_proj.weight.dtype == torch.bfloat16
    assert logits(merged, batch).isfinite().all()
