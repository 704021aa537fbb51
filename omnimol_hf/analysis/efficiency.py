"""What an answer costs: latency, speed, memory, floating-point operations and parameters (Appendix G, Figure 11)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import StoppingCriteria, StoppingCriteriaList

from omnimol_hf.analysis.style import INK, SERIES, new_figure, save_figure, tidy
from omnimol_hf.modeling_omnimol import OmniMolForCausalLM
from omnimol_hf.moe_omnimol import AnchorReconcileMoE
from omnimol_hf.processing_omnimol import OmniMolProcessor

# Metric -> how its bars are called, and what its numbers are divided by there.
METRICS = {
    "first_token_seconds": ("latency to the first token (ms)", 1e-3),
    "tokens_per_second@1": ("tokens a second, batch 1", 1.0),
    "tokens_per_second@32": ("tokens a second, batch 32", 1.0),
    "peak_memory_bytes": ("peak memory, batch 32 (MB)", 1e6),
    "prompt_flops": ("GFLOPs of the prompt", 1e9),
    "flops_per_new_token": ("MFLOPs a new token", 1e6),
    "parameters": ("parameters (M)", 1e6),
    "active_parameters": ("parameters active for a token (M)", 1e6),
}
LARGE_BATCH = 32


# --- parameters ------------------------------------------------------------------------------------------------------


def parameter_counts(model: OmniMolForCausalLM) -> tuple[int, int]:
    """All weights, and those active for one token: all but the routed experts that it is not sent to."""
    frozen = model.model.graph_encoder.buffers()  # the graph encoder has no parameters, for nothing in it trains
    total = sum(weight.numel() for weight in (*model.parameters(), *frozen))
    idle = 0.0
    for module in model.modules():
        if isinstance(module, AnchorReconcileMoE):
            config = model.config
            share = (config.num_experts - config.num_experts_per_tok) / config.experts_per_layer
            idle += share * sum(parameter.numel() for parameter in module.experts.parameters())
    return total, total - round(idle)


# --- time ------------------------------------------------------------------------------------------------------------


class _Clock(StoppingCriteria):
    """Stops nothing; notes when each new token is there."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        _wait(input_ids.device)
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _generate(model: OmniMolForCausalLM, inputs: Mapping[str, Tensor], new_tokens: int, **kwargs: Any) -> None:
    """Exactly so many tokens a row, greedily."""
    length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    with torch.inference_mode():
        model.generate(**inputs, do_sample=False, use_cache=True, **length, **kwargs)


def generation_times(model: OmniMolForCausalLM, inputs: Mapping[str, Tensor], new_tokens: int) -> tuple[float, float]:
    """Seconds to the first new token, and new tokens a second after it over all rows."""
    clock = _Clock()
    _wait(model.device)
    start = time.perf_counter()
    _generate(model, inputs, new_tokens, stopping_criteria=StoppingCriteriaList([clock]))
    decoding = clock.times[-1] - clock.times[0]
    return clock.times[0] - start, len(inputs["input_ids"]) * (new_tokens - 1) / decoding


# --- memory ----------------------------------------------------------------------------------------------------------


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"the kernel does not tell {name}")


@contextmanager
def extra_memory(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """How many bytes more than at its start a block of code holds at its peak.

    On CUDA it is what PyTorch allocates. On a CPU it is the process's resident memory, which the kernel counts: None
    where the peak cannot be reset (outside Linux), and too low where the block gets memory that was freed but is
    still held.
    """
    peak: int | None = None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: peak
        peak = torch.cuda.max_memory_allocated(device) - before
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except OSError:
        yield lambda: None
        return
    yield lambda: peak
    peak = max(0, _status("VmHWM") - before)


# --- floating-point operations ---------------------------------------------------------------------------------------


def flops(model: OmniMolForCausalLM, inputs: Mapping[str, Tensor], new_tokens: int) -> tuple[int, float]:
    """Operations of the prompt (with the first token), and of each new token after it, by PyTorch's counter.

    A multiplication and an addition are two; attention counts in full, masked or not. Fused attention kernels of the
    CPU are unknown to the counter, so attention is computed the plain way meanwhile.
    """
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")
    counts = []
    try:
        for length in (1, new_tokens):
            with FlopCounterMode(display=False) as counter:
                _generate(model, inputs, length)
            counts.append(counter.get_total_flops())
    finally:
        model.set_attn_implementation(attention)
    return counts[0], (counts[1] - counts[0]) / (new_tokens - 1)


# --- several models --------------------------------------------------------------------------------------------------


def _inputs(
    model: OmniMolForCausalLM, processor: OmniMolProcessor, rows: Sequence[Mapping[str, Any]], batch_size: int
) -> Mapping[str, Tensor]:
    """A batch of so many prompts, the rows repeated as often as it takes."""
    return processor.apply_chat_template(
        [processor.row_messages(dict(rows[i % len(rows)]), with_answer=False) for i in range(batch_size)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device)


def _round(
    model: OmniMolForCausalLM, one: Mapping[str, Tensor], many: Mapping[str, Tensor], new_tokens: int
) -> dict[str, float | None]:
    """What changes from round to round."""
    first, speed = generation_times(model, one, new_tokens)
    weights = sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
    with extra_memory(model.device) as extra:
        _, batch_speed = generation_times(model, many, new_tokens)
    return {
        "first_token_seconds": first,
        "tokens_per_second@1": speed,
        f"tokens_per_second@{LARGE_BATCH}": batch_speed,
        "peak_memory_bytes": None if extra() is None else weights + extra(),
    }


def profile_models(
    models: Mapping[str, tuple[OmniMolForCausalLM, OmniMolProcessor]],
    rows: Sequence[Mapping[str, Any]],
    new_tokens: int = 64,
    rounds: int = 5,
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure several models in turns, so that what else the machine does meets all of them alike.

    Args:
        models: name -> model on its device, in eval mode, and processor.
        rows: dataset rows; batch 1 takes the first one's prompt, batch 32 all of them, repeated.
        new_tokens: of every answer; no model may end before.
        rounds: measured ones, after one that warms up.

    Returns:
        model -> metric of `METRICS` -> `value` (the median over rounds), `low` and `high` (the least and the most).
        Peak memory is weights and what comes on top with batch 32; it is left out where it cannot be measured.

    Raises:
        ValueError: without rows, or for fewer than two new tokens.
    """
    if not rows or new_tokens < 2:
        raise ValueError(f"a profile needs rows and at least 2 new tokens, got {len(rows)} rows and {new_tokens}")
    batches = {
        name: (_inputs(model, processor, rows, 1), _inputs(model, processor, rows, LARGE_BATCH))
        for name, (model, processor) in models.items()
    }
    measured: dict[str, list[dict[str, float | None]]] = {name: [] for name in models}
    for number in range(rounds + 1):
        for name, (model, _) in models.items():
            result = _round(model, *batches[name], new_tokens)
            if number > 0:
                measured[name].append(result)
    profiles = {}
    for name, (model, _) in models.items():
        prompt, token = flops(model, batches[name][0], new_tokens)
        total, active = parameter_counts(model)
        fixed = {
            "prompt_flops": prompt,
            "flops_per_new_token": token,
            "parameters": total,
            "active_parameters": active,
            "prompt_tokens": batches[name][0]["input_ids"].shape[1],
        }
        by_metric = {metric: [one[metric] for one in measured[name]] for metric in measured[name][0]}
        by_metric |= {metric: [value] for metric, value in fixed.items()}
        profiles[name] = {
            metric: {"value": float(np.median(values)), "low": min(values), "high": max(values)}
            for metric, values in by_metric.items()
            if None not in values
        }
    return profiles


def plot_profiles(profiles: Mapping[str, Mapping[str, Mapping[str, float]]], path: str | Path) -> None:
    """Draws a panel a metric with a bar a model and the range over rounds, as a PNG.

    Args:
        profiles: what `profile_models` returns.
    """
    shown = [metric for metric in METRICS if all(metric in profile for profile in profiles.values())]
    columns = 4
    figure = new_figure(13.0, 0.55 * len(profiles) * -(-len(shown) // columns) + 2.0)
    grid = figure.subplots(-(-len(shown) // columns), columns, squeeze=False, sharey=True).ravel()
    for axes, metric in zip(grid, shown, strict=False):
        title, unit = METRICS[metric]
        for place, (profile, color) in enumerate(zip(profiles.values(), SERIES * len(profiles), strict=False)):
            value, low, high = (profile[metric][key] / unit for key in ("value", "low", "high"))
            axes.barh(place, value, 0.7, color=color, xerr=[[value - low], [high - value]], error_kw={"ecolor": INK})
            axes.text(high, place, f"  {value:.4g}", va="center", fontsize=8.5, color=INK)
        axes.set_title(title, fontsize=9.5, color=INK, loc="left")
        axes.set_yticks(range(len(profiles)), list(profiles))
        axes.margins(x=0.3)
        tidy(axes, "x")
    grid[0].invert_yaxis()
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    save_figure(figure, path)
