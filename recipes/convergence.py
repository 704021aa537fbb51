"""How alike do models represent the same rows? Figure 7 of the paper, for runs on 1, 2, 4 and 8 tasks.

    python recipes/convergence.py --dataset DIR_OR_ID --task reagent_prediction --labels 1 2 4 8 \\
        --series Omni-Mol RUN_1 RUN_2 RUN_4 RUN_8 --series InstructMol-like RUN_1 RUN_2 RUN_4 RUN_8

A series is a name and its models (run folders, model folders or hub ids). Writes convergence.json and convergence.png.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

from accelerate import PartialState
from tqdm.auto import tqdm

from omnimol_hf.analysis.convergence import (
    chance_level,
    layer_features,
    mutual_knn,
    plot_convergence,
    random_model_features,
    similarity_matrices,
)
from omnimol_hf.analysis.inputs import held_out_rows, load_model


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--series", nargs="+", action="append", required=True, metavar=("NAME", "MODEL"), help="a name and its models"
    )
    parser.add_argument("--labels", nargs="+", help="what the models of a series are called; default: their folders")
    parser.add_argument("--dataset", default="data/omni-mol-starter", help="a folder, a hub id, or a file of rows")
    parser.add_argument("--task", default="reagent_prediction", help="whose held-out rows are represented")
    parser.add_argument("--rows", type=int, default=256, help="how many of them")
    parser.add_argument("--k", type=int, default=10, help="neighbours")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/convergence"))
    args = parser.parse_args(argv)
    for name, *models in args.series:
        if len(models) < 2:
            parser.error(f"series {name}: at least two models are compared, got {models}")
        if args.labels and len(args.labels) != len(models):
            parser.error(f"series {name} has {len(models)} models for {len(args.labels)} --labels")
    return args


def main() -> None:
    args = parse()
    rows = held_out_rows(args.dataset, [args.task], args.rows).to_list()
    device = PartialState().device
    series = {}
    for name, *folders in args.series:
        features = []
        for folder in tqdm(folders, desc=name):
            model, processor = load_model(folder, device)
            features.append(layer_features(model, processor, rows, args.batch_size))
        unlearnt = [random_model_features(model, processor, rows, args.batch_size, seed) for seed in (1, 2)]
        series[name] = {
            "models": folders,
            "labels": args.labels or [Path(folder).name for folder in folders],
            **similarity_matrices(features, args.k),
            "random_models": mutual_knn(*unlearnt, args.k),
            "random_features": chance_level(len(rows) * features[0].shape[1], args.k),
        }
    result = {"task": args.task, "rows": len(rows), "k": args.k, "series": series}
    result["best_layer_pair_chance"] = chance_level(len(rows), args.k)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / "convergence.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot_convergence(result, args.output_dir / "convergence.png")

    for name, one in series.items():
        for metric in ("mutual_knn", "best_layer_pair"):
            steps = [f"{a} -> {b}: {one[metric][i][i + 1]:.3f}" for i, (a, b) in enumerate(pairwise(one["labels"]))]
            print(f"{name}, {metric}: " + ", ".join(steps))
        print(f"{name}, mutual_knn of two random models: {one['random_models']:.4f}")
        print(f"{name}, mutual_knn of random features: {one['random_features']:.4f}")
    print(f"best_layer_pair of random features, one pair of layers: {result['best_layer_pair_chance']:.4f}")
    print(f"written: {args.output_dir}/convergence.json, {args.output_dir}/convergence.png")


if __name__ == "__main__":
    main()
