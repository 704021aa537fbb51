"""Linear maps on oneDNN's kernels, against the same products in fp64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from omnimol_hf import linear_omnimol
from omnimol_hf.linear_omnimol import OmniMolLinear, as_one_map, linear, use_fast_linear


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """oneDNN has kernels for every CPU; where there are none of wide vectors they are only not asked for."""
    monkeypatch.setattr(linear_omnimol, "_MKL_FALLS_SHORT", torch.backends.mkldnn.is_available())


def close(one: torch.Tensor, exact: torch.Tensor) -> None:
    assert one.dtype == torch.float32
    assert (one.double() - exact).norm() < 1e-6 * exact.norm()


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize(("inner", "outer"), [(96, 512), (512, 96)])
def test_values_and_gradients(inner, outer, with_base, strided):
    torch.manual_seed(0)
    x = torch.randn(3, 70, 2 * inner)[..., :inner] if strided else torch.randn(3, 70, inner)
    weight, base, upstream = torch.randn(outer, inner), torch.randn(3, 70, outer), torch.randn(3, 70, outer)
    parts = [part.requires_grad_() for part in (x, weight, base)]
    exact = [part.detach().double().requires_grad_() for part in parts]
    output = linear(x, weight, base if with_base else None)
    assert output.grad_fn.name() == "_OneDNNLinearBackward"
    wanted = F.linear(exact[0], exact[1]) + (exact[2] if with_base else 0)
    close(output, wanted)
    with torch.no_grad():
        assert torch.equal(linear(x, weight, base if with_base else None), output)
    output.backward(upstream)
    wanted.backward(upstream.double())
    for part, other in list(zip(parts, exact, strict=True))[: 2 + with_base]:
        close(part.grad, other.grad)


def test_frozen_weights_keep_no_input():
    """Their gradient is not worked out, and what it would need is not kept."""
    x, weight = torch.randn(512, 128, requires_grad=True), torch.randn(128, 128)
    output = linear(x, weight)
    assert [kept is None for kept in output.grad_fn.saved_tensors] == [True, False]
    output.sum().backward()
    assert weight.grad is None


@pytest.mark.parametrize("change", ["double", "bfloat16", "small", "few rows", "low rank", "none", "autocast"])
def test_everything_else_is_pytorch(change):
    rows = {"small": 100, "few rows": 32, "none": 0}.get(change, 1024)
    outer = {"small": 65, "low rank": 64}.get(change, 512)
    x, weight = torch.randn(rows, 128), torch.randn(outer, 128, requires_grad=True)
    if change in ("double", "bfloat16"):
        x, weight = (part.detach().to(getattr(torch, change)) for part in (x, weight))
    with torch.autocast("cpu", enabled=change == "autocast"):
        output = linear(x, weight)
        assert torch.equal(output, F.linear(x, weight))
    assert output.grad_fn is None or "OneDNN" not in output.grad_fn.name()


def test_few_rows_of_a_large_matrix():
    x, weight = torch.randn(32, 512), torch.randn(1024, 512, requires_grad=True)
    output = linear(x, weight)
    assert output.grad_fn.name() == "_OneDNNLinearBackward"
    close(output, F.linear(x.double(), weight.double()))


def test_layers_as_one_map():
    layers = [OmniMolLinear(64, width, bias=False) for width in (64, 32, 32)]
    x = torch.randn(5, 64)
    with torch.no_grad():
        wanted = torch.cat([layer(x) for layer in layers], dim=-1)
        torch.testing.assert_close(as_one_map(*layers)(x), wanted)
        torch.testing.assert_close(as_one_map(layers[0])(x), wanted[:, :64])
        # A bias, or an adapter around a layer, is no linear map of the weight alone.
        layers[1] = OmniMolLinear(64, 32)
        layers[2] = nn.Sequential(layers[2], nn.Tanh())
        wanted = torch.cat([layer(x) for layer in layers], dim=-1)
        torch.testing.assert_close(as_one_map(*layers)(x), wanted)
        torch.testing.assert_close(as_one_map(layers[1])(x), wanted[:, 64:96])


def test_layers_keep_their_parameters():
    module = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Sequential(nn.Linear(64, 64, bias=False)))
    x = torch.randn(512, 64)
    before, wanted = module.state_dict(), module.double()(x.double())
    use_fast_linear(module.float())
    assert [type(layer) for layer in (module[0], module[2][0])] == [OmniMolLinear, OmniMolLinear]
    assert module.state_dict().keys() == before.keys()
    close(module(x), wanted)
