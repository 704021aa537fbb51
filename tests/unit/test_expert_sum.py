"""The experts' sum, block by block, against the same formula written out, expert by expert, under autograd."""

import pytest
import torch
from torch import Tensor
from transformers.activations import ACT2FN

from omnimol_hf import expert_sum_omnimol
from omnimol_hf.expert_sum_omnimol import Routes, block_tokens, expert_sum

TOKENS, HIDDEN, INTERMEDIATE, EXPERTS, RANK, CHOICES = 9, 6, 10, 4, 3, 2


def routed(seed: int = 0) -> Tensor:
    """One of two experts for a token, none to expert 1, and the last one for all of them: the anchor."""
    torch.manual_seed(seed)
    return torch.stack([torch.tensor([0, 2])[torch.randint(2, (TOKENS,))], torch.full((TOKENS,), EXPERTS - 1)], dim=1)


def arguments(dropout: bool, dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
    torch.manual_seed(0)
    shapes = [(TOKENS, HIDDEN), (TOKENS, INTERMEDIATE), (TOKENS, INTERMEDIATE), (TOKENS, CHOICES)]
    matrices = [(2 * RANK, HIDDEN), (INTERMEDIATE, RANK), (INTERMEDIATE, RANK), (RANK, INTERMEDIATE), (HIDDEN, RANK)]
    tensors = [torch.randn(shape, dtype=dtype) for shape in shapes]
    tensors.append((torch.rand(TOKENS, INTERMEDIATE, dtype=dtype) < 0.7) / 0.7 if dropout else None)
    tensors += [torch.randn(EXPERTS, *shape, dtype=dtype) for shape in matrices]
    for place, tensor in enumerate(tensors):
        if place != 4:
            tensor.requires_grad_()
    return tensors


@pytest.fixture(params=[1, 4, 100])
def block(request, monkeypatch) -> int:
    """Tokens of a block."""
    monkeypatch.setattr(expert_sum_omnimol, "block_tokens", lambda gate: request.param)
    return request.param


def by_blocks(chosen: Tensor, act: str, x, gate, up, weights, keep, *matrices) -> tuple[Tensor, Tensor]:
    return expert_sum(x, gate, up, weights, chosen, keep, ACT2FN[act], matrices)


def written_out(chosen: Tensor, act: str, x, gate, up, weights, keep, first, gate_b, up_b, down_a, down_b):
    activation, low_rank = torch.zeros_like(gate), torch.zeros_like(x)
    for e in range(EXPERTS):
        low_gate, low_up = (x @ first[e].T).chunk(2, dim=-1)
        a = ACT2FN[act](gate + low_gate @ gate_b[e].T) * (up + low_up @ up_b[e].T)
        a = a * (weights * (chosen == e)).sum(-1, keepdim=True)
        activation = activation + a
        low_rank = low_rank + (a if keep is None else a * keep) @ down_a[e].T @ down_b[e].T
    return activation, low_rank


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("act", ["silu", "gelu", "linear"])
@pytest.mark.usefixtures("block")
def test_values_and_gradients(act, dropout):
    parts, chosen = arguments(dropout), routed()
    trained = [part for part in parts if part is not None and part.requires_grad]
    values = by_blocks(chosen, act, *parts)
    expected = written_out(chosen, act, *parts)
    for one, other in zip(values, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    upstream = [torch.randn_like(one) for one in values]
    for _ in range(2):  # what is kept stays as it is
        gradients = torch.autograd.grad(values, trained, upstream, retain_graph=True)
    for one, other in zip(gradients, torch.autograd.grad(expected, trained, upstream), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_gradients_are_those_of_finite_differences():
    parts, chosen = arguments(dropout=True), routed()
    assert torch.autograd.gradcheck(lambda *parts: by_blocks(chosen, "silu", *parts), parts)


@pytest.mark.parametrize("output", [0, 1])
def test_one_output_alone_has_gradients(output):
    parts, chosen = arguments(dropout=False), routed()
    values, expected = by_blocks(chosen, "silu", *parts)[output], written_out(chosen, "silu", *parts)[output]
    values.sum().backward()
    own = parts[0].grad.clone()
    parts[0].grad = None
    expected.sum().backward()
    torch.testing.assert_close(own, parts[0].grad, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("block")
def test_without_gradients_nothing_is_kept():
    parts, chosen = arguments(dropout=True), routed()
    expected = by_blocks(chosen, "silu", *parts)
    with torch.no_grad():
        values = by_blocks(chosen, "silu", *parts)
    assert all(torch.equal(one, other) for one, other in zip(values, expected, strict=True))
    assert all(one.grad_fn is None for one in values)


def test_what_the_backward_pass_keeps():
    """Two tensors of all choices' activations and, of what it was given, none of the shared projections."""
    parts, kept = arguments(dropout=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        by_blocks(routed(), "silu", *parts)
    of_inputs = [one for one in kept if any(one is part for part in parts)]
    assert [one.shape for one in of_inputs if one.shape[-1] == INTERMEDIATE and one.ndim == 2] == [parts[4].shape]
    others = [one for one in kept if one.shape[-1] == INTERMEDIATE and not any(one is part for part in parts)]
    assert sum(map(len, others)) == 2 * CHOICES * TOKENS


@pytest.mark.parametrize("block", [1, 4, 9, 100])
def test_routes(block):
    chosen = routed()
    routes = Routes.of(chosen, EXPERTS, block)
    assert sorted(routes.order.tolist()) == list(range(chosen.numel()))
    assert {expert for expert, _, _ in routes.blocks} == {0, 2, 3}  # the expert without tokens has no block
    assert [i for _, part, _ in routes.blocks for i in range(part.start, part.stop)] == list(range(chosen.numel()))
    for expert, part, rows in routes.blocks:
        tokens = torch.arange(TOKENS)[rows]
        assert torch.equal(tokens, routes.order[part] // CHOICES)
        assert (chosen.flatten()[routes.order[part]] == expert).all()
        assert len({token // block for token in tokens.tolist()}) == 1
        if expert == EXPERTS - 1:
            assert isinstance(rows, slice)  # nothing is gathered for the anchor


def test_size_of_a_block(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert block_tokens(torch.empty(5000, 2048)) == 512
    assert block_tokens(torch.empty(5000, 1 << 16)) == expert_sum_omnimol._FEWEST_TOKENS
    assert block_tokens(torch.empty(5000, 2048, device="meta")) == 5000
    assert block_tokens(torch.empty(0, 2048, device="meta")) == 1
