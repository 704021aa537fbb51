"""What grows with what, and what each part of the method adds: Figures 2, 4-6, 9 and 10 of the paper from run folders.

    python recipes/scaling.py data_share --series Omni-Mol RUN_20 RUN_40 RUN_60 RUN_100
    python recipes/scaling.py parameters --series Omni-Mol RUN_1B RUN_3B RUN_8B
    python recipes/scaling.py tasks --task reagent_prediction --series Omni-Mol RUN... --series InstructMol-like RUN...
    python recipes/scaling.py variants --series "unified" RUN --series "separate" RUN_TASK_1 RUN_TASK_2 ...
    python recipes/scaling.py composition --dataset DIR_OR_ID

Scores are the normalised ones in [0, 1] (`omnimol_hf.metrics.normalised`); --metric takes one of results.json instead.
Runs of one variant are put together, task by task. Writes KIND.png and KIND.json.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omnimol_hf.analysis.scaling import AXES, NORMALISED, LogFit, Run, Score, average, read_run
from omnimol_hf.analysis.scaling_plots import plot_composition, plot_scaling, plot_variants
from omnimol_hf.metrics.normalised import label_scales
from omnimol_hf.rows import load_rows, load_splits


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*AXES, "variants", "composition"])
    parser.add_argument(
        "--series", nargs="+", action="append", default=[], metavar=("NAME", "RUN"), help="a name and its run folders"
    )
    parser.add_argument("--task", help="whose score is drawn over the axis; default: the average over all")
    parser.add_argument("--metric", default=NORMALISED, help="'normalised', or a metric of results.json")
    parser.add_argument("--protocol", default="strict", choices=("strict", "paper"), help="of that metric")
    parser.add_argument(
        "--dataset", help="composition: the dataset; otherwise: scale numbers by its training labels, not the held-out"
    )
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/scaling"))
    args = parser.parse_args(argv)
    if args.kind == "composition" and not args.dataset:
        parser.error("composition needs --dataset")
    if args.kind != "composition" and not args.series:
        parser.error(f"{args.kind} needs at least one --series NAME RUN ...")
    return args


def one_variant(name: str, runs: list[Run]) -> dict[str, Score]:
    """The scores of runs that belong together, such as those tuned on one task each."""
    scores: dict[str, Score] = {}
    for run in runs:
        if twice := scores.keys() & run.scores.keys():
            raise SystemExit(f"{name}: several runs have scores of {', '.join(sorted(twice))}; give one run a task")
        scores |= run.scores
    return scores


def fitted(fit: LogFit) -> dict[str, float | None]:
    """A fit for JSON, which knows no NaN: two points tell no errors."""
    return {name: None if math.isnan(value) else value for name, value in asdict(fit).items()}


def composition(args: argparse.Namespace) -> dict[str, Any]:
    """Count and draw the rows of a dataset."""
    counts: dict[str, dict[str, int]] = {}
    for split, rows in load_splits(args.dataset).items():
        for task, number in Counter(rows["task"]).items():
            counts.setdefault(task, {})[split] = number
    plot_composition(counts, args.output_dir / "composition.png")
    return counts


def main() -> None:
    args = parse()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    picture = args.output_dir / f"{args.kind}.png"
    if args.kind == "composition":
        result = composition(args)
    else:
        scales = label_scales(load_rows(args.dataset)["train"]) if args.dataset else None
        try:
            series = {
                name: [read_run(folder, args.metric, args.protocol, scales) for folder in folders]
                for name, *folders in args.series
            }
            if args.kind == "variants":
                variants = {name: one_variant(name, runs) for name, runs in series.items()}
                shares = {name: {run.data_share for run in runs} for name, runs in series.items()}
                notes = {name: f"{share.pop():.0%} of the data" for name, share in shares.items() if _one_part(share)}
                plot_variants(variants, picture, args.metric, notes)
                fits = {}
            else:
                fits = plot_scaling(series, args.kind, picture, args.metric, args.task)
        except ValueError as error:
            raise SystemExit(str(error)) from error
        result = {
            name: {"runs": [asdict(run) | {"average": asdict(average(run.scores))} for run in runs]}
            | ({"fit": fitted(fits[name])} if name in fits else {})
            for name, runs in series.items()
        }
        for name, fit in fits.items():
            print(f"{name}: y = {fit.a:.4f} log(x) + {fit.b:.4f}, 95 % of a +- {fit.a_error:.4f}, R2 {fit.r2:.3f}")
    picture.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {picture}, {picture.with_suffix('.json')}")


def _one_part(shares: set[float | None]) -> bool:
    return len(shares) == 1 and None not in shares and shares != {1.0}


if __name__ == "__main__":
    main()
