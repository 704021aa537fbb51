"""Adaptive LoRA: the formula of gamma, PEFT's behaviour, and what trains in which precision."""

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from omnimol_hf import OmniMolForCausalLM
from omnimol_hf.adapters import (
    TARGET_MODULES,
    AdaptiveLinear,
    AdaptiveLoraConfig,
    add_adapters,
    trainable_summary,
)
from omnimol_hf.moe_omnimol import LowRankExperts
from tests import tiny

Q = "model.language_model.layers.2.self_attn.q_proj"
DENSE_DOWN = "model.language_model.layers.0.mlp.down_proj"  # layer 0 has no experts
EXPERT_UP = "model.language_model.layers.3.mlp.experts.1.up_proj"
LINEARS = {"attention": (Q, "lora"), "dense": (DENSE_DOWN, "lora"), "expert": (EXPERT_UP, "full")}


def settings(**kwargs) -> AdaptiveLoraConfig:
    return AdaptiveLoraConfig(**({"r": 4, "lora_dropout": 0.0} | kwargs))


def move(model: nn.Module, seed: int = 7, std: float = 0.05) -> nn.Module:
    """As after training: every trainable parameter is somewhere else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_((std * torch.randn(parameter.shape, generator=generator)).to(parameter))
    return model


def trained(**kwargs) -> PeftModel:
    return move(add_adapters(tiny.model(), settings(**kwargs))).eval()


def calm() -> PeftModel:
    """Trained from the start of a new model: fp32 rounds its logits by 4e-7, those of `tiny.model()` by 3e-6."""
    torch.manual_seed(0)
    return move(add_adapters(OmniMolForCausalLM(tiny.config()), settings()), std=0.02).eval()


@pytest.fixture(scope="module")
def batch():
    chats = [tiny.chat("What is it?", "CCO", answer="[C][C][O]"), tiny.chat("And this?", "C", answer="[C]")]
    return tiny.training_batch(*chats)


def logits(model: nn.Module, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(**{k: v for k, v in batch.items() if k != "labels"}).logits


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()


def layer_of(model: PeftModel, name: str) -> AdaptiveLinear:
    return model.get_base_model().get_submodule(name)


# ---- the formula -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "use_rslora"), [(1, False), (0.5, True)])
@pytest.mark.parametrize("moved", [False, True])
def test_starts_as_lora_or_rslora(p, use_rslora, moved, batch):
    """Logits, and gradients of A and B; moved: with the same B, which at the start is zero."""
    adaptive = get_peft_model(tiny.model(), settings(gamma_p=p, modules_to_save=[], lora_dropout=0.2))
    lora = LoraConfig(r=4, lora_alpha=16, lora_dropout=0.2, use_rslora=use_rslora, target_modules=TARGET_MODULES)
    stock = get_peft_model(tiny.model(), lora)
    ours, theirs = dict(adaptive.named_parameters()), dict(stock.named_parameters())
    for name in [name for name in theirs if "lora_" in name]:
        ours[name].data.copy_(theirs[name].data.add_(0.05 * torch.randn_like(theirs[name]) if moved else 0))
    assert torch.equal(logits(adaptive.eval(), batch), logits(stock.eval(), batch))
    for model in (adaptive, stock):
        torch.manual_seed(1)  # the same dropout
        model.train()(**batch).loss.backward()
    for name, parameter in theirs.items():
        if parameter.requires_grad:
            assert torch.equal(ours[name].grad, parameter.grad), name
    gammas = {name: p for name, p in ours.items() if "lora_gamma" in name}
    assert all(p.requires_grad for p in gammas.values())
    assert len(gammas) == 2 * len([name for name in theirs if "lora_A" in name])


@pytest.mark.parametrize(("name", "experts"), LINEARS.values(), ids=LINEARS)
def test_gradient_of_gamma(name, experts):
    """Of alpha, beta and p, in fp64: against the derivative written out, and against finite differences."""
    model = add_adapters(tiny.model(expert_training=experts), settings(learn_p=True, lora_alpha=12.0, gamma_p=0.7))
    layer = layer_of(move(model.double()), name)
    x = torch.randn(5, layer.in_features, dtype=torch.float64)
    direction = torch.randn(5, layer.out_features, dtype=torch.float64)
    (layer(x) * direction).sum().backward()
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    alpha, beta, p = (getattr(layer, f"lora_gamma_{key}")["default"] for key in ("alpha", "beta", "p"))
    norm = 4.0 ** (0.7 + p.item())
    assert abs(layer.gamma("default").item() - ((12 + alpha.item()) / norm + beta.item())) < 1e-12
    by_gamma = (x @ a.T @ b.T * direction).sum().item()
    expected = {alpha: by_gamma / norm, beta: by_gamma, p: -by_gamma * (12 + alpha.item()) / norm * math.log(4)}
    for parameter, derivative in expected.items():
        assert abs(parameter.grad.item() - derivative) < 1e-12 * abs(derivative)
    names = [f"lora_gamma_{key}.default" for key in ("alpha", "beta", "p")]

    def of_gamma(*values: torch.Tensor) -> torch.Tensor:
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    start = [value.detach().clone().requires_grad_() for value in (alpha, beta, p)]
    assert gradcheck(of_gamma, start, eps=1e-6, atol=1e-7, rtol=1e-6)


def test_gradient_of_the_deltas_gamma():
    """The same for the experts' deltas, which are the model's own."""
    experts = tiny.model().double().model.language_model.layers[1].mlp.experts
    inputs = [torch.randn(5, size, dtype=torch.float64) for size in (32, 48, 48)]
    weights = torch.rand(5, 3, dtype=torch.float64)
    chosen = torch.tensor([[0, 1, 3], [2, 0, 3], [1, 2, 3], [0, 2, 3], [2, 1, 3]])

    def of_gamma(alpha: torch.Tensor, beta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return functional_call(experts, {"gamma_alpha": alpha, "gamma_beta": beta}, (*inputs, weights, chosen))

    start = [getattr(experts, name).detach().clone().requires_grad_() for name in ("gamma_alpha", "gamma_beta")]
    assert gradcheck(of_gamma, start, eps=1e-6, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, -1.5])
@pytest.mark.parametrize(("name", "experts"), LINEARS.values(), ids=LINEARS)
def test_gamma_at_zero_and_negative(gamma, name, experts):
    layer = layer_of(move(add_adapters(tiny.model(expert_training=experts), settings())), name)
    with torch.no_grad():
        layer.lora_gamma_alpha["default"].fill_(-16)
        layer.lora_gamma_beta["default"].fill_(gamma)
    x = torch.randn(5, layer.in_features)
    y = layer(x)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert relative(y, layer.base_layer(x) + gamma * (x @ a.T @ b.T)) < 1e-6
    y.square().sum().backward()
    assert layer.lora_gamma_beta["default"].grad.abs() > 0  # it can leave 0 again


def test_gamma_range_is_a_clamp_around_the_start():
    layer = layer_of(add_adapters(tiny.model(), settings(gamma_range=0.07)), Q)
    alpha, beta = layer.lora_gamma_alpha["default"], layer.lora_gamma_beta["default"]
    assert layer.gamma("default").item() == 8
    for moved, expected in ((0.5, 8.5), (5, 8 * 1.07), (-5, 8 * 0.93)):
        beta.data.fill_(moved)
        assert layer.gamma("default").item() == pytest.approx(expected)
    layer.gamma("default").backward()
    assert (alpha.grad, beta.grad) == (0, 0)


def test_peft_can_scale_an_adapter():
    layer = layer_of(trained(), Q)
    gamma = layer.gamma("default").item()
    layer.set_scale("default", 0.5)
    assert layer.gamma("default").item() == pytest.approx(gamma / 2)
    layer.unscale_layer(None)
    assert layer.gamma("default").item() == gamma


# ---- what is adapted and what trains ---------------------------------------------------------------------------


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
    assert summary["experts"] == 3 * (4 * 3 * 4 * (32 + 48) + 2 * 3 * 4)
    assert summary["attention gammas"] == 4 * 4 * 3
    assert summary["feed-forward adapters"] == 3 * 4 * (32 + 48)
    assert set(summary) == {
        *("attention adapters", "attention gammas", "feed-forward adapters", "feed-forward gammas"),
        *("experts", "projector", "router", "frozen"),
    }


def test_plain_lora_for_the_ablation(batch):
    model = add_adapters(tiny.model().to(torch.bfloat16), LoraConfig(r=4, use_rslora=True))
    trains = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any("gamma" in name for name in trains)
    assert any("experts.modules_to_save.default.gate_A" in name for name in trains)
    assert {parameter.dtype for parameter in trains.values()} == {torch.float32}


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


# ---- what PEFT does with adapters ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_save_and_load(dtype, batch, tmp_path):
    model = move(add_adapters(tiny.model().to(dtype), settings(learn_p=True, gamma_range=0.5))).eval()
    expected = logits(model, batch)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert not any(".base." in name or "graph_encoder" in name for name in saved)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "ADAPTIVE_LORA"
    loaded = PeftModel.from_pretrained(tiny.model().to(dtype), tmp_path)
    assert isinstance(loaded.peft_config["default"], AdaptiveLoraConfig)
    assert torch.equal(logits(loaded, batch), expected)
    frugal = PeftModel.from_pretrained(tiny.model().to(dtype), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(logits(frugal, batch), expected)
    again = add_adapters(tiny.model().to(dtype), settings(learn_p=True, gamma_range=0.5))  # as Trainer resumes
    again.load_adapter(tmp_path, "default", is_trainable=True)
    assert torch.equal(logits(again.eval(), batch), expected)
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains == {name for name, parameter in again.named_parameters() if parameter.requires_grad}


def test_several_adapters(batch, tmp_path):
    first, second = trained(), move(add_adapters(tiny.model(), settings(r=2, gamma_p=1)), seed=8).eval()
    expected = [logits(model, batch) for model in (first, second)]
    second.save_pretrained(tmp_path)
    first.load_adapter(tmp_path, "second")
    assert torch.equal(logits(first, batch), expected[0])
    first.set_adapter("second")
    assert torch.equal(logits(first, batch), expected[1])
    first.set_adapter("default")
    assert torch.equal(logits(first, batch), expected[0])
    first.delete_adapter("second")
    assert torch.equal(logits(first, batch), expected[0])
    assert not any("second" in name for name in first.state_dict())


def test_disable_gives_the_base_model(batch):
    model = trained()
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), logits(tiny.model(), batch))
    assert relative(logits(model, batch), logits(tiny.model(), batch)) > 1e-2


@pytest.mark.parametrize("safe", [False, True])
def test_merge_and_unmerge(safe, batch):
    model = calm()
    expected = logits(model, batch)
    weight = layer_of(model, Q).base_layer.weight.clone()
    model.merge_adapter(safe_merge=safe)
    assert not torch.allclose(layer_of(model, Q).base_layer.weight, weight)
    assert relative(logits(model, batch), expected) < 1e-6
    model.unmerge_adapter()
    assert relative(layer_of(model, Q).base_layer.weight, weight) < 1e-6
    assert relative(logits(model, batch), expected) < 1e-6
    merged = model.merge_and_unload(safe_merge=safe)
    assert type(merged) is OmniMolForCausalLM
    assert not any("lora" in name for name in merged.state_dict())
    assert relative(logits(merged, batch), expected) < 1e-6
    assert isinstance(merged.model.language_model.layers[1].mlp.experts, LowRankExperts)


def test_dropout_only_in_training(batch):
    model = trained(lora_dropout=0.5)
    assert torch.equal(logits(model, batch), logits(model, batch))
    model.train()
    assert not torch.equal(logits(model, batch), logits(model, batch))


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


def test_small_steps_of_gamma_count_in_bf16():
    """gamma 8 and 8.01 are one number in bf16, but not for the layer's outputs."""
    layer = layer_of(trained(), Q)
    x = torch.randn(64, layer.in_features)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        zero = torch.zeros(64, layer.out_features)
        outputs = []
        for beta in (0.0, 0.01):
            layer.lora_gamma_alpha["default"].zero_()
            layer.lora_gamma_beta["default"].fill_(beta)
            outputs.append(layer.lora_variant["default"].forward(layer, "default", x, zero).double())
    ratio = (outputs[1] * outputs[0]).sum() / outputs[0].square().sum()
    assert ratio.item() == pytest.approx(8.01 / 8, abs=4e-4)


def test_generates_as_its_merged_model(batch):
    inputs = tiny.prompts(tiny.chat("What is it?", "CCO"))
    model = trained()
    answer = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert torch.equal(answer, model.merge_and_unload().generate(**inputs, max_new_tokens=5, do_sample=False))
