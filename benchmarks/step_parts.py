"""Where the time of a training step goes: PyTorch's profiler, every operation given to a part of the model.

Forward operations belong to the innermost scope that was entered when they ran. Backward ones belong to the scope of
the forward operation whose gradient they work out: the two share a sequence number. What a step does between its
operations belongs to the scope that it is in, so the parts add up to the step exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaMLP, LlamaModel

from benchmarks.baseline_model import BaselineModel, Expert, LoraLinear, MaskedMoE
from omnimol_hf.adapters import AdaptiveLinear
from omnimol_hf.graph_encoder_omnimol import OmniMolGraphEncoder
from omnimol_hf.moe_omnimol import AnchorReconcileMoE, OmniMolRouter

PARTS = (
    "data",
    "graph encoder",
    "embeddings",
    "attention",
    "adapters",
    "dense FFN",
    "router and dispatch",
    "experts",
    "norms, residuals",
    "head and loss",
    "clipping",
    "optimizer",
    "rest",
)
"""`adapters`: of attention and dense layers. `head and loss`: the balance loss too. The product's dispatch of tokens
is part of its `experts`. `rest`: what autograd does between the parts."""

# What useful FLOPs are for -> the part of the step that spends them.
PART_OF = {
    "attention projections": "attention",
    "attention scores": "attention",
    "adapters": "adapters",
    "dense FFN": "dense FFN",
    "shared FFN": "experts",
    "low-rank experts": "experts",
    "router": "router and dispatch",
    "graph encoder": "graph encoder",
    "projector": "graph encoder",
    "head": "head and loss",
}

_SCOPE, _STEP = "part: ", "whole step"
_BACKWARD = "autograd::engine::evaluate_function"
Target = tuple[Any, str, str]


def scope(part: str) -> record_function:
    """A context whose operations belong to a part."""
    return record_function(_SCOPE + part)


def _wrapped(function: Callable[..., Any], part: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with scope(part):
            return function(*args, **kwargs)

    return run


@contextmanager
def scopes(targets: Sequence[Target]) -> Iterator[None]:
    """Inside, each `(object, name of a method, part)` runs in the scope of its part."""
    before = [vars(owner).get(name) for owner, name, _ in targets]
    for owner, name, part in targets:
        setattr(owner, name, _wrapped(getattr(owner, name), part))
    try:
        yield
    finally:
        for (owner, name, _), own in zip(targets, before, strict=True):
            if own is None:  # it is the class's
                delattr(owner, name)
            else:
                setattr(owner, name, own)


_KINDS = {
    LlamaAttention: "attention",
    LlamaMLP: "dense FFN",
    LlamaDecoderLayer: "norms, residuals",
    AnchorReconcileMoE: "experts",
    OmniMolRouter: "router and dispatch",
    OmniMolGraphEncoder: "graph encoder",
    MaskedMoE: "router and dispatch",
}


def _layer_targets(model: nn.Module) -> list[Target]:
    """Modules that both sides have in some form; a frozen layer under an adapter is no part of the adapter."""
    targets = [(module, "forward", _KINDS[type(module)]) for module in model.modules() if type(module) in _KINDS]
    targets += [
        (module, "forward", "norms, residuals") for module in model.modules() if isinstance(module, LlamaModel)
    ]
    for layer in (module for module in model.modules() if isinstance(module, LlamaDecoderLayer)):
        for block, part in ((layer.self_attn, "attention"), (layer.mlp, "dense FFN")):
            for module in block.children():
                if isinstance(module, AdaptiveLinear | LoraLinear):
                    frozen = module.base_layer if isinstance(module, AdaptiveLinear) else module.base
                    targets += [(module, "forward", "adapters"), (frozen, "forward", part)]
        if isinstance(layer.mlp, AnchorReconcileMoE):
            targets.append((layer.mlp.base, "forward", "experts"))
        elif isinstance(layer.mlp, Expert):
            targets.append((layer.mlp, "forward", "dense FFN"))
        elif isinstance(layer.mlp, MaskedMoE):
            targets += [(one, "forward", "experts") for one in (*layer.mlp.experts, layer.mlp.anchor)]
    unique = {(id(owner), name): (owner, name, part) for owner, name, part in targets}
    return list(unique.values())


def product_targets(product: PeftModel) -> list[Target]:
    """The parts of the product."""
    source = product.get_base_model()
    own = [(source, "forward", "head and loss"), (source.model, "embed", "embeddings")]
    return [*_layer_targets(source), *own, (source.model, "get_graph_features", "graph encoder")]


def baseline_targets(baseline: BaselineModel) -> list[Target]:
    """The parts of the baseline."""
    own = [(baseline, "forward", "head and loss"), (baseline, "merge", "embeddings")]
    return [*_layer_targets(baseline), *own, (baseline, "encode", "graph encoder")]


def optimizer_targets(optimizer: torch.optim.Optimizer) -> list[Target]:
    """What follows the gradients."""
    return [(optimizer, name, "optimizer") for name in ("step", "zero_grad")] + [
        (torch.nn.utils, "clip_grad_norm_", "clipping")
    ]


def profiled(work: Callable[[], Any], targets: Sequence[Target], device: str) -> dict[str, tuple[float, float]]:
    """Run `work` under the profiler.

    Returns:
        Seconds of each of `PARTS`, forward (with everything that is no gradient) and backward. On a GPU those of its
        kernels, and what is left of the wall time, in which it waits, is `rest`.
    """
    gpu = device != "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler, scopes(targets), record_function(_STEP):
        work()
        if gpu:
            torch.cuda.synchronize()
    return attribute(profiler.events(), gpu)


def attribute(events: Sequence[Any], gpu: bool = False) -> dict[str, tuple[float, float]]:
    """Give the time of the profiler's events to parts; see `profiled`."""
    seconds: dict[tuple[str, bool], float] = defaultdict(float)
    whole = 0.0
    for event, part, is_gradient in owners(events):
        if event.name == _STEP:
            whole += event.cpu_time_total / 1e6
        seconds[part, is_gradient] += (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e6
    if gpu:
        seconds["rest", False] += max(0.0, whole - sum(seconds.values()))
    return {part: (seconds[part, False], seconds[part, True]) for part in PARTS}


def owners(events: Sequence[Any]) -> Iterator[tuple[Any, str, bool]]:
    """Each event of the step, its part, and whether it works out a gradient."""
    of_sequence: dict[int, str] = {}
    on_cpu = [event for event in events if event.device_type == DeviceType.CPU]
    for event in sorted(on_cpu, key=lambda event: (event.time_range.start, -event.time_range.end)):
        around = _around(event)
        if around is None:  # before or after the step
            continue
        is_gradient = around.name.startswith(_BACKWARD)
        if around.name.startswith(_SCOPE):
            part = around.name.removeprefix(_SCOPE)
        else:
            part = of_sequence.get(around.sequence_nr, "rest") if is_gradient else "rest"
        if not is_gradient and event.sequence_nr >= 0:
            # Operations without a gradient share their number with the next one that has it, which comes last.
            of_sequence[event.sequence_nr] = part
        yield event, part, is_gradient


def _around(event: Any) -> Any:
    """What says where an event belongs: the innermost scope or gradient around it, or the whole step."""
    while event is not None and not event.name.startswith((_SCOPE, _BACKWARD, _STEP)):
        event = event.cpu_parent
    return event


def part_floors(flops: dict[str, tuple[float, float]], rate: float) -> dict[str, float]:
    """Seconds that each part's useful FLOPs (`benchmarks.flops`) take at a rate."""
    floors = dict.fromkeys(PARTS, 0.0)
    for name, both in flops.items():
        floors[PART_OF[name]] += sum(both) / rate
    return floors
