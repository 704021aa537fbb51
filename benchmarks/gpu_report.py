"""What was measured on a GPU, as text and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.step_parts import PARTS
from omnimol_hf.analysis.style import BLUE, GREY, INK, ORANGE, new_figure, save_figure, tidy

SIDES = ("baseline", "product")


def report(result: dict[str, Any], path: Path) -> None:
    """Print a result of `benchmarks.gpu` and draw it."""
    print("\n".join(lines(result)))
    draw(result, path)


def lines(result: dict[str, Any]) -> list[str]:
    """The result in words; the last line names the largest gap to the floor."""
    training, moe, decoding = result["training"], result["moe_layer"], result["decoding"]
    right = result["correctness"]
    half = ", ".join(f"{side} {right[f'bf16_loss_{side}']:.1e}" for side in SIDES)
    text = [
        f"{result['device']}{' (tiny geometry: the script was tried out, nothing was measured)' * result['tiny']}",
        f"correctness: fp32 loss {right['fp32']['loss']:.1e}, gradients {right['fp32']['gradient']:.1e}",
        f"loss in bf16 against fp32: {half}",
        f"matmul rate, large square, bf16: {result['matmul_rate'] / 1e12:.1f} TFLOP/s",
    ]
    for side in SIDES:
        one = training[side]
        mfu = "MFU not known" if one["mfu"] is None else f"MFU {one['mfu']:.1%}"
        memory = "" if one["peak_bytes"] is None else f", peak memory {one['peak_bytes'] / 2**30:.1f} GiB"
        text.append(
            f"training, {side}: {one['tokens_per_second']:,.0f} tokens/s, {mfu}, {one['share_of_matmul_rate']:.1%} of "
            f"the matmul rate{memory}"
        )
    text.append(f"ratios, product over baseline: training {training['ratio']:.2f}, MoE layer {moe['ratio']:.2f}")
    for batch, one in decoding["batches"].items():
        text.append(
            f"decoding, batch {batch}: {one['tokens_per_second']:,.0f} tokens/s, {one['share_of_bound']:.1%} of the "
            "roofline's bound"
        )
    parts = training["product"]["parts"]
    largest = max(PARTS, key=lambda part: sum(parts[part]) - training["useful_shares"].get(part, 0.0))
    missing = sum(parts[largest]) - training["useful_shares"].get(largest, 0.0)
    return [*text, f"largest gap in training: {largest}, {missing:.0%} of the step above its useful FLOPs"]


def draw(result: dict[str, Any], path: Path) -> None:
    """Where the time of a training step goes on both sides, and decoding beside the roofline's bound."""
    figure = new_figure(11.0, 5.0)
    step, decoding = figure.subplots(1, 2, width_ratios=[1.6, 1])
    training = result["training"]
    tidy(step, "x")
    for place, part in enumerate(PARTS):
        for side, offset, color in zip(SIDES, (-0.2, 0.2), (GREY, BLUE), strict=True):
            slower = 1.0 if side == "product" else training["ratio"]  # in units of the product's step
            forward, backward = (slower * one for one in training[side]["parts"][part])
            step.barh(place + offset, forward, 0.36, color=color)
            step.barh(place + offset, backward, 0.36, left=forward, color=color, alpha=0.5)
        if useful := training["useful_shares"].get(part):
            step.plot([useful, useful], [place - 0.42, place + 0.42], color=ORANGE, linewidth=2.5)
    step.set_yticks(range(len(PARTS)), PARTS)
    step.set_ylim(len(PARTS) - 0.4, -0.6)
    step.set_xlabel(
        "in steps of the product; blue: product, grey: baseline, pale: backward,\norange: useful FLOPs at "
        "the matmul rate",
        fontsize=9,
    )
    step.set_title(f"A training step, {result['device']}", fontsize=10, loc="left", color=INK)
    tidy(decoding)
    batches = result["decoding"]["batches"]
    places = range(len(batches))
    for name, color, marker in (("bound_tokens_per_second", ORANGE, "--o"), ("tokens_per_second", BLUE, "-o")):
        label = "measured" if color == BLUE else "bound of the roofline"
        decoding.plot(places, [one[name] for one in batches.values()], marker, color=color, label=label)
    decoding.set_yscale("log")
    decoding.set_xticks(places, list(batches))
    decoding.set_xlabel("batch", fontsize=9)
    decoding.set_title("Decoding, tokens/s", fontsize=10, loc="left", color=INK)
    decoding.legend(fontsize=9, frameon=False)
    save_figure(figure, path)
