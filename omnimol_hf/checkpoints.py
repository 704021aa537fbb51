"""Checkpoints that are there whole or not at all, and which of them a run goes on from."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

logger = logging.get_logger(__name__)

STAGING = ".unfinished"
RECORD = "checkpoint.json"


class WholeCheckpoints(Trainer):
    """`transformers.Trainer` whose checkpoints appear whole or not at all.

    A checkpoint is written aside, in the run's folder `.unfinished`. When all processes have written their part, the
    first one adds the record of all files, `checkpoint.json`, brings everything to the disk and gives the folder its
    name. The processes need one disk in common, or `save_on_each_node`.
    """

    _saving = False

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._run_dir(trial) / STAGING if self._saving else self._run_dir(trial))

    def _run_dir(self, trial: Any) -> Path:
        return Path(super()._get_output_dir(trial))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train an epoch; none if the run was through at the checkpoint that it goes on from, where Trainer would
        train one more step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint aside and rename it when all processes are done.

        Raises:
            SystemExit: if it cannot be written, see `stops_plainly`.
        """
        run_dir = self._run_dir(trial)
        if self.args.should_save:
            shutil.rmtree(run_dir / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            with stops_plainly(self._checkpoint_name, run_dir / STAGING):
                super()._save_checkpoint(model, trial)
                self._name_best_checkpoint(run_dir)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    self._finish_checkpoint(run_dir)
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()

    def _name_best_checkpoint(self, run_dir: Path) -> None:
        """Have the state name the best checkpoint by its final folder; Trainer looks for it where it writes."""
        step = self.state.best_global_step
        if step:
            best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}"
            if step == self.state.global_step or best.is_dir():
                self.state.best_model_checkpoint = str(best)
        if self.args.should_save:
            self.state.save_to_json(str(run_dir / STAGING / self._checkpoint_name / TRAINER_STATE_NAME))

    def _finish_checkpoint(self, run_dir: Path) -> None:
        aside, final = run_dir / STAGING / self._checkpoint_name, run_dir / self._checkpoint_name
        write_record(aside)
        sync_folder(aside)
        if final.exists():  # a torn one, or that of an earlier run
            final.rename(run_dir / STAGING / "replaced")
        aside.rename(final)
        sync(run_dir)
        shutil.rmtree(run_dir / STAGING)
        rotate_checkpoints(run_dir, final, self.args.save_total_limit, self.state.best_model_checkpoint)

    @property
    def _checkpoint_name(self) -> str:
        return f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"


@contextmanager
def stops_plainly(name: str, aside: Path) -> Iterator[None]:
    """Around what is written in a run's folder: after an error nothing of it stays.

    Args:
        name: what is being written.
        aside: the folder in the run's folder where that happens.

    Raises:
        SystemExit: if the disk is full or fails, with what to do then. Only the process that sees the error stops by
            itself: the others may wait for it within a library, and their launcher ends them.
    """
    try:
        yield
    except Exception as error:
        free = _free_space(aside.parent)
        shutil.rmtree(aside, ignore_errors=True)
        if not _is_of_the_disk(error):
            raise
        whole = [folder for folder in checkpoints(aside.parent) if what_is_torn(folder) is None]
        size = sum(file.stat().st_size for file in whole[-1].rglob("*") if file.is_file()) if whole else 0
        raise SystemExit(
            f"{name} could not be written to {aside.parent}: {error}\n"
            f"Training stops. {free} were free on that disk, and {_free_space(aside.parent)} are now that what was "
            "written of it is removed.\n"
            + (
                f"{whole[-1].name} is whole ({size / 1e6:,.1f} MB): the same command continues from it."
                if whole
                else "There was no checkpoint yet: the same command begins anew."
            )
        ) from error


def _free_space(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB"


def _is_of_the_disk(error: Exception) -> bool:
    """Whether writing failed, in the words of Python, safetensors or torch, which has no class of its own for it."""
    return isinstance(error, OSError | SafetensorError) or "inline_container" in str(error)


def checkpoints(run_dir: Path) -> list[Path]:
    """The folders of a run's checkpoints, whole or torn, in the order of their steps."""
    steps = {
        folder: int(found[1])
        for folder in run_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (found := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", folder.name)) and folder.is_dir()
    }
    return sorted(steps, key=steps.__getitem__)


def write_record(checkpoint: Path) -> None:
    """Add the record of a checkpoint's files and their sizes, after which it counts as whole.

    Checksums would double the time of saving a large model, and catch nothing more of what a kill or a crash leaves:
    the contents are on the disk before the folder has its name.
    """
    files = {
        file.relative_to(checkpoint).as_posix(): file.stat().st_size
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file()
    }
    (checkpoint / RECORD).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")


def what_is_torn(checkpoint: Path) -> str | None:
    """What a checkpoint lacks; None for a whole one."""
    try:
        files = json.loads((checkpoint / RECORD).read_text(encoding="utf-8"))["files"].items()
    except FileNotFoundError:
        return f"it has no {RECORD}, which is written last"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its {RECORD} is damaged"
    for name, size in files:
        file = checkpoint / name
        if not file.is_file():
            return f"its {name} is missing"
        if file.stat().st_size != size:
            return f"its {name} has {file.stat().st_size:,} bytes, where {size:,} were written"
    return None


def last_checkpoint(run_dir: str | os.PathLike[str]) -> str | None:
    """The newest checkpoint of a run that all processes find whole, or None. Torn ones are named in a warning.

    All processes have to call this, and get the same answer.
    """
    folders = checkpoints(Path(run_dir))
    seen_by_all = gather_object([{folder.name: what_is_torn(folder) for folder in folders}])
    for folder in reversed(folders if PartialState().is_main_process else []):
        problems = [seen.get(folder.name, "it is not on the disk of every machine") for seen in seen_by_all]
        problem = next(filter(None, problems), None)
        if problem is None:
            break
        logger.warning(f"{folder} is torn and is skipped: {problem}")
    else:
        folder = None
    return broadcast_object_list([folder and str(folder)])[0]


def rotate_checkpoints(run_dir: Path, newest: Path, limit: int | None, best: str | None = None) -> None:
    """Delete older checkpoints, and torn ones, so that `limit` whole ones are left.

    Args:
        newest: the one just written; it stays.
        limit: None or 0: nothing is deleted.
        best: the checkpoint with the best score so far; it stays, even as one too many.
    """
    if not limit or limit < 0:
        return
    whole = [folder for folder in checkpoints(run_dir) if what_is_torn(folder) is None]
    needed = [newest, *(folder for folder in whole if best and folder.name == Path(best).name and folder != newest)]
    others = [folder for folder in reversed(whole) if folder not in needed]
    kept = needed + others[: max(0, limit - len(needed))]
    for folder in checkpoints(run_dir):
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def global_batch(training: TrainingArguments) -> int:
    """Rows of one optimiser step over all processes and micro-batches."""
    return training.train_batch_size * training.gradient_accumulation_steps * training.world_size


def launch_settings(training: TrainingArguments) -> dict[str, Any]:
    """What a run is launched with beyond its own settings, and cannot be continued without.

    With other processes or another global batch the rows of a step, the shards of the optimiser and the random
    numbers are others: it would not be the same run. To be compared by `omnimol_hf.run.compare_with_folder`.
    """
    return {
        "processes": training.world_size,
        "global_batch": global_batch(training),
        "distributed": PartialState().distributed_type.value,
    }


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write in that gets its name only when all is written; after an error nothing stays."""
    aside = folder.with_name(folder.name + STAGING)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        sync_folder(aside)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync(folder.parent)


def sync_folder(folder: Path) -> None:
    """Bring all files of a folder, and the folder itself, from memory to the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Bring a file's contents, or a folder's list of names, from memory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
