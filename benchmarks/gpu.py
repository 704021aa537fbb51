"""One GPU at Llama-3.2-1B's geometry: `python -m benchmarks.gpu --out DIR` (`--device cpu --tiny` tries it out).

Random weights. Rows are made up with the lengths of the real mixture unless `--dataset` names real ones. First the
results of product and baseline are compared in fp32 and bf16, then they are timed: training (tokens/s, MFU, peak
memory), one MoE layer, decoding at several batch sizes. MFU counts useful FLOPs alone (`benchmarks.flops`).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import is_flash_attn_2_available

from benchmarks.baseline_model import BaselineModel, MaskedMoE
from benchmarks.clock import seconds
from benchmarks.flops import Work, decode_flops, matmul_rate, total, useful_flops
from benchmarks.gpu_report import report
from benchmarks.gpu_rows import baseline_batches, made_up_encoded, product_batches
from benchmarks.growth import made_up_rows
from benchmarks.harness import machine
from benchmarks.setting import (
    Setting,
    move,
    moved,
    new_optimizer,
    product_loss,
    set_dropout,
    train_step,
    training_errors,
)
from benchmarks.step_parts import baseline_targets, optimizer_targets, part_floors, product_targets, profiled
from omnimol_hf import OmniMolConfig, OmniMolForCausalLM, OmniMolProcessor
from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters
from omnimol_hf.from_scratch import new_processor
from omnimol_hf.generation import generate_answers
from omnimol_hf.moe_omnimol import AnchorReconcileMoE
from omnimol_hf.packing import prepare_attention

# Dense bf16 FLOPs a second by NVIDIA's data sheets, by a piece of the device's name.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    text: dict[str, Any]
    rank: int
    rows: int
    batch: int
    epochs: int
    moe_tokens: tuple[int, int]
    decode_batches: tuple[int, ...]
    new_tokens: tuple[int, int]


FULL = Plan(
    {}, 64, rows=1024, batch=32, epochs=3, moe_tokens=(8, 1024), decode_batches=(1, 32, 256), new_tokens=(16, 144)
)
_TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
_TINY |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 1024, "model_type": "llama"}
_TINY |= {"bos_token_id": 0, "eos_token_id": 6, "tie_word_embeddings": True}
TINY = Plan(_TINY, 4, rows=32, batch=4, epochs=1, moe_tokens=(2, 32), decode_batches=(1, 4), new_tokens=(2, 6))


# --- models ----------------------------------------------------------------------------------------------------------


def make_product(plan: Plan, processor: OmniMolProcessor, dtype: torch.dtype) -> nn.Module:
    """The product with stage 2's adapters, everything that trains in fp32 and away from its start."""
    torch.manual_seed(0)
    config = OmniMolConfig(
        **({"text_config": plan.text} if plan.text else {}),
        graph_token_id=processor.graph_token_id,
        expert_rank=plan.rank,
    )
    model = OmniMolForCausalLM(config).to(dtype)
    adapted = add_adapters(model, AdaptiveLoraConfig(r=plan.rank))
    move(adapted)
    return adapted.train()


class Bench:
    """One device, the two models in bf16, and batches of the same rows for each."""

    def __init__(self, plan: Plan, device: str, dataset: str | None) -> None:
        self.plan, self.device = plan, device
        self.processor = new_processor(made_up_rows(200), 400)
        if dataset is not None:
            setting = Setting(dataset, "mid", device)
            self.processor, rows = setting.processor, list(setting.encoded())[: plan.rows]
        self.pad = self.processor.tokenizer.pad_token_id
        self.product = make_product(plan, self.processor, torch.bfloat16).to(device)
        self.config = self.product.get_base_model().config
        if dataset is None:
            rows = made_up_encoded(plan.rows, self.config)
        self.rows = rows
        self.baseline = BaselineModel(self.product).to(device).train()
        set_dropout(self.baseline, 0.05)
        self.counted = product_batches(rows, plan.batch, self.pad)
        # Without a varlen kernel a GPU would mask the products between a pack's rows: then batches are padded.
        self.packed = device == "cpu" or is_flash_attn_2_available()
        if device != "cpu" and self.packed:
            self.product.get_base_model().set_attn_implementation("flash_attention_2")
        if self.packed:
            prepare_attention(self.product.get_base_model())
        self.own = [moved(batch, device) for batch in product_batches(rows, plan.batch, self.pad, self.packed)]
        graph_token = self.config.graph_token_id
        self.other = [moved(batch, device) for batch in baseline_batches(rows, plan.batch, self.pad, graph_token)]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16)

    def product_loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with self.autocast():
            return product_loss(self.product, batch)

    def baseline_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        with self.autocast():
            return self.baseline(**batch).loss


# --- results are right -----------------------------------------------------------------------------------------------


def correctness(bench: Bench) -> dict[str, Any]:
    """Loss and gradients of both in fp32 without TF32, and how far bf16 takes each side's loss from that."""
    plan, few = bench.plan, bench.rows[:4]
    batch = moved(product_batches(few, 4, bench.pad)[0], bench.device)
    own = moved(product_batches(few, 4, bench.pad, bench.packed)[0], bench.device)
    other = moved(baseline_batches(few, 4, bench.pad, bench.config.graph_token_id)[0], bench.device)
    for model in (bench.product, bench.baseline):
        model.eval()
    with torch.no_grad():
        halves = {"product": bench.product_loss(own).item(), "baseline": bench.baseline_loss(other).item()}
    for model in (bench.product, bench.baseline):
        model.train()
    product = make_product(plan, bench.processor, torch.float32).to(bench.device)
    baseline = BaselineModel(product).to(bench.device).train()
    errors = {"fp32": training_errors(product, baseline, batch, other)}
    product.eval()
    with torch.no_grad():
        whole = product_loss(product, batch).item()
    return errors | {f"bf16_loss_{name}": abs(value - whole) / abs(whole) for name, value in halves.items()}


# --- what is timed ---------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any], device: str, times: int) -> float:
    """Seconds of one go of several in a row, by CUDA events, after one that warms up."""
    work()
    if device == "cpu":
        return seconds(lambda: [work() for _ in range(times)], device) / times
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(times):
        work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / times


def training(bench: Bench, rate: float) -> dict[str, Any]:
    """Both sides over the same rows; the optimizer included, the data path not."""
    peak = next((value for name, value in PEAKS.items() if name in _device_name(bench.device)), None)
    work = reduce(add, (Work.of(batch) for batch in bench.counted))
    useful = useful_flops(bench.config, bench.plan.rank, work)
    flops = total(useful)
    sides = {
        "product": (bench.product, bench.own, bench.product_loss, product_targets),
        "baseline": (bench.baseline, bench.other, bench.baseline_loss, baseline_targets),
    }
    weights = {name: _bytes(model) for name, (model, *_) in sides.items()}
    result: dict[str, Any] = {"work": work.as_tuple(), "useful_flops": flops, "peak_by_data_sheet": peak}
    result["packed"] = bench.packed
    for name, (model, batches, loss, targets) in sides.items():
        optimizer = new_optimizer(model, fused=name == "product")

        def epoch(model: Any = model, optimizer: Any = optimizer, loss: Any = loss, batches: Any = batches) -> None:
            for batch in batches:
                train_step(model, loss(batch), optimizer)

        if bench.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        spent = timed(epoch, bench.device, bench.plan.epochs)
        held = (
            torch.cuda.max_memory_allocated() - sum(weights.values()) + weights[name]
            if bench.device != "cpu"
            else None
        )
        parts = profiled(epoch, [*targets(model), *optimizer_targets(optimizer)], bench.device)
        whole = sum(map(sum, parts.values()))
        result[name] = {
            "tokens_per_second": work.tokens / spent,
            "rows_per_second": len(bench.rows) / spent,
            "share_of_matmul_rate": flops / spent / rate,
            "mfu": None if peak is None else flops / spent / peak,
            "peak_bytes": held,
            "parts": {part: [one / whole for one in both] for part, both in parts.items()},
        }
        if name == "product":
            result["useful_shares"] = {part: one / spent for part, one in part_floors(useful, rate).items()}
    return result | {"ratio": result["product"]["tokens_per_second"] / result["baseline"]["tokens_per_second"]}


def moe_layer(bench: Bench) -> dict[str, Any]:
    """Forward and backward of one MoE layer with 5 routed experts."""
    config = OmniMolConfig(
        **({"text_config": bench.plan.text} if bench.plan.text else {}),
        graph_token_id=bench.config.graph_token_id,
        num_experts=5,
        expert_rank=bench.plan.rank,
    )
    torch.manual_seed(0)
    moe = AnchorReconcileMoE(config)
    moe.base.requires_grad_(False).to(torch.bfloat16)  # what trains stays in fp32
    moe.router.reset_parameters()
    moe.experts.reset_parameters()
    move(moe)
    baseline = MaskedMoE(moe)
    set_dropout(baseline, 0.05)
    layers = {"product": moe.to(bench.device).train(), "baseline": baseline.to(bench.device).train()}
    inputs = torch.randn(*bench.plan.moe_tokens, config.text_config.hidden_size, device=bench.device)
    inputs = inputs.to(torch.bfloat16).requires_grad_()
    tokens = math.prod(bench.plan.moe_tokens)
    result = {}
    for name, layer in layers.items():

        def step(layer: nn.Module = layer) -> None:
            with bench.autocast():
                output = layer(inputs)
            output.float().sum().backward()

        result[name] = {"tokens_per_second": tokens / timed(step, bench.device, 5 * bench.plan.epochs)}
    return result | {"ratio": result["product"]["tokens_per_second"] / result["baseline"]["tokens_per_second"]}


def _bytes(model: nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in (*model.parameters(), *model.buffers()))


def _memory_rate(device: str) -> float:
    """Bytes a second that the memory delivers: those read and written by a copy."""
    size = 1 << (30 if device != "cpu" else 26)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / timed(lambda: target.copy_(source), device, 5)


def decoding(bench: Bench, rate: float) -> dict[str, Any]:
    """New tokens a second of the merged model, from two lengths of answers, so that prompts do not count.

    The bound is the roofline's: each step reads all weights and the cache once, or computes the useful FLOPs.
    """
    model = bench.product.merge_and_unload().to(torch.bfloat16).eval()
    tokenizer = bench.processor.tokenizer
    suppressed = [bench.config.graph_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.update(suppress_tokens=suppressed, eos_token_id=tokenizer.eos_token_id)
    model.generation_config.update(pad_token_id=tokenizer.pad_token_id)
    text = model.config.text_config
    weights = _bytes(model)
    memory = _memory_rate(bench.device)
    short, long = bench.plan.new_tokens
    result: dict[str, Any] = {"weight_bytes": weights, "memory_bytes_per_second": memory, "batches": {}}
    rows = made_up_rows(max(bench.plan.decode_batches))
    question = bench.processor.row_messages(rows[0], with_answer=False)
    prompt = len(bench.processor.apply_chat_template(question, tokenize=True, add_generation_prompt=True))
    for batch in bench.plan.decode_batches:

        def answer(length: int, batch: int = batch) -> None:
            generate_answers(model, bench.processor, rows[:batch], batch, length)

        spent = [timed(lambda length=length: answer(length), bench.device, 1) for length in (short, long)]
        step = (spent[1] - spent[0]) / (long - short)
        seen = prompt + (short + long) // 2
        cache = batch * seen * text.num_hidden_layers * 2 * text.num_key_value_heads * text.head_dim * 2
        bound = max((weights + cache) / memory, batch * decode_flops(model.config, seen) / rate)
        result["batches"][str(batch)] = {
            "tokens_per_second": batch / step,
            "bound_tokens_per_second": batch / bound,
            "share_of_bound": bound / step,
        }
    return result


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device != "cpu" else "CPU"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny geometry, to try the script out")
    parser.add_argument("--dataset", help="rows: a folder that was built, a hub id, or a file; else made up")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu --tiny tries the script out")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    bench = Bench(TINY if options.tiny else FULL, options.device, options.dataset)
    square = 512 if options.tiny else 8192
    rate = matmul_rate((square,) * 3, options.device, torch.bfloat16)
    result = {"device": _device_name(options.device), "tiny": options.tiny, "machine": machine(), "matmul_rate": rate}
    options.out.mkdir(parents=True, exist_ok=True)
    for name, measure in {
        "correctness": lambda: correctness(bench),
        "training": lambda: training(bench, rate),
        "moe_layer": lambda: moe_layer(bench),
        "decoding": lambda: decoding(bench, rate),
    }.items():
        result[name] = measure()
        gc.collect()
        if options.device != "cpu":
            torch.cuda.empty_cache()
        (options.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    report(result, options.out / "gpu.png")


if __name__ == "__main__":
    main()
