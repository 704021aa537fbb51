"""Product against baseline: `python -m benchmarks --suite cpu --dataset DIR`.

The baseline computes the same function in the way of the authors' code; loss and gradients of both are compared before
anything is timed.
"""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import CASES
from benchmarks.chart import draw
from benchmarks.harness import line, machine, measure
from benchmarks.setting import SIZES, Setting

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> None:
    """The command line. A result replaces the earlier one of the same name and size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--suite", choices=("cpu", "gpu"), default="cpu", help="where it runs")
    parser.add_argument("--dataset", required=True, help="rows: a folder that was built, a hub id, or a file")
    parser.add_argument("--size", choices=SIZES, default="quickstart")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args(arguments)
    if options.suite == "gpu" and not torch.cuda.is_available():
        parser.error("--suite gpu needs a CUDA device, and torch sees none")
    setting = Setting(options.dataset, options.size, "cuda" if options.suite == "gpu" else "cpu")
    path = options.results / f"{options.suite}.json"
    for name in options.only:
        result = {"size": options.size, "machine": machine()} | measure(CASES[name](setting), options.rounds)
        print(line(result), flush=True)
        save(path, result)
        gc.collect()
    draw(json.loads(path.read_text()), path.with_suffix(".png"))


def save(path: Path, result: dict[str, Any]) -> None:
    """Put a result into the file, in the place of the earlier one."""
    results = json.loads(path.read_text()) if path.exists() else []
    kept = {(one["name"], one["size"]): one for one in results} | {(result["name"], result["size"]): result}
    order = {name: number for number, name in enumerate(CASES)}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    ordered = sorted(kept.values(), key=lambda one: (order.get(one["name"], len(order)), one["size"]))
    aside.write_text(json.dumps(ordered, indent=1) + "\n")
    aside.replace(path)


if __name__ == "__main__":
    main()
