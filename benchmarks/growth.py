"""Cost as work grows, product and baseline: `python -m benchmarks.growth --size quickstart`.

Each panel changes one number and keeps all others. What ought to be linear has the exponent 1 on a log-log scale, what
ought not to grow the exponent 0. Molecules and texts are made up, so no dataset is needed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from benchmarks.baseline_data import BaselineCollator, BaselineRows
from benchmarks.baseline_model import BaselineModel, MaskedMoE
from benchmarks.clock import clock_name, seconds
from benchmarks.growth_chart import draw
from benchmarks.harness import machine
from benchmarks.setting import SIZES, Size, make_baseline, make_product, move
from omnimol_hf import OmniMolConfig, OmniMolForCausalLM, OmniMolProcessor
from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters
from omnimol_hf.analysis.efficiency import extra_memory
from omnimol_hf.chemistry_omnimol import selfies_to_smiles
from omnimol_hf.collation import TrainingCollator, encode_rows
from omnimol_hf.from_scratch import new_processor
from omnimol_hf.moe_omnimol import AnchorReconcileMoE
from omnimol_hf.sampling import MixtureSampler
from omnimol_hf.tasks import ALL_TASKS

RESULTS = Path(__file__).parent / "results"
Pair = dict[str, Callable[[], Any]]
"""What is done once: of `"product"`, and of `"baseline"` if it has it."""


@dataclass
class Growth:
    """One number that grows.

    Args:
        name, axis: the panel's title and what grows.
        points: its values, rising.
        expected: how the product's cost should grow, in words.
        make: a value -> the work of both sides.
        memory: whether the peak is measured too.
    """

    name: str
    axis: str
    points: Sequence[int]
    expected: str
    make: Callable[[int], Pair]
    memory: bool = False


# --- what grows ------------------------------------------------------------------------------------------------------


def made_up_rows(count: int, atoms: int = 24) -> list[dict[str, Any]]:
    """Rows with different molecules of so many atoms."""
    draw = random.Random(0)
    molecules = ["".join(draw.choices(["[C]", "[N]", "[O]"], k=atoms)) for _ in range(count)]
    row = {"task": "molecular_weight", "instruction": "What is its weight?", "output": "312.4 g/mol", "subset": ""}
    return [row | {"input": one, "graph_smiles": [selfies_to_smiles(one)]} for one in molecules]


def _text_batch(length: int, labelled: int, vocabulary: int, device: str) -> dict[str, torch.Tensor]:
    ids = torch.randint(300, vocabulary, (1, length), generator=torch.Generator().manual_seed(length))
    labels = ids.clone()
    labels[:, : length - labelled] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {name: value.to(device) for name, value in batch.items()}


def _gradients(product: Any, baseline: BaselineModel, batch: dict[str, torch.Tensor]) -> Pair:
    """Forward and backward of both sides on a batch of text."""

    def run(model: Any, **more: Any) -> None:
        model.zero_grad()
        model(**batch, **more).loss.backward()

    graphs = [None] * len(batch["input_ids"])
    return {"product": lambda: run(product), "baseline": lambda: run(baseline, graphs=graphs)}


def sequence_length(size: Size, processor: OmniMolProcessor, device: str) -> Growth:
    """One sequence, a quarter of it labelled."""
    product = make_product(processor, size, 0.0)
    baseline = make_baseline(product, 0.0)
    product.to(device), baseline.to(device)

    def make(length: int) -> Pair:
        return _gradients(product, baseline, _text_batch(length, length // 4, size.vocab_size, device))

    expected = "linear, and quadratic in attention"
    return Growth("training step", "sequence length", (128, 256, 512, 1024, 2048), expected, make, memory=True)


def experts(size: Size, device: str) -> Growth:
    """A MoE layer whose tokens go to 2 of N experts and the anchor."""
    inputs = torch.randn(4, 128, size.text["hidden_size"], device=device, requires_grad=True)

    def make(number: int) -> Pair:
        text = size.text | {"model_type": "llama", "vocab_size": 1024}
        config = OmniMolConfig(
            text_config=text, graph_token_id=2, num_experts=number, expert_rank=size.rank, expert_dropout=0.0
        )
        torch.manual_seed(0)
        moe = AnchorReconcileMoE(config)
        moe.base.requires_grad_(False)
        moe.router.reset_parameters()
        moe.experts.reset_parameters()
        move(moe)
        layers = {"product": moe.to(device).train(), "baseline": MaskedMoE(moe).to(device).train()}
        return {name: lambda layer=layer: layer(inputs).sum().backward() for name, layer in layers.items()}

    return Growth("MoE layer", "routed experts, 2 a token", (2, 4, 8, 16), "flat", make)


def molecules_encoded(size: Size, processor: OmniMolProcessor, device: str) -> Growth:
    """The graph encoder and projector."""
    rows = made_up_rows(64)
    product = make_product(processor, size, 0.0).to(device)
    baseline = make_baseline(product, 0.0)
    encoded = encode_rows(Dataset.from_list(rows), processor)[0]
    graphs = [one["graph"] for one in BaselineRows(rows, processor.tokenizer)]
    graphs = [tuple(part.to(device) for part in graph) for graph in graphs]
    collator = TrainingCollator(processor.tokenizer.pad_token_id)
    model = product.get_base_model().model

    def make(count: int) -> Pair:
        batch = collator(encoded.__getitems__(list(range(count))))
        graph = [batch[name].to(device) for name in ("atom_features", "bond_index", "bond_features")]
        return {
            "product": lambda: model.get_graph_features(*graph),
            "baseline": lambda: [baseline.encode(one) for one in graphs[:count]],
        }

    return Growth("graph encoder", "molecules a batch", (1, 2, 4, 8, 16, 32, 64), "linear", make)


def molecules_collated(processor: OmniMolProcessor) -> Growth:
    """Rows to a batch: kept from before, and prepared at each access."""
    rows = made_up_rows(64)
    encoded = encode_rows(Dataset.from_list(rows), processor)[0]
    raw = BaselineRows(rows, processor.tokenizer)
    pad = processor.tokenizer.pad_token_id
    ours, theirs = TrainingCollator(pad), BaselineCollator(pad)

    def make(count: int) -> Pair:
        numbers = list(range(count))
        return {
            "product": lambda: ours(encoded.__getitems__(numbers)),
            "baseline": lambda: theirs([raw[i] for i in numbers]),
        }

    return Growth("rows to a batch", "molecules a batch", (1, 2, 4, 8, 16, 32, 64), "linear", make)


def _one_layer(size: Size, vocabulary: int, device: str) -> tuple[Any, BaselineModel]:
    """Both sides with one dense layer, so that little but the head and the loss is left."""
    text = size.text | {"model_type": "llama", "vocab_size": vocabulary, "num_hidden_layers": 1}
    torch.manual_seed(0)
    model = OmniMolForCausalLM(OmniMolConfig(text_config=text, graph_token_id=2, moe_layers=[]))
    product = add_adapters(model, AdaptiveLoraConfig(r=size.rank, lora_dropout=0.0)).train()
    return product.to(device), BaselineModel(product).to(device).train()


def vocabulary(size: Size, device: str) -> Growth:
    """512 tokens of which 64 are labelled."""

    def make(tokens: int) -> Pair:
        return _gradients(*_one_layer(size, tokens, device), _text_batch(512, 64, tokens, device))

    points = (1024, 4096, 16_384, 65_536, 131_072)
    return Growth("one layer, head and loss", "vocabulary", points, "linear in what is labelled", make, memory=True)


def labelled_positions(size: Size, device: str) -> Growth:
    """512 tokens, a vocabulary of 32k."""
    models = _one_layer(size, 32_768, device)

    def make(labelled: int) -> Pair:
        return _gradients(*models, _text_batch(512, labelled, 32_768, device))

    return Growth("one layer, head and loss", "labelled positions of 512", (16, 64, 256, 512), "linear", make)


def dataset_rows() -> Growth:
    """The order of an epoch; nothing of the kind is in the baseline, which shuffles."""

    def make(count: int) -> Pair:
        draw = np.random.default_rng(0)
        tasks = np.array(list(ALL_TASKS))[draw.integers(len(ALL_TASKS), size=count)].tolist()
        lengths = draw.integers(50, 500, size=count).tolist()
        return {"product": lambda: list(MixtureSampler(tasks, lengths, 8))}

    return Growth("order of an epoch", "rows of the dataset", (1000, 10_000, 100_000, 1_000_000), "linear", make)


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(growth: Growth, device: str, rounds: int) -> list[dict[str, Any]]:
    """The least of several alternating rounds at each point, and the peak of memory; one result each."""
    times: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    for point in growth.points:
        pair = growth.make(point)
        for work in pair.values():
            work()
        least = dict.fromkeys(pair, float("inf"))
        for _ in range(rounds):
            for name, work in pair.items():
                least[name] = min(least[name], _repeated(work, device))
        for name, work in pair.items():
            times.setdefault(name, []).append(least[name])
            if growth.memory and (peak := _peak(work, device)):
                peaks.setdefault(name, []).append(peak)
    about = {"name": growth.name, "axis": growth.axis, "points": list(growth.points), "expected": growth.expected}
    results = [about | {"unit": "seconds", "lines": times}]
    if peaks and all(len(line) == len(growth.points) for line in peaks.values()):
        results.append(about | {"unit": "peak bytes", "lines": peaks})
    for result in results:
        result["exponents"] = {name: exponents(growth.points, line) for name, line in result["lines"].items()}
    return results


def _repeated(work: Callable[[], Any], device: str, at_least: float = 0.02) -> float:
    """Seconds of one go; short work is done several times in a row."""
    once = seconds(work, device)
    repeats = round(at_least / max(once, 1e-5))
    if repeats < 2:
        return once

    def several() -> None:
        for _ in range(repeats):
            work()

    return seconds(several, device) / repeats


def _peak(work: Callable[[], Any], device: str) -> int | None:
    if device == "cpu" and sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # or freed memory that is still held would not count
    with extra_memory(torch.device(device)) as extra:
        work()
    return extra()


def exponents(points: Sequence[int], values: Sequence[float]) -> dict[str, float]:
    """The slope of a log-log line through all points, and through the second half, where constants matter less."""
    x, y = np.log(points), np.log(values)
    half = len(points) // 2
    return {"all": float(np.polyfit(x, y, 1)[0]), "second_half": float(np.polyfit(x[half:], y[half:], 1)[0])}


def line(result: dict[str, Any]) -> str:
    """A result in one line."""
    found = "; ".join(
        f"{name} {slope['all']:.2f}, second half {slope['second_half']:.2f}"
        for name, slope in result["exponents"].items()
    )
    return (
        f"{result['name']} over {result['axis']}, {result['unit']}: exponent {found} (expected: {result['expected']})"
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="quickstart")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args(arguments)
    size, device = SIZES[options.size], options.device
    processor = new_processor(made_up_rows(200), 320)
    results = []
    for growth in (
        sequence_length(size, processor, device),
        experts(size, device),
        vocabulary(size, device),
        labelled_positions(size, device),
        molecules_encoded(size, processor, device),
        molecules_collated(processor),
        dataset_rows(),
    ):
        for result in measure(growth, device, options.rounds):
            print(line(result), flush=True)
            results.append(result)
    about = {"size": options.size, "device": device, "clock": clock_name(device), "machine": machine()}
    path = options.results / f"growth_{options.size}{'' if device == 'cpu' else '_gpu'}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | {"results": results}, indent=1) + "\n")
    draw(results, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
