"""Anchor-and-reconcile experts against Eq. 8 written out, and the balance loss against its formula written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from omnimol_hf import OmniMolForCausalLM
from omnimol_hf.moe_omnimol import PROJECTIONS, AnchorReconcileMoE, sequence_balance_loss
from tests import tiny


def block_of(model: OmniMolForCausalLM) -> AnchorReconcileMoE:
    return model.model.language_model.layers[1].mlp


def expert_weights(block: AnchorReconcileMoE, expert: int, rank: int, alpha: float, p: float) -> list[torch.Tensor]:
    """The whole matrices of one expert: W + gamma B A with gamma as in Section 3.4."""
    if block.base is None:
        return [getattr(block.experts[expert], f"{name}_proj").weight for name in PROJECTIONS]
    whole = []
    for number, name in enumerate(PROJECTIONS):
        a, b = (getattr(block.experts, f"{name}_{letter}")[expert] for letter in "AB")
        gamma = (alpha + block.experts.gamma_alpha[number, expert]) / rank**p + block.experts.gamma_beta[
            number, expert
        ]
        whole.append(getattr(block.base, f"{name}_proj").weight + gamma * (b @ a))
    return whole


def eq8(block: AnchorReconcileMoE, x: torch.Tensor, config) -> torch.Tensor:
    """x' = sum_i TopK(s)_i E_i(x) + E_anchor(x), one token after the other."""
    experts = [
        expert_weights(block, e, config.expert_rank, config.expert_alpha, config.gamma_p)
        for e in range(config.experts_per_layer)
    ]
    outputs = []
    for token in x.flatten(0, 1):
        weights, chosen = (block.router.weight @ token).softmax(-1).topk(config.num_experts_per_tok)
        if config.norm_topk_prob:
            weights = weights / weights.sum()
        terms = [(weight, experts[e]) for weight, e in zip(weights, chosen.tolist(), strict=True)]
        if config.anchor_expert:
            terms.append((torch.ones(()).to(weights), experts[config.num_experts]))
        output = sum(weight * (down @ (F.silu(gate @ token) * (up @ token))) for weight, (gate, up, down) in terms)
        outputs.append(output / sum(weight for weight, _ in terms) if config.preserve_at_init else output)
    return torch.stack(outputs).view_as(x)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()


def output_and_gradients(function, block: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    block.zero_grad()
    x = x.clone().requires_grad_()
    output = function(x)
    direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    (output * direction).sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in block.named_parameters()}
    return output.detach(), gradients | {"x": x.grad}


OPTIONS = {
    "paper": {},
    "five experts, top 3": {"num_experts": 5, "num_experts_per_tok": 3},
    "top 1": {"num_experts_per_tok": 1},
    "norm_topk_prob": {"norm_topk_prob": True},
    "preserve_at_init": {"preserve_at_init": True},
    "no anchor": {"anchor_expert": False},
    "no anchor, preserved": {"anchor_expert": False, "preserve_at_init": True},
    "LoRA scale": {"gamma_p": 1},
    "full": {"expert_training": "full"},
    "full, preserved": {"expert_training": "full", "preserve_at_init": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_eq8_in_double_precision(options, monkeypatch):
    """Outputs and the gradients of gamma, A, B, router, base and input, to 1e-12."""
    model = tiny.model(**options).double()
    block, config = block_of(model), model.config
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # also where the block insists on fp32
    output, gradients = output_and_gradients(block, block, x)
    expected, expected_gradients = output_and_gradients(lambda x: eq8(block, x, config), block, x)
    assert relative(output, expected) < 1e-12
    assert set(gradients) == set(expected_gradients)
    for name, gradient in gradients.items():
        assert expected_gradients[name].abs().max() > 0, name
        assert relative(gradient, expected_gradients[name]) < 1e-12, name


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_eq8_in_single_precision(options):
    model = tiny.model(**options)
    block, config = block_of(model), model.config
    x = torch.randn(2, 9, 32)
    output, gradients = output_and_gradients(block, block, x)
    expected, expected_gradients = output_and_gradients(lambda x: eq8(block, x, config), block, x)
    assert relative(output, expected) < 1e-6
    for name, gradient in gradients.items():
        assert relative(gradient, expected_gradients[name]) < 1e-4, name


@pytest.mark.parametrize("gamma", [0.0, -1.5])
def test_gamma_at_zero_and_negative(gamma, monkeypatch):
    model = tiny.model().double()
    block, config = block_of(model), model.config
    with torch.no_grad():
        block.experts.gamma_alpha.fill_(-config.expert_alpha)
        block.experts.gamma_beta.fill_(gamma)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    assert torch.equal(block.experts.gamma(), torch.full((3, 4), gamma, dtype=torch.float64))
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    output, gradients = output_and_gradients(block, block, x)
    expected, expected_gradients = output_and_gradients(lambda x: eq8(block, x, config), block, x)
    assert relative(output, expected) < 1e-12
    for name, gradient in gradients.items():
        assert relative(gradient, expected_gradients[name]) < 1e-12, name
    assert gradients["experts.gamma_alpha"].abs().min() > 0  # from 0 gamma can still move


def test_llama_with_biases_in_its_ffn():
    """The down projection's bias belongs to each expert, so it is weighted as the experts are."""
    lora = tiny.model(text={"mlp_bias": True})
    full = tiny.model(text={"mlp_bias": True}, expert_training="full")
    block = block_of(lora)
    with torch.no_grad():
        for name in PROJECTIONS:
            getattr(block.base, f"{name}_proj").bias.normal_()
    copy_into_full(block, block_of(full))
    x = torch.randn(2, 9, 32)
    assert relative(block(x), block_of(full)(x)) < 1e-6


def copy_into_full(block: AnchorReconcileMoE, full: AnchorReconcileMoE) -> None:
    """Make the whole experts of `full` what the deltas of `block` say."""
    with torch.no_grad():
        full.router.weight.copy_(block.router.weight)
        for e, expert in enumerate(full.experts):
            expert.load_state_dict(block.base.state_dict())
            for name in PROJECTIONS:
                getattr(expert, f"{name}_proj").weight += block.experts.delta(name, e)


def chain_rule(block: AnchorReconcileMoE, whole: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the gradients of whole experts' matrices, dW_e, say of the shared base, of A, B and of gamma's offsets."""
    deltas, expected = block.experts, {name: whole[name] for name in ("x", "router.weight")}
    norm = deltas.rank ** (deltas.p + deltas.gamma_p)
    for row, name in enumerate(PROJECTIONS):
        a, b = deltas.matrices(name)
        by_expert = torch.stack([whole[f"experts.{e}.{name}_proj.weight"] for e in range(len(a))])
        gamma = ((deltas.alpha + deltas.gamma_alpha) / norm + deltas.gamma_beta)[row].view(-1, 1, 1)
        expected[f"base.{name}_proj.weight"] = by_expert.sum(0)
        expected[f"experts.{name}_A"] = gamma * (b.mT @ by_expert)
        expected[f"experts.{name}_B"] = gamma * (by_expert @ a.mT)
        expected[f"by_gamma.{row}"] = (by_expert * (b @ a)).sum((1, 2))
    by_gamma = torch.stack([expected.pop(f"by_gamma.{row}") for row in range(3)])
    expected["experts.gamma_alpha"], expected["experts.gamma_beta"] = by_gamma / norm, by_gamma
    by_p = -by_gamma * (deltas.alpha + deltas.gamma_alpha) / norm * math.log(deltas.rank)
    return expected | {"experts.gamma_p": by_p}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", [options for name, options in OPTIONS.items() if "full" not in name], ids=str)
def test_deltas_equal_whole_experts(options, dtype, monkeypatch):
    """Outputs, and gradients of input, router, base, A, B, alpha, beta and p."""
    block = block_of(tiny.model(**options, learn_gamma_p=True).to(dtype))
    full = block_of(tiny.model(**options, expert_training="full").to(dtype))
    if dtype == torch.float64:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # also where the block insists on fp32
    copy_into_full(block, full)
    x = torch.randn(2, 9, 32, dtype=dtype)
    output, gradients = output_and_gradients(block, block, x)
    expected, whole = output_and_gradients(full, full, x)
    with torch.no_grad():
        by_rule = chain_rule(block, whole)
    assert relative(output, expected) < (1e-6 if dtype == torch.float32 else 1e-12)
    assert gradients.keys() == by_rule.keys()
    for name, gradient in gradients.items():
        at_most = 1e-12 if dtype == torch.float64 else 1e-4 if "gamma" in name else 1e-6
        assert by_rule[name].abs().max() > 0, name
        assert relative(gradient, by_rule[name]) < at_most, name


def test_a_frozen_base_has_no_gradient():
    block = block_of(tiny.model())
    x = torch.randn(2, 9, 32)
    _, expected = output_and_gradients(block, block, x)
    block.base.requires_grad_(False)
    block.zero_grad()
    x = x.requires_grad_()
    output = block(x)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
    for name, gradient in expected.items():
        if name.startswith("base."):
            continue
        assert torch.equal(x.grad if name == "x" else gradients[name], gradient), name


@pytest.mark.parametrize("preserve", [True, False])
def test_start(preserve):
    """All experts start as the dense FFN: Eq. 8 then gives 1 + the chosen probabilities' sum times it."""
    block = block_of(OmniMolForCausalLM(tiny.config(preserve_at_init=preserve)))
    x = torch.randn(2, 9, 32)
    factor = 1 if preserve else 1 + block.router(x)[1].sum(-1, keepdim=True)
    assert preserve or (factor.min() > 1.6 and factor.max() < 2)
    assert relative(block(x), factor * block.base(x)) < 1e-6


def test_initial_values():
    model = OmniMolForCausalLM(tiny.config(expert_rank=16))
    block = block_of(model)
    bound = 32**-0.5  # kaiming_uniform_(a=sqrt(5)) has the bound 1 / sqrt(fan in)
    for weight in (block.router.weight, block.experts.gate_A, block.experts.up_A):
        assert 0.9 * bound < weight.abs().max() <= bound
    assert 0.9 * 48**-0.5 < block.experts.down_A.abs().max() <= 48**-0.5
    assert not torch.equal(block.experts.gate_A[0], block.experts.gate_A[1])
    assert all(block.experts.matrices(name)[1].abs().max() == 0 for name in PROJECTIONS)
    assert torch.equal(block.experts.gamma(), torch.full((3, 4), 4.0))  # 16 / sqrt(16): rsLoRA
    other = model.model.language_model.layers[2].mlp
    assert not torch.equal(block.router.weight, other.router.weight)


@pytest.mark.parametrize("training", ["lora", "full"])
def test_an_expert_without_tokens_has_a_gradient_of_zero(training):
    """On another rank it may have tokens: a missing gradient would make the ranks wait for one another."""
    block = block_of(tiny.model(expert_training=training))
    x = torch.randn(1, 5, 32).abs()
    with torch.no_grad():
        block.router.weight.zero_()
        block.router.weight[1] = -1.0  # the lowest score for all tokens: never among two of three
    block(x).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    if training == "full":
        unused, used = ([p.grad for p in block.experts[e].parameters()] for e in (1, 0))
    else:
        stacked = [block.experts.matrices(name)[i].grad for name in PROJECTIONS for i in (0, 1)]
        stacked += list(block.experts.gamma_alpha.grad.unsqueeze(-1))
        unused, used = ([gradient[e] for gradient in stacked] for e in (1, 0))
    assert all(gradient.abs().max() == 0 for gradient in unused)
    assert all(gradient.abs().max() > 0 for gradient in used)


@pytest.mark.parametrize("how", ["bf16 weights", "autocast"])
def test_router_is_fp32(how):
    """Logits and weights in fp32, equal to those of fp32 arithmetic on the same (rounded) input."""
    block = block_of(tiny.model())
    x = torch.randn(2, 9, 32).bfloat16()
    if how == "bf16 weights":
        block = block.bfloat16()
        block.router.float()
    expected = x.float() @ block.router.weight.T
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        logits, weights, _ = block.router(x)
        output = block(x)
    assert (logits.dtype, weights.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)
    assert output.shape == x.shape
    assert output.dtype == torch.bfloat16


@pytest.mark.parametrize("how", ["bf16 base, fp32 deltas", "autocast"])
def test_mixed_precision_is_near_fp32(how):
    """Training's two ways: frozen weights in bf16 beside fp32 deltas, or everything in fp32 under autocast."""
    block = block_of(tiny.model())
    x = torch.randn(2, 9, 32).bfloat16()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(parameter.bfloat16())
    expected, expected_gradients = output_and_gradients(block, block, x.float())
    if how == "autocast":
        block_, input_ = block, x.float()
    else:
        block.base.bfloat16()
        block_, input_ = block, x

    def run(x):
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            return block_(x)

    output, gradients = output_and_gradients(run, block, input_)
    assert relative(output.float(), expected) < 0.03
    for name, gradient in gradients.items():
        if name.startswith(("experts", "router")):
            assert gradient.dtype == torch.float32, name
        assert relative(gradient.float(), expected_gradients[name]) < 0.1, name


def test_all_experts_share_one_dropout_mask():
    """Equal experts under one mask give equal outputs, so it does not matter which of them a token goes to."""
    block = block_of(tiny.model(expert_dropout=0.5)).train()
    with torch.no_grad():
        for parameter in block.experts.parameters():
            if parameter.ndim == 3:
                parameter.copy_(parameter[:1].expand_as(parameter))
            else:
                parameter.zero_()
    x = torch.randn(2, 9, 32)

    def per_weight() -> torch.Tensor:
        torch.manual_seed(5)
        return block(x) / (1 + block.router(x)[1].sum(-1, keepdim=True))

    first = per_weight()
    with torch.no_grad():
        block.router.weight.copy_(-block.router.weight)
    assert relative(per_weight(), first) < 1e-5
    block.eval()
    assert relative(per_weight(), first) > 0.05  # in training something is dropped


@pytest.mark.parametrize("silent", [("gate", "up"), ("down",)])
def test_dropout_stands_before_each_low_rank_product(silent):
    """As in LoRA: on the way into A, of gate and up as well as of down; and scaled, so that the mean stays."""
    block = block_of(tiny.model(expert_dropout=0.5)).train()
    with torch.no_grad():
        for name in silent:
            block.experts.matrices(name)[1].zero_()
            if name == "down":  # then dropout acts before the activation, where means say nothing: keep it linear
                block.experts.gate_B.zero_()
        x = torch.randn(1, 3, 32)
        mean = torch.stack([block(x) for _ in range(600)]).mean(0)
        once, never = block(x), block.eval()(x)
        for name in {"gate", "up", "down"} - set(silent):
            block.experts.matrices(name)[1].zero_()
        delta = never - block(x)
    assert (once - never).abs().max() > 0.1 * delta.abs().max()
    assert (mean - never).norm() < 0.15 * delta.norm()


def balance_by_hand(router_logits, top_k, mask):
    """Section 3.5 as loops over sequences i, experts j and tokens t."""
    losses = []
    for i in range(len(mask)):
        per_layer = []
        for logits in router_logits:
            tokens = [t for t in range(mask.shape[1]) if mask[i, t]]
            scores = [logits[i, t].softmax(-1) for t in tokens]
            experts, total = logits.shape[-1], 0.0
            for j in range(experts):
                chosen = sum(int(j in score.topk(top_k).indices.tolist()) for score in scores)
                importance = sum(score[j] for score in scores) / len(tokens)
                total = total + experts / (len(tokens) * top_k) * chosen * importance
            per_layer.append(total)
        losses.append(sum(per_layer) / len(per_layer))
    return torch.stack(losses)


@pytest.mark.parametrize(("experts", "top_k"), [(3, 2), (5, 2), (4, 1)])
def test_balance_loss_against_its_formula(experts, top_k):
    logits = tuple(torch.randn(3, 7, experts, requires_grad=True) for _ in range(2))
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4, [1, 1] + [0] * 5])  # whole, left padded, right padded
    loss, share = sequence_balance_loss(logits, top_k, mask)
    assert not share.requires_grad
    expected = balance_by_hand(logits, top_k, mask)
    assert loss.shape == (3,)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    weights = torch.tensor([1.0, 3.0, 0.5])
    gradients = torch.autograd.grad((weights * loss).sum(), logits)
    expected_gradients = torch.autograd.grad((weights * expected).sum(), logits)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)
        assert gradient[mask == 0].abs().max() == 0  # padding counts nowhere
        assert gradient[mask == 1].abs().min() > 0


def test_perfect_balance_gives_one_and_collapse_gives_more():
    even = torch.zeros(1, 6, 3)
    for t in range(6):
        even[0, t, t % 3] = even[0, t, (t + 1) % 3] = 1e-4  # each expert is chosen by two thirds of the tokens
    collapsed = torch.tensor([50.0, 50.0, -50.0]).expand(1, 6, 3)
    mask = torch.ones(1, 6)
    assert sequence_balance_loss((even,), 2, mask)[0].item() == pytest.approx(1, abs=1e-4)
    assert sequence_balance_loss((collapsed,), 2, mask)[0].item() == pytest.approx(1.5)
    assert sequence_balance_loss((even, collapsed), 2, mask)[0].item() == pytest.approx(1.25, abs=1e-4)
    shares = sequence_balance_loss((even, collapsed), 2, mask)[1]
    torch.testing.assert_close(shares, torch.tensor([[[1 / 3] * 3], [[0.5, 0.5, 0.0]]]))
