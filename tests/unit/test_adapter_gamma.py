"""gamma of adapted layers and of the experts' deltas: where it starts, its gradients, its limits."""

import math
from functools import partial

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.autograd import gradcheck
from torch.func import functional_call

from omnimol_hf import OmniMolForCausalLM
from omnimol_hf.adapters import TARGET_MODULES, add_adapters
from omnimol_hf.adapters.model import adapted_deltas
from omnimol_hf.dropout_omnimol import OmniMolDropout
from omnimol_hf.moe_omnimol import LowRankExperts
from tests import tiny
from tests.adapted import LINEARS, Q, base, layer_of, logits, move, relative, settings, trained


@pytest.fixture(scope="module")
def batch():
    chats = [tiny.chat("What is it?", "CCO", answer="[C][C][O]"), tiny.chat("And this?", "C", answer="[C]")]
    return tiny.training_batch(*chats)


@pytest.mark.parametrize(("p", "use_rslora"), [(1, False), (0.5, True)])
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("training", ["lora", "full"])
def test_starts_as_lora_or_rslora(p, use_rslora, moved, training, batch):
    """Logits, and gradients of A and B, of all linear layers; moved: with the same B, which at the start is zero."""
    model = partial(tiny.model, expert_training=training)
    adaptive = get_peft_model(model(), settings(gamma_p=p, modules_to_save=[], lora_dropout=0.2))
    lora = LoraConfig(r=4, lora_alpha=16, lora_dropout=0.2, use_rslora=use_rslora, target_modules=TARGET_MODULES)
    stock = get_peft_model(model(), lora)
    ours, theirs = dict(adaptive.named_parameters()), dict(stock.named_parameters())
    for name in [name for name in theirs if "lora_" in name]:
        ours[name].data.copy_(theirs[name].data.add_(0.05 * torch.randn_like(theirs[name]) if moved else 0))
    assert_same(adaptive, stock, batch)
    gammas = {name: p for name, p in ours.items() if "lora_gamma" in name}
    assert all(p.requires_grad for p in gammas.values())
    assert len(gammas) == 2 * len([name for name in theirs if "lora_A" in name])


@pytest.mark.parametrize(("p", "use_rslora"), [(1, False), (0.5, True)])
@pytest.mark.parametrize("model_p", [1, 0.5])
def test_deltas_start_as_lora_or_rslora(p, use_rslora, model_p, batch):
    """Those of a stabilised model and of the ablation, whatever the model's own p: the same function and gradients."""

    def start() -> OmniMolForCausalLM:
        model = tiny.model(gamma_p=model_p)
        for name, parameter in model.named_parameters():
            if "gamma" in name:
                parameter.data.zero_()
        return model

    adaptive = add_adapters(start(), settings(gamma_p=p, lora_dropout=0.2))
    stock = add_adapters(start(), LoraConfig(r=4, lora_alpha=16, lora_dropout=0.2, use_rslora=use_rslora))
    for one, other in zip(adapted_deltas(adaptive, "default"), adapted_deltas(stock, "default"), strict=True):
        scale = torch.full((3, 4), 16 / 4**p)
        assert torch.equal(one.gamma(), scale)
        assert torch.equal(other.gamma(), scale)
        assert one.dropout.p == other.dropout.p == 0.2
    ours, theirs = dict(adaptive.named_parameters()), dict(stock.named_parameters())
    for name in theirs:
        if "lora_" in name:
            ours[name].data.copy_(theirs[name].data)
    assert_same(adaptive, stock, batch)


def assert_same(adaptive: PeftModel, stock: PeftModel, batch) -> None:
    assert torch.equal(logits(adaptive.eval(), batch), logits(stock.eval(), batch))
    for module in stock.modules():
        if type(module) is torch.nn.Dropout:
            module.__class__ = OmniMolDropout  # which draws other masks from the same seed
    for model in (adaptive, stock):
        torch.manual_seed(1)
        model.train()(**batch).loss.backward()
    ours = dict(adaptive.named_parameters())
    for name, parameter in stock.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(ours[name].grad, parameter.grad), name


@pytest.mark.parametrize("place", LINEARS)
def test_gradient_of_gamma(place):
    """Of alpha, beta and p, in fp64: against the derivative written out, and against finite differences."""
    model = add_adapters(base(place), settings(learn_p=True, lora_alpha=12.0, gamma_p=0.7))
    layer = layer_of(move(model.double()), LINEARS[place])
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


def run_deltas(experts: LowRankExperts, offsets: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """All experts of a layer on five tokens, with these offsets of gamma."""
    torch.manual_seed(3)
    inputs = [torch.randn(5, size, dtype=torch.float64) for size in (32, 48, 48)]
    weights = torch.rand(5, 3, dtype=torch.float64)
    chosen = torch.tensor([[0, 1, 3], [2, 0, 3], [1, 2, 3], [0, 2, 3], [2, 1, 3]])
    return functional_call(experts, offsets, (*inputs, weights, chosen))


@pytest.mark.parametrize("gamma", [None, 0.0, -1.5])
def test_gradient_of_the_deltas_gamma(gamma):
    """Of alpha, beta and p, in fp64, where training may have led them and at gamma 0 and below."""
    model = tiny.model(learn_gamma_p=True, gamma_p=0.7).double()
    experts = model.model.language_model.layers[1].mlp.experts
    start = [offset.detach().clone() for offset in experts.gamma_offsets()]
    start[2] = 0.1 * torch.randn_like(start[2])
    if gamma is not None:
        start[0].fill_(-16)
        start[1].fill_(gamma)
    names = ("gamma_alpha", "gamma_beta", "gamma_p")
    expected = (16 + start[0]) / 4 ** (0.7 + start[2]) + start[1]
    with torch.no_grad():
        for name, value in zip(names, start, strict=True):
            getattr(experts, name).copy_(value)
    torch.testing.assert_close(experts.gamma(), expected, rtol=1e-14, atol=0)

    def of_gamma(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return run_deltas(experts, dict(zip(names, values, strict=True)))

    assert gradcheck(of_gamma, [value.requires_grad_() for value in start], eps=1e-6, atol=1e-7, rtol=1e-6)


def test_range_of_the_deltas_gamma():
    """The same clamp as of an adapted layer; beyond it no gradient, within it all of it."""
    experts = tiny.model(gamma_range=0.07).double().model.language_model.layers[1].mlp.experts
    beta = torch.tensor([[0.5, 5, -5, -0.5]] * 3, dtype=torch.float64, requires_grad=True)
    alpha = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    offsets = {"gamma_alpha": alpha, "gamma_beta": beta}
    with torch.no_grad():
        experts.gamma_alpha.copy_(alpha)
        experts.gamma_beta.copy_(beta)
    expected = torch.tensor([[8.5, 8 * 1.07, 8 * 0.93, 7.5]] * 3, dtype=torch.float64)
    torch.testing.assert_close(experts.gamma(), expected, rtol=1e-14, atol=0)
    sum(part.square().sum() for part in run_deltas(experts, offsets)).backward()
    for offset in (alpha, beta):
        assert offset.grad[:, 1:3].abs().max() == 0
        assert offset.grad[:, [0, 3]].abs().min() > 0


@pytest.mark.parametrize("gamma", [0.0, -1.5])
@pytest.mark.parametrize("place", LINEARS)
def test_gamma_at_zero_and_negative(gamma, place):
    layer = layer_of(move(add_adapters(base(place), settings(learn_p=True))), LINEARS[place])
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


def test_small_steps_of_the_deltas_gamma_count_in_bf16():
    """The same of the experts' deltas, for each projection: their low-rank products grow as gamma does."""
    experts = tiny.model().model.language_model.layers[1].mlp.experts
    experts.act_fn = torch.nn.Identity()
    x = torch.randn(256, 32)
    one, chosen = torch.ones(256, 1), torch.zeros(256, 1, dtype=torch.long)
    for row, silent in enumerate([("up_B", "down_B"), ("gate_B", "down_B"), ("gate_B", "up_B")]):
        outputs = []
        for beta in (0.0, 0.03):
            with torch.no_grad():
                kept = {name: getattr(experts, name).clone() for name in silent}
                for name in silent:
                    getattr(experts, name).zero_()
                experts.gamma_alpha.zero_()
                experts.gamma_beta.fill_(beta)
                # The other projection of gate and up is 1, and the first product's own base 0.
                gate, up = torch.zeros(256, 48) + (row != 0), torch.zeros(256, 48) + (row != 1)
                result = experts(x.bfloat16(), gate.bfloat16(), up.bfloat16(), one, chosen)
                outputs.append(result[row == 2].double())
                for name, value in kept.items():
                    getattr(experts, name).copy_(value)
        ratio = (outputs[1] * outputs[0]).sum() / outputs[0].square().sum()
        assert ratio.item() == pytest.approx(8.03 / 8, abs=1e-3), row
