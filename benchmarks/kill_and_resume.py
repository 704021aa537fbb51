"""Kill a training run at random times, give its command again, and compare: `python -m benchmarks.kill_and_resume`.

The unified recipe, with data selection, is killed at five random times with SIGKILL, together with all its processes,
and each time started again: once with one process and once with two and ZeRO-2. Losses and gradient norms of all
steps, rows and pi of all rounds, the final weights and the answers have to be those of a run that was never killed,
bit for bit. Prints a table; the exit code is 1 if anything differs.
"""

import argparse
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from safetensors.torch import load_file

from omnimol_hf.checkpoints import STAGING, checkpoints
from omnimol_hf.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent
ONE_PROCESS = ("--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
TWO_PROCESSES = ("--config_file", "recipes/accelerate/zero2_cpu.yaml")
LAUNCHES = {"1 process": (ONE_PROCESS, 4), "2 processes, ZeRO-2": (TWO_PROCESSES, 2)}  # and rows of one process
SETTINGS: dict[str, Any] = {
    "new_model": {
        "vocab_size": 320,
        "text_config": {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2,
            "num_key_value_heads": 2, "max_position_embeddings": 512,
        },
        "graph_config": {"hidden_size": 16, "num_layers": 2},
        "expert_rank": 4,
        "expert_dropout": 0.1,  # so that random numbers have to go on too
    },
    "selection": {"kind": "active", "budget": 48, "rounds": 3, "epochs": 3, "scored_rows": 6},
    "learning_rate": 3e-3,
    "save_steps": 7,
    "save_total_limit": 2,
    "logging_steps": 1,
    "eval_rows": 2,
    "max_new_tokens": 8,
    "eval_batch_size": 4,
    "use_cpu": True,
    "disable_tqdm": True,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_and_resume", description=__doc__)
    parser.add_argument("--kills", type=int, default=5, metavar="N", help="for each way to launch; default: 5")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        all_same = [
            kill_at_random(launch, Path(folder) / str(n), chance, options.kills) for n, launch in enumerate(LAUNCHES)
        ]
    if not all(all_same):
        raise SystemExit(1)


def kill_at_random(launch: str, folder: Path, chance: random.Random, kills: int) -> bool:
    """Kill one run that many times, print where, and tell whether it ends as one that was never killed.

    Args:
        launch: one of `LAUNCHES`.
        folder: where both runs go; it is made.
    """
    config, whole, killed = write_run(folder), folder / "whole", folder / "killed"
    finish(start(config, whole, launch), whole)
    row = "{:<20} {:<10} {:<20} {}"
    print(row.format("launched with", "killed at", "while writing", "went on from"), flush=True)
    last = losses(whole)[-1][0]
    for step in sorted(chance.sample(range(1, last + 1), kills)):
        process = start(config, killed, launch)
        kill_when(process, lambda step=step: is_past(killed, step), delay=chance.uniform(0, 0.3))
        origin = first_step(killed)
        writing = ", ".join(path.name for path in (killed / STAGING).glob("*")) or "-"
        print(row.format(launch, f"step {origin + steps_logged(killed)}", writing, f"step {origin}"), flush=True)
    finish(start(config, killed, launch), killed)
    found = differences(whole, killed)
    verdict = f"DIFFERENT: {'; '.join(found)}" if found else f"the same as without kills, in all {last} steps"
    print(row.format(launch, "never", "-", f"step {first_step(killed)}; {verdict}"), flush=True)
    return not found


def write_run(folder: Path, **settings: Any) -> Path:
    """Rows of two tasks in a new folder, and the YAML file of a run on them, whose path is returned."""
    folder.mkdir(parents=True)
    rows = []
    for n in range(1, 13):
        for end in ("[O]", "[N]", "[C]"):
            # One task asks for what stands in the question's last brackets, the other for a number.
            for task, answer in (("forward_prediction", "[C]" + end), ("logp", f"{n / 7:.2f}")):
                question = {"instruction": TASKS[task].instructions[0], "input": "[C]" * n + end}
                rows.append({"task": task, **question, "output": answer})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(SETTINGS | {"dataset": str(folder / "rows.jsonl")} | settings))
    return config


def command(config: Path, out: Path, launch: str) -> list[str]:
    """What starts the run, and starts it again. The processes meet at a port that is free now."""
    kind, rows_of_a_process = LAUNCHES[launch]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        *[sys.executable, "-m", "accelerate.commands.launch", *kind, "--main_process_port", str(port)],
        *["recipes/unified.py", "--config", str(config), "--output_dir", str(out)],
        *["--per_device_train_batch_size", str(rows_of_a_process)],
    ]


def environment() -> dict[str, str]:
    """The environment of the runs: no GPU, no network, and each line printed at once."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(ROOT),
    }


def start(config: Path, out: Path, launch: str) -> psutil.Popen:
    """Start the run, or start it again; what it prints goes to a file beside its folder."""
    with printed_by(out).open("w") as log:
        return psutil.Popen(
            command(config, out, launch), cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT
        )


def printed_by(out: Path) -> Path:
    """The file with what the run printed since it was last started."""
    return out.with_name(out.name + ".txt")


def steps_logged(out: Path) -> int:
    """Steps that a run has logged since it was last started."""
    return printed_by(out).read_text().count("'loss':")


def first_step(out: Path) -> int:
    """The step of the checkpoint that a run went on from when it was last started; 0 for a new run."""
    found = re.search(r"continuing from .*checkpoint-(\d+)", printed_by(out).read_text())
    return int(found[1]) if found else 0


def is_past(out: Path, step: int) -> bool:
    """Whether a run has logged a step, or is through with all of them."""
    return first_step(out) + steps_logged(out) >= step or (out / "model").exists()


def finish(process: psutil.Popen, out: Path) -> str:
    """Wait until a run is through; returns what it printed.

    Raises:
        RuntimeError: with the end of that, if the run fails.
    """
    code = process.wait(timeout=600)
    text = printed_by(out).read_text()
    if code:
        raise RuntimeError(f"the run in {out} ended with code {code}:\n{text[-6000:]}")
    return text


def kill_when(process: psutil.Popen, condition: Callable[[], bool], delay: float = 0.0) -> None:
    """Kill a run and all its processes, as soon as a condition holds and some seconds more.

    A launcher puts its processes into sessions of their own: a signal to its group would leave them running.

    Raises:
        RuntimeError: if the run ends before, or in ten minutes nothing happens.
    """
    deadline = time.monotonic() + 600
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the run ended, or hung, before it could be killed")
        time.sleep(0.002)
    time.sleep(delay)
    family = [*reversed(process.children(recursive=True)), process]
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:  # the first ones' end may end the others
            continue
    process.wait()
    psutil.wait_procs(family)


def losses(out: Path) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm of each step."""
    log = json.loads((out / "model" / "training_log.json").read_text())
    return [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in log if "loss" in entry]


def rounds(out: Path) -> list[dict[str, Any]]:
    """What the selection did: rows drawn of each task, mu and pi, of each round."""
    entries = map(json.loads, (out / "selection.jsonl").read_text().splitlines())
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two finished runs."""
    found = []
    for name, read in (("steps", losses), ("rounds", rounds)):
        ours, theirs = read(one), read(other)
        if ours != theirs:
            where = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), "their number")
            found.append(f"{name} differ from {where}")
    ours, theirs = (load_file(out / "model" / "model.safetensors") for out in (one, other))
    if ours.keys() != theirs.keys():
        found.append("the weights have other names")
    elif moved := [name for name in ours if not torch.equal(ours[name], theirs[name])]:
        found.append(f"{len(moved)} of {len(ours)} weights differ")
    if (one / "predictions.jsonl").read_bytes() != (other / "predictions.jsonl").read_bytes():
        found.append("answers differ")
    last_ones = [[folder.name for folder in checkpoints(out)] for out in (one, other)]
    if last_ones[0] != last_ones[1] or (other / STAGING).exists():
        found.append(f"the checkpoints left are {last_ones[1]}, not {last_ones[0]}")
    return found


if __name__ == "__main__":
    main()
