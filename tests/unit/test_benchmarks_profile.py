"""Profile, floor and growth: FLOPs against PyTorch's counter, parts against what is known to run in them."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import quickstart_speed
from benchmarks.baseline_model import BaselineModel, gradient_errors
from benchmarks.flops import Work, computed_flops, decode_flops, model_shapes, own_shape_floor, total, useful_flops
from benchmarks.gpu_rows import MEDIAN_LENGTH, P90_LENGTH, baseline_batches, made_up_encoded, product_batches
from benchmarks.growth import exponents
from benchmarks.quickstart_speed import combine, plain_baseline, plain_gradient_pairs
from benchmarks.setting import product_loss, training_errors
from benchmarks.step_parts import PARTS, attribute, baseline_targets, owners, product_targets, scopes
from omnimol_hf import OmniMolConfig
from omnimol_hf.adapters import add_adapters
from omnimol_hf.tasks import TASKS
from omnimol_hf.training import select_trainable
from tests import tiny
from tests.adapted import base, move, settings
from tests.unit.test_benchmarks import ROWS, batches

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn::_linear_pointwise")


def sides():
    product = move(add_adapters(base("deltas"), settings())).train()
    return product, BaselineModel(product).train(), *batches([ROWS[0]] * 3)


def test_work():
    _, _, ours, _ = sides()
    rows, length = ours["input_ids"].shape
    labelled = sum(int((one != -100).sum()) for one in ours["labels"])
    assert Work.of(ours) == Work(rows * length, rows * length * (length + 1) // 2, labelled, 9)
    assert Work(1, 2, 3, 4) + Work(10, 20, 30, 40) == Work(11, 22, 33, 44)


def test_useful_flops_are_what_the_counter_counts():
    """The baseline computes logits everywhere, all pairs, and k + 1 whole networks a token: with that, to the last."""
    product, baseline, ours, theirs = sides()
    config = product.get_base_model().config
    rows, length = ours["input_ids"].shape
    counted = computed_flops(baseline.llama, lambda: baseline(**theirs).loss.backward())
    everything = useful_flops(config, 4, Work(rows * length, rows * length**2, rows * length, 9))
    networks = config.num_experts_per_tok + 1
    assert counted == total(everything) + (networks - 1) * sum(everything["shared FFN"])
    useful = total(useful_flops(config, 4, Work.of(ours)))
    spent = computed_flops(product.get_base_model(), lambda: product_loss(product, ours).backward())
    assert useful < spent < counted
    assert product.get_base_model().config._attn_implementation == "sdpa"


def test_flops_of_decoding_and_floor():
    config = base("deltas").config
    text = config.text_config
    weights = (
        text.num_hidden_layers * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)  # q, o, k, v, and a network
        + len(config.moe_layer_indices) * (3 * 32 + 3 * 3 * 4 * (32 + 48))  # routers, deltas of 3 experts
        + 32 * text.vocab_size
    )
    assert decode_flops(config, pairs=7) == 2 * weights + text.num_hidden_layers * 4 * 7 * 32
    flops = useful_flops(config, 4, Work(100, 5000, 20, 30))
    rates = dict.fromkeys(model_shapes(config, 4, Work(100, 5000, 20, 30)), 1e9)
    assert own_shape_floor(flops, rates) == pytest.approx(total(flops) / 1e9)


def profiler_of() -> profile:
    return profile(activities=[ProfilerActivity.CPU], acc_events=True)


class _Net(nn.Module):
    """One product in part `first`, two in `second`, and a frozen one outside that still passes gradients on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.outside = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False).requires_grad_(False)
        self.second = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))

    def forward(self, x):
        return self.second(self.outside(self.first(x))).sum()


def test_operations_go_to_the_part_whose_they_are():
    """Forward a product a layer; backward one for each weight that trains, and one for each input that needs it."""
    net, x = _Net(), torch.randn(4, 8)
    targets = [(net.first, "forward", "attention"), (net.second, "forward", "experts")]
    with profiler_of() as profiler, scopes(targets), record_function("whole step"):
        net(x).backward()
    owned = [
        (event, part, gradient) for event, part, gradient in owners(profiler.events()) if event.name == "aten::mm"
    ]
    assert Counter((part, gradient) for _, part, gradient in owned) == {
        **{("attention", False): 1, ("attention", True): 1, ("rest", False): 1, ("rest", True): 1},
        **{("experts", False): 2, ("experts", True): 4},
    }
    assert "forward" not in vars(net.first)
    whole = next(event for event in profiler.events() if event.name == "whole step")
    assert sum(map(sum, attribute(profiler.events()).values())) == pytest.approx(whole.cpu_time_total / 1e6, rel=1e-3)


def test_every_large_part_of_a_step_is_named():
    """Products of both sides by part, forward and backward: none of them is left over as `rest`."""
    product, baseline, ours, theirs = sides()
    runs = [
        (lambda: product_loss(product, ours).backward(), product_targets(product)),
        (lambda: baseline(**theirs).loss.backward(), baseline_targets(baseline)),
    ]
    with_products = {"attention", "adapters", "dense FFN", "router and dispatch", "experts", "graph encoder"}
    with_products |= {"head and loss"}
    for run, targets in runs:
        with profiler_of() as profiler, scopes(targets), record_function("whole step"):
            run()
        products = [one for one in owners(profiler.events()) if one[0].name in PRODUCTS]
        by_part = {part for _, part, _ in products} - {"norms, residuals"}  # there, positions times frequencies
        assert by_part == {part for _, part, gradient in products if gradient} == with_products
        assert {part for _, part, _ in owners(profiler.events())} <= set(PARTS)


def test_baseline_of_the_quickstart_trains_whole():
    product = tiny.model().train()
    select_trainable(product, None)
    baseline = plain_baseline(product)
    ours, theirs = batches(ROWS)
    loss, other = product_loss(product, ours), baseline(**theirs).loss
    loss.backward()
    other.backward()
    assert loss.item() == pytest.approx(other.item(), rel=1e-6)
    pairs = list(plain_gradient_pairs(product, baseline))
    assert sum(ours.numel() for _, ours, _ in pairs) == sum(p.numel() for p in product.parameters())
    assert gradient_errors(pairs)["gradient"] <= 1e-5


def test_quickstart_on_few_rows(tmp_path):
    rows, results = tmp_path / "rows.jsonl", tmp_path / "results"
    task = TASKS["logp"]
    with rows.open("w") as file:
        for n in range(1, 33):
            row = {
                "task": "logp",
                "instruction": task.instructions[0],
                "input": "[C]" * n + "[O]",
                "output": str(n / 4),
            }
            file.write(json.dumps(row) + "\n")
    quickstart_speed.main(
        [
            *["--steps", "2", "--answers", "2", "--rounds", "1", "--results", str(results), "--dataset", str(rows)],
            *["--mixture", json.dumps({"logp": 1.0}), "--max_new_tokens", "8", "--output_dir", str(tmp_path / "run")],
        ]
    )
    result = json.loads((results / "quickstart_speed.json").read_text())
    assert result["errors"]["share_of_answers_that_differ"] == 0
    assert result["errors"]["loss"] <= 1e-6
    assert result["errors"]["gradient"] <= 1e-5


def test_minutes_and_exponents():
    ours = [{"train": 1.0, "answer": 1.0}, {"train": 2.0, "answer": 1.0}, {"train": 1.0, "answer": 3.0}]
    theirs = [{"train": 4.0, "answer": 4.0}, {"train": 4.0, "answer": 5.0}, {"train": 2.0, "answer": 6.0}]
    result = combine({"product": ours, "baseline": theirs})
    assert [result[f"ratio_{name}"] for name in ("median", "min", "max")] == [3.0, 2.0, 4.0]
    assert result["train_ratio_median"] == 2.0
    assert result["answer_ratio_median"] == 4.0
    assert result["product_minutes"] == {"train": 1.0, "answer": 1.0, "all": 3.0}
    slopes = exponents([1, 2, 4, 8], [1.0, 1.0, 3 * 4**1.5, 3 * 8**1.5])
    assert slopes["second_half"] == pytest.approx(1.5)


def test_made_up_rows_are_the_same_for_both_sides():
    product, baseline = sides()[:2]
    config = product.get_base_model().config
    rows = made_up_encoded(
        3,
        OmniMolConfig(text_config={"vocab_size": config.text_config.vocab_size}, graph_token_id=config.graph_token_id),
    )
    ours = product_batches(rows, 3, pad=3)[0]
    theirs = baseline_batches(rows, 3, pad=3, graph_token=config.graph_token_id)[0]
    assert training_errors(product, baseline, ours, theirs)["loss"] <= 1e-5
    lengths = [row["length"] for row in made_up_encoded(2000, OmniMolConfig())]
    low, high = np.percentile(lengths, [50, 90])
    assert abs(low / MEDIAN_LENGTH - 1) < 0.05
    assert abs(high / P90_LENGTH - 1) < 0.1
