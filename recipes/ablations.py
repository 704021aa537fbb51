"""Train variants of one run on the same data and put them side by side (Figures 2, 5 and 6 of the paper).

    python recipes/ablations.py --base recipes/configs/unified_cpu.yaml --out outputs/ablations \
        --variants recipes/configs/ablations/*.yaml [--launch "--config_file recipes/accelerate/zero2.yaml"] \
        [-- --dataset DIR --seed 1 ...]

The base and each variant, whose settings lie over the base's, are one run of `recipes/unified.py` in OUT/NAME, with
what it prints in OUT/NAME.log; settings after `--` go to all of them. The same command again goes on where it stopped.
A run that fails is named at the end and leaves the others alone. OUT/ablations.csv and .md hold scores, gradient norms
and speed, OUT/gradient_norms.png and OUT/performance.png show them.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from omnimol_hf.analysis.ablations import plot_gradient_norms, plot_performance, summarise_run, write_tables

RECIPE = Path(__file__).with_name("unified.py")


def run_variant(configs: list[Path], folder: Path, launch: str, settings: list[str]) -> bool:
    """Train one variant, or see that it is finished; returns whether it is."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *shlex.split(launch), str(RECIPE)]
    command += ["--config", *map(str, configs), "--output_dir", str(folder), *settings]
    with folder.with_suffix(".log").open("a", encoding="utf-8") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--base", type=Path, required=True, help="YAML of the run that the others are compared with")
    parser.add_argument("--variants", type=Path, nargs="+", required=True, help="YAML files that lie over it")
    parser.add_argument("--out", type=Path, required=True, help="folder for all runs, tables and plots")
    parser.add_argument("--launch", default="--config_file recipes/accelerate/cpu.yaml", help="for accelerate launch")
    parser.add_argument("settings", nargs="*", help="after --: settings of every run")
    args = parser.parse_args()
    names = [path.stem for path in (args.base, *args.variants)]
    if missing := [str(path) for path in (args.base, *args.variants) if not path.is_file()]:
        parser.error(f"there is no file {', '.join(missing)}")
    if len(set(names)) < len(names):
        parser.error(f"two of the files have the same name: {', '.join(names)}")
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for variant, name in zip(tqdm([None, *args.variants], desc="Runs", unit="run"), names, strict=True):
        if not run_variant(
            [args.base] + [variant] * (variant is not None), args.out / name, args.launch, args.settings
        ):
            failed.append(name)
    runs = [summarise_run(args.out / name) for name in names if name not in failed]
    if runs:
        print(write_tables(runs, args.out))
        plot_gradient_norms(runs, args.out / "gradient_norms.png")
        plot_performance(runs, args.out / "performance.png")
        print(f"\ntables:   {args.out}/ablations.csv, {args.out}/ablations.md")
        print(f"pictures: {args.out}/gradient_norms.png, {args.out}/performance.png")
    if failed:
        logs = ", ".join(f"{args.out / name}.log" for name in failed)
        raise SystemExit(f"{len(failed)} of {len(names)} runs failed; what they printed: {logs}")


if __name__ == "__main__":
    main()
