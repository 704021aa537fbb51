"""Recipes launched as their users launch them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

ONE_PROCESS = ("--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")


def launch(script: str, *words: object, accelerate: str | None = None) -> str:
    """`accelerate launch` a recipe, by default in one process; returns what it printed."""
    kind = ONE_PROCESS if accelerate is None else ("--config_file", accelerate)
    command = [sys.executable, "-m", "accelerate.commands.launch", *kind, script, *map(str, words)]
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def losses(out: Path) -> list[float]:
    """The training loss of each logged step of a finished run."""
    log = json.loads((out / "model" / "training_log.json").read_text())
    return [float(entry["loss"]) for entry in log if "loss" in entry]
