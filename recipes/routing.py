"""Which expert gets which atoms, functional groups and tasks? Figure 8 of the paper, for a trained model.

    python recipes/routing.py --model RUN_OR_MODEL_OR_ID --dataset DIR_OR_ID
    python recipes/routing.py --model RUN_OR_MODEL_OR_ID --molecule "CC(=O)Oc1ccccc1C(=O)O" --task molecular_weight

Writes routing.json, expert_load.png, functional_groups.png and molecule_1.png, ...
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from accelerate import PartialState

from omnimol_hf.analysis.inputs import held_out_rows, load_model
from omnimol_hf.analysis.routing import expert_load, group_scores, molecule_row, route
from omnimol_hf.analysis.routing_plots import TOKENS, draw_routing, plot_expert_load, plot_group_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a run's folder, a model's folder, or a hub id")
    parser.add_argument("--dataset", default="data/omni-mol-starter", help="a folder, a hub id, or a file of rows")
    parser.add_argument("--tasks", nargs="+", help="tasks whose expert load is shown; default: all with held-out rows")
    parser.add_argument(
        "--task", default="molecular_captioning", help="whose molecules are drawn, and in whose prompt"
    )
    parser.add_argument("--rows", type=int, default=64, help="held-out rows a task")
    parser.add_argument("--molecules", type=int, default=3, help="how many of the task's molecules are drawn")
    parser.add_argument("--molecule", nargs="+", default=[], help="SMILES to draw instead")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/routing"))
    args = parser.parse_args()

    model, processor = load_model(args.model, PartialState().device)
    layers = model.config.moe_layer_indices
    rows = held_out_rows(args.dataset, args.tasks and sorted({*args.tasks, args.task}), args.rows).to_list()
    load = expert_load(model, processor, rows, args.batch_size)
    routed = [route(model, processor, row) for row in rows if row["task"] == args.task]
    drawn = [route(model, processor, molecule_row(processor, args.task, smiles)) for smiles in args.molecule]
    groups = {tokens: group_scores(routed, tokens) for tokens in TOKENS}

    args.output_dir.mkdir(parents=True, exist_ok=True)
    plot_expert_load(load, layers, args.output_dir / "expert_load.png")
    plot_group_scores(groups, layers, args.output_dir / "functional_groups.png")
    for number, molecule in enumerate(drawn or routed[: args.molecules], start=1):
        draw_routing(molecule, layers, args.output_dir / f"molecule_{number}.png")
    result = {"model": args.model, "moe_layers": list(layers), "task": args.task, "load": load, "groups": groups}
    text = json.dumps(result, indent=1, default=np.ndarray.tolist)
    (args.output_dir / "routing.json").write_text(text + "\n", encoding="utf-8")
    for task, shares in load.items():
        print(f"{task}: busiest expert takes {shares.max():.0%}, idlest {shares.min():.0%} of a layer's choices")
    print(f"written: {args.output_dir}/routing.json and the pictures beside it")


if __name__ == "__main__":
    main()
