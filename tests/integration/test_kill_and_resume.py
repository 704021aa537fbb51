"""`kill -9` of the recipe in the middle of things, a full disk, and the same command again.

`python -m benchmarks.kill_and_resume` does the same at random times.
"""

import shlex
import subprocess

import pytest

from benchmarks.kill_and_resume import (
    command,
    differences,
    environment,
    finish,
    kill_when,
    start,
    steps_logged,
    write_run,
)
from omnimol_hf.checkpoints import STAGING, checkpoints, what_is_torn
from tests.conftest import ROOT

pytestmark = pytest.mark.integration
SHORT = {
    "selection": {"kind": "active", "budget": 24, "rounds": 2, "epochs": 2, "scored_rows": 4},  # 6 and 12 steps
    "save_steps": 4,
}


def same_after_a_kill(tmp_path, launch, condition, origin):
    """Kill the run when the condition holds for its folder; it has to go on, and to be that of one never killed."""
    config = write_run(tmp_path / "data", **SHORT)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(config, whole, launch), whole)
    kill_when(start(config, killed, launch), lambda: condition(killed))
    assert not (killed / "results.json").exists()
    assert f"continuing from {killed}/checkpoint-{origin}" in finish(start(config, killed, launch), killed)
    assert differences(whole, killed) == []


def test_one_process_killed_in_the_middle_of_an_epoch(tmp_path):
    """Step 10 is in the third unit of six, the first pass of the second round."""
    same_after_a_kill(tmp_path, "1 process", lambda out: steps_logged(out) >= 10, "8")


def test_two_processes_killed_while_a_checkpoint_is_written(tmp_path):
    def writes_the_second(out):
        return (out / STAGING / "checkpoint-8").exists()

    same_after_a_kill(tmp_path, "2 processes, ZeRO-2", writes_the_second, "")


def test_two_processes_on_a_full_disk(tmp_path):
    """On a file system of 4 MB, in a mount namespace of its own; a checkpoint has 1.5 MB, the first model 0.4 MB."""
    config = write_run(tmp_path / "data", **SHORT, save_total_limit=3)
    small, left = tmp_path / "small", tmp_path / "left"
    small.mkdir()
    lines = f"""
        mount -t tmpfs -o size=4m tmpfs {small} || exit 77
        {shlex.join(command(config, small / "run", "2 processes, ZeRO-2"))}
        echo code $?
        cp -r {small}/run {left}
    """
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", lines], cwd=ROOT, env=environment(), text=True,
        capture_output=True, timeout=300,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert "code 1\n" in done.stdout
    assert "\nTraining stops. 0.0 MB were free" in done.stderr
    assert f"checkpoint-12 could not be written to {small}/run: " in done.stderr
    assert "checkpoint-8 is whole (1.5 MB): the same command continues from it." in done.stderr
    assert not (left / STAGING).exists()
    assert [folder.name for folder in checkpoints(left)] == ["checkpoint-4", "checkpoint-8"]
    assert [what_is_torn(folder) for folder in checkpoints(left)] == [None, None]
