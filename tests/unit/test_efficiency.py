"""What an answer costs: counts against sums by hand, and how models take turns."""

import itertools
import json

import pytest
import torch

from omnimol_hf.analysis import efficiency
from omnimol_hf.analysis.efficiency import (
    METRICS,
    extra_memory,
    flops,
    generation_times,
    parameter_counts,
    plot_profiles,
    profile_models,
)
from tests import tiny

HIDDEN, FFN, LAYERS, RANK, EXPERTS, TOP_K = 32, 48, 4, 4, 3, 2
QUERY, KEY_VALUE = 4 * 8, 2 * 8  # heads times their width


def dense_parameters(vocabulary: int) -> int:
    """Embeddings (tied), attention, feed-forward and norms of `tiny.config`, and the projector from a width of 12."""
    attention = HIDDEN * QUERY + 2 * HIDDEN * KEY_VALUE + QUERY * HIDDEN
    layer = attention + 3 * HIDDEN * FFN + 2 * HIDDEN
    return vocabulary * HIDDEN + LAYERS * layer + HIDDEN + (12 * HIDDEN + HIDDEN)


def frozen(model) -> int:
    return sum(weight.numel() for weight in model.model.graph_encoder.state_dict().values())


def test_parameters_of_a_dense_model():
    model = tiny.model(moe_layers=[])
    total = dense_parameters(len(tiny.tokenizer())) + frozen(model)
    assert parameter_counts(model) == (total, total)


def test_parameters_of_expert_deltas():
    model = tiny.model()  # MoE in layers 1 to 3
    expert = 3 * RANK * (HIDDEN + FFN) + 2 * 3  # A and B of three projections, and their two gamma offsets
    router = EXPERTS * HIDDEN
    total = dense_parameters(len(tiny.tokenizer())) + frozen(model) + 3 * ((EXPERTS + 1) * expert + router)
    assert parameter_counts(model) == (total, total - 3 * (EXPERTS - TOP_K) * expert)


def test_parameters_of_full_experts():
    model = tiny.model(expert_training="full", num_experts=5)
    ffn = 3 * HIDDEN * FFN
    total = (
        dense_parameters(len(tiny.tokenizer())) + frozen(model) + 3 * (5 * ffn + 5 * HIDDEN)
    )  # 6 of them, one is there
    assert parameter_counts(model) == (total, total - 3 * (5 - TOP_K) * ffn)


def test_flops_by_hand():
    """Text alone and a dense model: two operations a weight and token, and attention's two products in full."""
    model = tiny.model(moe_layers=[])
    inputs = tiny.prompts(tiny.chat("What is the weight?"))
    vocabulary, length = len(tiny.tokenizer()), inputs["input_ids"].shape[1]
    weights = LAYERS * (2 * HIDDEN * QUERY + 2 * HIDDEN * KEY_VALUE + 3 * HIDDEN * FFN)

    def forward(tokens: int, seen: int) -> int:
        attention = LAYERS * 2 * (2 * tokens * seen * QUERY)
        return 2 * tokens * weights + attention + 2 * HIDDEN * vocabulary  # one token's logits

    prompt, token = flops(model, inputs, new_tokens=5)
    assert prompt == forward(length, length)
    assert token == sum(forward(1, length + i) for i in range(1, 5)) / 4
    assert model.config._attn_implementation == "sdpa"


def test_times_from_the_clock(monkeypatch):
    model = tiny.model()
    inputs = tiny.prompts(tiny.chat("weight?", "CCO"), tiny.chat("and of this one?", "CCN"))
    ticks = itertools.count()
    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: float(next(ticks)))
    # Start at 0, then a second for each of ten tokens: nine more after the first, of two rows each.
    assert generation_times(model, inputs, 10) == (1.0, 2.0)
    assert next(ticks) == 11


def test_memory_of_a_block():
    cpu = torch.device("cpu")
    with extra_memory(cpu) as extra:
        block = torch.ones(300, 1024, 1024, dtype=torch.uint8)
        del block
    if extra() is None:
        pytest.skip("this kernel does not count peak memory")
    assert 290e6 < extra() < 400e6
    with extra_memory(cpu) as extra:
        pass
    assert extra() < 20e6  # the peak before has been forgotten


@pytest.fixture
def rows():
    return [{"task": "logp", "instruction": "?", "input": "[C][C][O]", "graph_smiles": ["CCO"]}]


def test_models_take_turns(monkeypatch, rows):
    models = {name: (tiny.model(seed), tiny.processor()) for seed, name in enumerate(("one", "two"))}
    names = {id(model): name for name, (model, _) in models.items()}
    order, values = [], itertools.count()

    def measure(model, one, many, new_tokens):
        order.append(names[id(model)])
        assert (len(one["input_ids"]), len(many["input_ids"]), new_tokens) == (1, 32, 4)
        return {"first_token_seconds": float(next(values)), "peak_memory_bytes": None}

    monkeypatch.setattr(efficiency, "_round", measure)
    profiles = profile_models(models, rows, new_tokens=4, rounds=3)
    assert order == ["one", "two"] * 4
    # The first round warms up: "one" was measured as 2, 4, 6.
    assert profiles["one"]["first_token_seconds"] == {"value": 4.0, "low": 2.0, "high": 6.0}
    assert profiles["two"]["first_token_seconds"]["value"] == 5.0
    assert "peak_memory_bytes" not in profiles["one"]
    assert profiles["one"]["parameters"]["value"] == parameter_counts(models["one"][0])[0]
    json.dumps(profiles, allow_nan=False)
    with pytest.raises(ValueError, match="at least 2 new tokens, got 1 rows and 1"):
        profile_models(models, rows, new_tokens=1)


def test_every_metric_is_measured_and_drawn(monkeypatch, rows):
    profiles = profile_models({"tiny": (tiny.model(), tiny.processor())}, rows, new_tokens=3, rounds=1)
    measured = set(METRICS) - ({"peak_memory_bytes"} if "peak_memory_bytes" not in profiles["tiny"] else set())
    assert measured <= set(profiles["tiny"])
    if "peak_memory_bytes" in measured:  # weights in fp32 at least
        assert profiles["tiny"]["peak_memory_bytes"]["low"] >= 4 * profiles["tiny"]["parameters"]["value"]
    figures = []
    monkeypatch.setattr(efficiency, "save_figure", lambda figure, path: figures.append(figure))
    plot_profiles(profiles, "unused.png")
    titles = {axes.get_title(loc="left"): axes for axes in figures[0].axes if axes.get_visible()}
    title, unit = METRICS["parameters"]
    assert titles[title].patches[0].get_width() == pytest.approx(profiles["tiny"]["parameters"]["value"] / unit)
    assert len(titles) == len(measured)
