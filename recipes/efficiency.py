"""What an answer costs, for several models in one run: Figure 11 of the paper.

    python recipes/efficiency.py --models RUN_OR_MODEL_OR_ID ... --dataset DIR_OR_ID --task forward_prediction

Writes efficiency.json and efficiency.png. On a CPU the threads are PyTorch's (OMP_NUM_THREADS).
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch
from accelerate import PartialState

from omnimol_hf.analysis.efficiency import METRICS, plot_profiles, profile_models
from omnimol_hf.analysis.inputs import held_out_rows, load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="runs' folders, models' folders, or hub ids")
    parser.add_argument("--names", nargs="+", help="what the models are called; default: their folders")
    parser.add_argument("--dataset", default="data/omni-mol-starter", help="a folder, a hub id, or a file of rows")
    parser.add_argument("--task", default="forward_prediction", help="whose held-out prompts are answered")
    parser.add_argument("--new_tokens", type=int, default=64, help="tokens of every answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/efficiency"))
    args = parser.parse_args()
    names = args.names or [Path(model).name for model in args.models]
    if len(set(names)) != len(args.models):
        parser.error(f"{len(args.models)} models need as many different --names, got {names}")

    device = PartialState().device
    rows = held_out_rows(args.dataset, [args.task], 32).to_list()
    models = {name: load_model(folder, device) for name, folder in zip(names, args.models, strict=True)}
    profiles = profile_models(models, rows, args.new_tokens, args.rounds)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    result = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "dtypes": {name: str(model.dtype).removeprefix("torch.") for name, (model, _) in models.items()},
        "torch": torch.__version__,
        "task": args.task,
        "new_tokens": args.new_tokens,
        "rounds": args.rounds,
        "models": profiles,
    }
    (args.output_dir / "efficiency.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot_profiles(profiles, args.output_dir / "efficiency.png")
    for metric, (title, unit) in METRICS.items():
        values = [
            f"{name} {profile[metric]['value'] / unit:.4g}" for name, profile in profiles.items() if metric in profile
        ]
        print(f"{title}: " + ", ".join(values))
    print(f"written: {args.output_dir}/efficiency.json, {args.output_dir}/efficiency.png")


if __name__ == "__main__":
    main()
