"""Dropout's mask: how often, by how much, and independently of its neighbours."""

import pytest
import torch

from omnimol_hf.dropout_omnimol import OmniMolDropout, dropout_mask


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_share_and_scale(p):
    torch.manual_seed(0)
    mask = dropout_mask(torch.empty(1000, 1001), p)
    dropped = (mask == 0).double().mean()
    assert abs(dropped - p) < 5 * (p * (1 - p) / mask.numel()) ** 0.5
    assert mask[mask > 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=2**-16 / (1 - p))
    assert abs(mask.double().mean() - 1) < 5 * (p / (1 - p) / mask.numel()) ** 0.5


@pytest.mark.parametrize("apart", [1, 2, 3, 4, 1001])
def test_elements_are_independent(apart):
    """The four that one random number decides about are so too."""
    torch.manual_seed(0)
    dropped = (dropout_mask(torch.empty(1000, 1001), 0.5) == 0).flatten().double() - 0.5
    correlation = (dropped[apart:] * dropped[:-apart]).mean() / 0.25
    assert abs(correlation) < 5 / dropped.numel() ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (3, 7)])
def test_shapes_and_dtypes(shape, dtype):
    like = torch.ones(shape, dtype=dtype)
    mask = dropout_mask(like, 0.25)
    assert (mask.shape, mask.dtype) == (like.shape, dtype)
    assert set(mask.flatten().tolist()) <= {0.0, torch.tensor(4 / 3, dtype=dtype).item()}


def test_a_seed_gives_the_mask():
    masks = [(torch.manual_seed(seed), dropout_mask(torch.empty(50, 50), 0.3))[1] for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("p", [1e-9, 1 - 1e-9])
def test_probabilities_at_the_ends(p):
    mask = dropout_mask(torch.empty(1000), p)
    assert mask.isfinite().all()
    assert (mask == 0).double().mean() == round(p)


def test_layer():
    layer, x = OmniMolDropout(0.4), torch.randn(20, 30, requires_grad=True)
    torch.manual_seed(3)
    output = layer(x)
    torch.manual_seed(3)
    mask = dropout_mask(x, 0.4)
    assert torch.equal(output, x * mask)
    output.sum().backward()
    assert torch.equal(x.grad, mask)
    assert layer.eval()(x) is x
    assert OmniMolDropout(0.0)(x) is x
