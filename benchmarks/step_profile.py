"""Where the time of a training step goes, before and after: `python -m benchmarks.step_profile --dataset DIR`.

Baseline ("before") and product ("after") train on the same rows, each in its own batches: shuffled, and grouped by
length. The floor is the useful FLOPs of the step over the machine's measured matmul rate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import clock_name, seconds
from benchmarks.flops import Work, computed_flops, matmul_rate, model_shapes, own_shape_floor, total, useful_flops
from benchmarks.harness import machine
from benchmarks.setting import (
    BATCH,
    SIZES,
    Setting,
    grouped_batches,
    moved,
    new_optimizer,
    product_loss,
    random_batches,
    train_step,
)
from benchmarks.step_parts import (
    PARTS,
    baseline_targets,
    optimizer_targets,
    part_floors,
    product_targets,
    profiled,
    scope,
)
from omnimol_hf.analysis.style import BLUE, GREY, INK, ORANGE, SERIES, new_figure, save_figure, tidy

RESULTS = Path(__file__).parent / "results"
SIDES = ("baseline", "product")


@dataclass
class Side:
    """One side's batches of the same rows, and what a step on one of them is."""

    batches: Sequence[list[int]]
    load: Callable[[list[int]], dict[str, Any]]
    loss: Callable[[dict[str, Any]], torch.Tensor]
    model: Any
    optimizer: torch.optim.Optimizer
    targets: list[Any]

    def train(self) -> None:
        """A step on each batch."""
        for batch in self.batches:
            with scope("data"):
                loaded = self.load(batch)
            train_step(self.model, self.loss(loaded), self.optimizer)


def make_sides(setting: Setting, steps: int) -> tuple[dict[str, Side], Work]:
    """Both sides on the rows of `steps` of the product's batches, short and long ones alike, and the work in them."""
    encoded, raw = setting.encoded(), setting.baseline_rows()
    ours, theirs = setting.collators()
    grouped = grouped_batches(encoded)
    chosen = [grouped[round((i + 0.5) * len(grouped) / steps - 0.5)] for i in range(steps)]
    rows = [row for batch in chosen for row in batch]
    shuffled = [[rows[i] for i in batch] for batch in random_batches(len(rows), torch.Generator().manual_seed(0))]
    product = setting.product()
    baseline = setting.baseline(product)
    optimizers = new_optimizer(product, fused=True), new_optimizer(baseline, fused=False)
    work = reduce(add, (Work.of(ours(encoded.__getitems__(batch))) for batch in chosen))
    sides = {
        "product": Side(
            chosen,
            lambda batch: moved(ours(encoded.__getitems__(batch)), setting.device),
            lambda batch: product_loss(product, batch),
            product,
            optimizers[0],
            [*product_targets(product), *optimizer_targets(optimizers[0])],
        ),
        "baseline": Side(
            shuffled,
            lambda batch: moved(theirs([raw[i] for i in batch]), setting.device),
            lambda batch: baseline(**batch).loss,
            baseline,
            optimizers[1],
            [*baseline_targets(baseline), *optimizer_targets(optimizers[1])],
        ),
    }
    return sides, work


def measure_steps(setting: Setting, steps: int, rounds: int) -> dict[str, Any]:
    """Times of both sides in turns, their parts, and the floor; all seconds are those of one step.

    Of several rounds the least disturbed one counts: the shortest, for the machine's rate of matmuls is also the best.
    The profiler itself costs time; parts are scaled to the step without it.
    """
    sides, work = make_sides(setting, steps)
    config = sides["product"].model.get_base_model().config
    shapes = model_shapes(config, setting.size.rank, Work(*(n // steps for n in work.as_tuple())))
    rates = dict.fromkeys(shapes, 0.0)
    plain: dict[str, list[float]] = {name: [] for name in SIDES}
    parts: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in SIDES}
    computed = {
        name: computed_flops(side.model.get_base_model() if name == "product" else side.model.llama, side.train)
        for name, side in sides.items()
    }  # these steps also warm up
    for _ in range(rounds):
        for name, shape in shapes.items():
            rates[name] = max(rates[name], matmul_rate(shape, setting.device))
        for name, side in sides.items():
            plain[name].append(seconds(side.train, setting.device) / steps)
            parts[name].append(profiled(side.train, side.targets, setting.device))
    flops = {
        name: tuple(n / steps for n in both) for name, both in useful_flops(config, setting.size.rank, work).items()
    }
    floor = total(flops) / rates["large square"]
    result: dict[str, Any] = {
        "size": setting.size_name,
        "device": setting.device,
        "machine": machine(),
        "clock": clock_name(setting.device),
        "rows_a_step": BATCH,
        "steps": steps,
        "rounds": rounds,
        "work_a_step": dict(
            zip(("tokens", "pairs", "labelled", "atoms"), (n / steps for n in work.as_tuple()), strict=True)
        ),
        "useful_flops": flops,
        "matmul_rates": rates,
        "matmul_shapes": shapes,
        "floor_seconds": floor,
        "floor_own_shapes_seconds": own_shape_floor(flops, rates),
    }
    for name in SIDES:
        step = min(plain[name])
        best = min(parts[name], key=lambda one: sum(map(sum, one.values())))
        with_profiler = sum(map(sum, best.values()))
        scale = step / with_profiler
        result[name] = {
            "seconds": step,
            "all_seconds": plain[name],
            "profiled_wall_seconds": with_profiler / steps,
            "parts": {part: [one * scale for one in both] for part, both in best.items()},
            "computed_flops": computed[name] / steps,
            "share_of_floor": floor / step,
            "share_of_floor_own_shapes": result["floor_own_shapes_seconds"] / step,
        }
    return result | {"largest_gap": largest_gap(result)}


def largest_gap(result: dict[str, Any]) -> dict[str, Any]:
    """The part of the product that is furthest above its floor, in seconds and as a share of the step."""
    floors = part_floors(result["useful_flops"], result["matmul_rates"]["large square"])
    parts = result["product"]["parts"]
    part = max(PARTS, key=lambda one: sum(parts[one]) - floors[one])
    gap = sum(parts[part]) - floors[part]
    return {"part": part, "seconds": gap, "share_of_step": gap / result["product"]["seconds"]}


def table(result: dict[str, Any]) -> str:
    """The result as lines of text, milliseconds a step."""
    floors = part_floors(result["useful_flops"], result["matmul_rates"]["large square"])
    lines = [
        f"{'ms a step of ' + str(result['rows_a_step']) + ' rows':28s}{'before':>10s}{'after':>10s}{'floor':>10s}"
    ]
    for part in PARTS:
        times = [1e3 * sum(result[side]["parts"][part]) for side in SIDES]
        lines.append(f"{part:28s}{times[0]:10.2f}{times[1]:10.2f}{1e3 * floors[part]:10.2f}")
    times = [1e3 * result[side]["seconds"] for side in SIDES]
    lines.append(f"{'step':28s}{times[0]:10.2f}{times[1]:10.2f}{1e3 * result['floor_seconds']:10.2f}")
    shares = [100 * result[side]["share_of_floor"] for side in SIDES]
    lines.append(f"{'share of the floor reached':28s}{shares[0]:9.1f}%{shares[1]:9.1f}%")
    own = [100 * result[side]["share_of_floor_own_shapes"] for side in SIDES]
    lines.append(
        f"{'  at the own shapes':28s}{own[0]:9.1f}%{own[1]:9.1f}%{1e3 * result['floor_own_shapes_seconds']:10.2f}"
    )
    useful = total(result["useful_flops"])
    more = [result[side]["computed_flops"] / useful for side in SIDES]
    lines.append(f"{'FLOPs over useful ones':28s}{more[0]:10.2f}{more[1]:10.2f}{useful / 1e9:9.2f} GFLOP")
    gap = result["largest_gap"]
    rates = ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in result["matmul_rates"].items())
    lines.append(f"matmul rates, GFLOP/s: {rates}")
    lines.append(
        f"largest gap: {gap['part']}, {1e3 * gap['seconds']:.1f} ms above its floor, "
        f"{gap['share_of_step']:.0%} of the step"
    )
    return "\n".join(lines)


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw(result: dict[str, Any], path: Path) -> None:
    """Both steps as stacked bars with the floor as a line; below, each part before and after and its own floor."""
    figure = new_figure(9.5, 8.2)
    stack, pairs = figure.subplots(2, 1, height_ratios=[1, 3.2])
    parts = sorted(PARTS, key=lambda part: -sum(result["baseline"]["parts"][part]))
    colors = dict(zip(parts, [*SERIES, *(["#b8bec7", "#9fb8a5", "#c9a9c9", "#cfc08b", "#8fa3bd"])], strict=False))
    tidy(stack, "x")
    whole = 1e3 * max(result[side]["seconds"] for side in SIDES)
    for place, side in enumerate(SIDES):
        left = 0.0
        for part in parts:
            width = 1e3 * sum(result[side]["parts"][part])
            stack.barh(place, width, left=left, color=colors[part], height=0.62, edgecolor="white", linewidth=0.5)
            if width > 0.085 * whole:
                stack.text(
                    left + width / 2,
                    place,
                    part.replace(" and ", "\nand ").replace(", ", ",\n"),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white",
                )
            left += width
        share = result[side]["share_of_floor"]
        stack.text(
            left, place, f"  {_ms(left)} ms: {share:.0%} of the floor reached", va="center", fontsize=9, color=INK
        )
    floor = 1e3 * result["floor_seconds"]
    stack.axvline(floor, color=INK, linewidth=1.5, linestyle="--")
    stack.text(floor, -0.62, f" floor {_ms(floor)} ms", fontsize=9, color=INK, va="center")
    stack.set_yticks(range(2), ["before", "after"])
    stack.set_ylim(1.5, -0.85)
    stack.margins(x=0.33)
    stack.set_title(
        f"One training step of {result['rows_a_step']} rows, {result['size']} size, {result['device'].upper()}",
        loc="left",
        fontsize=11,
        color=INK,
    )
    tidy(pairs, "x")
    floors = part_floors(result["useful_flops"], result["matmul_rates"]["large square"])
    for place, part in enumerate(parts):
        for side, offset, color in zip(SIDES, (-0.2, 0.2), (GREY, BLUE), strict=True):
            forward, backward = (1e3 * one for one in result[side]["parts"][part])
            pairs.barh(place + offset, forward, 0.36, color=color)
            pairs.barh(place + offset, backward, 0.36, left=forward, color=color, alpha=0.5)
            pairs.text(forward + backward, place + offset, f"  {_ms(forward + backward)}", va="center", fontsize=8)
        if floors[part]:
            pairs.plot([1e3 * floors[part]] * 2, [place - 0.42, place + 0.42], color=ORANGE, linewidth=2.5)
    pairs.set_yticks(range(len(parts)), parts)
    pairs.set_ylim(len(parts) - 0.4, -0.6)
    pairs.margins(x=0.12)
    pairs.set_xlabel(
        "ms a step; grey: before, blue: after, pale: backward; orange mark: the part's useful FLOPs at the "
        "best matmul rate",
        fontsize=9,
    )
    save_figure(figure, path)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_profile", description=__doc__)
    parser.add_argument("--dataset", required=True, help="rows: a folder that was built, a hub id, or a file")
    parser.add_argument("--size", choices=SIZES, default="quickstart")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=4, help="batches of the product, over all lengths")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args(arguments)
    result = measure_steps(Setting(options.dataset, options.size, options.device), options.steps, options.rounds)
    print(table(result))
    path = options.results / f"profile_{options.size}{'' if options.device == 'cpu' else '_gpu'}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
