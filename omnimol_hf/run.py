"""What a training run is told and where it stands: its YAML files and command line, and its output folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from transformers import HfArgumentParser, IntervalStrategy, TrainingArguments

from omnimol_hf.checkpoints import launch_settings
from omnimol_hf.mixture import parse_mixture
from omnimol_hf.selection import SelectionSettings
from omnimol_hf.tasks import ALL_TASKS

SETTINGS = "run.yaml"
_IN_JSON = ("new_model", "upcycle", "adapter", "mixture", "selection")
_STARTS = ("model", "backbone", "new_model")


@dataclass
class RunArguments:
    """The settings of a recipe besides `transformers.TrainingArguments`."""

    config: list[str] = field(
        default_factory=lambda: ["recipes/configs/quickstart.yaml"],
        metadata={"help": "YAML files with the run's settings; a later one wins, dictionaries are merged"},
    )
    dataset: str = field(default="starter", metadata={"help": "'starter', a folder, a hub id, or a file of rows"})
    dataset_dir: str = field(default="data/omni-mol-starter", metadata={"help": "where the starter data is built"})
    model: str | None = field(default=None, metadata={"help": "Omni-Mol checkpoint to start from (path or hub id)"})
    backbone: str | None = field(default=None, metadata={"help": "instead: a Llama to upcycle (path or hub id)"})
    upcycle: dict | str | None = field(
        default=None, metadata={"help": "how: preset, graph_encoder, dtype, and keys of OmniMolConfig"}
    )
    new_model: dict | str | None = field(default=None, metadata={"help": "instead: sizes of a small random model"})
    projector: str | None = field(default=None, metadata={"help": "projector that recipes/align.py trained"})
    selfies_tokens: bool = field(
        default=False, metadata={"help": "make each SELFIES symbol of the training rows one token, which trains"}
    )
    adapter: dict | str | None = field(
        default=None,
        metadata={"help": "train adapters: kind (adaptive, lora or rslora) and settings of AdaptiveLoraConfig"},
    )
    trainable: list[str] | None = field(
        default=None,
        metadata={"help": "instead: parts that train as they are, e.g. projector router experts; default: all"},
    )
    tasks: str | None = field(
        default=None, metadata={"help": "which rows there are, e.g. forward:1/reagent:0.5; default: all of every task"}
    )
    proportion: float = field(default=1.0, metadata={"help": "share of those rows, e.g. 0.2, 0.4, 0.6"})
    mixture: dict | str | None = field(
        default=None, metadata={"help": "how often tasks are drawn from these rows: task -> share; default: all rows"}
    )
    selection: dict | str | None = field(
        default=None,
        metadata={
            "help": "draw the rows in rounds: kind, budget, rounds, epochs, scored_rows, smoothing; default: all"
        },
    )
    balance_tasks: bool = field(default=False, metadata={"help": "loss: mean over tasks of each task's token mean"})
    validation: float = field(
        default=0.0, metadata={"help": "share of the training rows kept apart: the best checkpoint by it is the model"}
    )
    patience: int | None = field(
        default=None, metadata={"help": "evaluations without a better validation loss after which training stops"}
    )
    stop_epoch: int | None = field(
        default=None, metadata={"help": "epoch after which training stops, within a schedule of num_train_epochs"}
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={"help": "rows of an optimiser step over all processes; sets gradient_accumulation_steps"},
    )
    packing: bool = field(
        default=False, metadata={"help": "train on the rows of a micro-batch one after the other, without padding"}
    )
    max_heavy_atoms: int | None = field(default=None, metadata={"help": "leave out rows with larger molecules"})
    max_length: int | None = field(default=None, metadata={"help": "leave out rows with more tokens"})
    eval_rows: int = field(default=64, metadata={"help": "held-out rows a task that are answered at the end"})
    eval_batch_size: int = field(default=32, metadata={"help": "rows answered together"})
    max_new_tokens: int = field(default=256, metadata={"help": "longest answer"})

    def __post_init__(self) -> None:
        for name in _IN_JSON:
            if isinstance(value := getattr(self, name), str):
                try:
                    setattr(self, name, json.loads(value))
                except json.JSONDecodeError as error:
                    raise ValueError(f"{name} is {value!r}; expected names and values, such as {{...}}") from error
        if sum(getattr(self, name) is not None for name in _STARTS) != 1:
            raise ValueError(
                "a run needs exactly one of 'model' (an Omni-Mol checkpoint), 'backbone' (a Llama to upcycle) and "
                "'new_model' (sizes of a new one)"
            )
        if self.upcycle is not None and self.backbone is None:
            raise ValueError("'upcycle' says what becomes of a 'backbone', and there is none")
        if self.adapter is not None and self.trainable is not None:
            raise ValueError(
                "a run has 'adapter' or 'trainable', not both: beside adapters the projector, routers and "
                "experts train"
            )
        if self.selfies_tokens and self.trainable is not None and "embed_tokens" not in self.trainable:
            raise ValueError(
                "'selfies_tokens' makes new embeddings, which have to train: give 'adapter', or name embed_tokens in "
                "'trainable'"
            )
        if self.tasks is not None:
            parse_mixture(self.tasks)  # a misspelt task is told before anything is loaded
        for task in self.mixture or {}:
            refuse_unknown(task, ALL_TASKS, "mixture", "task")
        if self.selects and self.selects.kind != "all" and self.mixture:
            raise ValueError("a run has 'mixture' or 'selection', not both: the selection decides how tasks are mixed")
        if not 0 < self.proportion <= 1:
            raise ValueError(f"proportion is {self.proportion}; expected a number above 0 and up to 1")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation is {self.validation}; expected a share from 0 and below 1")
        if self.patience is not None and not self.validation:
            raise ValueError("'patience' counts evaluations of the validation loss: give 'validation', such as 0.1")
        for name in ("eval_rows", "eval_batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number from 1")

    @property
    def selects(self) -> SelectionSettings | None:
        """The budget of rows and how it is spent; None when every row is trained on once an epoch."""
        settings = None if self.selection is None else SelectionSettings.parse(self.selection)
        return None if settings is None or settings.budget is None else settings


def read_settings(paths: Sequence[str | Path]) -> dict[str, Any]:
    """The settings of YAML files together: a later file wins, and dictionaries in them are merged.

    Raises:
        SystemExit: for a file that cannot be read or holds no settings.
    """
    settings: dict[str, Any] = {}
    for path in paths:
        try:
            read = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise SystemExit(f"cannot read the settings {path}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise SystemExit(f"the settings {path} are not YAML: {error}") from error
        if not isinstance(read, dict):
            raise SystemExit(f"the settings {path} are a {type(read).__name__}; expected 'name: value' lines")
        settings = _merged(settings, read)
    return settings


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(old[key], new[key])
        for key in new
        if isinstance(old.get(key), dict) and isinstance(new[key], dict)
    }
    return {**old, **new, **both}


def parse_run(
    argv: list[str] | None = None, default: str | None = None
) -> tuple[RunArguments, TrainingArguments, dict[str, Any]]:
    """Read the YAML files that `--config` names and the command line, which wins.

    Args:
        argv: the command line; None: that of this process.
        default: the YAML file without `--config`; None: the quickstart's.

    Returns:
        The recipe's arguments, the trainer's, and the settings that were given (what makes this run this run).

    Raises:
        SystemExit: with a message, for an unknown key (and the nearest known one) or an impossible value.
    """
    argv = sys.argv[1:] if argv is None else argv
    # Abbreviations would let a misspelt key pass as another one.
    parser = HfArgumentParser((RunArguments, TrainingArguments), allow_abbrev=False)
    known = {action.dest for action in parser._actions}
    given = [word[2:].split("=")[0].replace("-", "_") for word in argv if word.startswith("--")]
    for key in given:
        refuse_unknown(key, known, "the command line")
    if default is not None:
        parser.set_defaults(config=[default])
    paths = parser.parse_known_args([word for word in argv if word not in ("-h", "--help")])[0].config
    settings = read_settings(paths)
    where = " and ".join(map(str, paths))
    for key in settings:
        refuse_unknown(key, known, where)
    parser.set_defaults(remove_unused_columns=False, report_to="tensorboard", **settings)
    try:
        run, training, rest = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
        _fit_batches(run, training)
    except ValueError as error:
        raise SystemExit(f"{where} or the command line: {error}") from error
    if rest:
        raise SystemExit(f"what is {rest} on the command line? Settings are given as --key value")
    _refuse_sharded_parameters(training)
    if run.selects and (training.max_steps > 0 or "num_train_epochs" in {*settings, *given}):
        raise SystemExit(
            "the steps of a selection follow from its budget, rounds and epochs: leave out max_steps (or give -1) and "
            "num_train_epochs"
        )
    if run.validation:
        _keep_the_best(run, training)
    own = {f.name for f in fields(RunArguments)}
    chosen = {k: getattr(run if k in own else training, k) for k in [*settings, *given] if k != "help"}
    return run, training, {k: v for k, v in sorted(chosen.items()) if k not in ("config", "output_dir")}


def refuse_unknown(
    key: str, known: Sequence[str] | Mapping[str, Any] | set[str], where: str, kind: str = "setting"
) -> None:
    """Stop for a key that is not known, with the nearest one that is.

    Raises:
        SystemExit: naming where the key stands.
    """
    if key not in known:
        near = get_close_matches(key, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SystemExit(f"{where} has an unknown {kind} {key!r}{hint}")


def _fit_batches(run: RunArguments, training: TrainingArguments) -> None:
    """Reach `global_batch_size` by gradient accumulation."""
    if run.global_batch_size is None:
        return
    at_once = training.train_batch_size * training.world_size
    if run.global_batch_size % at_once:
        raise ValueError(
            f"global_batch_size is {run.global_batch_size}; expected a multiple of the {at_once} rows that "
            f"{training.world_size} process(es) with {training.train_batch_size} rows each take at once"
        )
    training.gradient_accumulation_steps = run.global_batch_size // at_once


def _refuse_sharded_parameters(training: TrainingArguments) -> None:
    """Stop where parameters are sharded: answering rows and merging adapters would need whole ones."""
    plugin = training.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        raise SystemExit(
            "DeepSpeed ZeRO-3 is not supported: it shards the frozen backbone, which every process needs whole to "
            "answer rows. Take ZeRO-2 (recipes/accelerate/zero2.yaml), which shards what training adds to it"
        )
    if training.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        raise SystemExit("FSDP is not supported, for the same reason as ZeRO-3: take recipes/accelerate/zero2.yaml")


def _keep_the_best(run: RunArguments, training: TrainingArguments) -> None:
    """Evaluate on the validation rows whenever a checkpoint is due, and end with the best one."""
    training.eval_strategy = IntervalStrategy(training.save_strategy.value)
    training.eval_steps = training.save_steps
    training.load_best_model_at_end = True
    training.metric_for_best_model, training.greater_is_better = "eval_loss", False
    training.prediction_loss_only = True


def compare_with_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Stop if the folder holds a run with other settings.

    Raises:
        SystemExit: naming the settings that differ. Going on would mix two runs under one name.
    """
    path = folder / SETTINGS
    if not path.exists():
        return
    old, new = yaml.safe_load(path.read_text(encoding="utf-8")), yaml.safe_load(_as_yaml(settings))
    changed = [
        f"  {key}: {old.get(key, 'not set')!r} there, {new.get(key, 'not set')!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise SystemExit(
            f"{folder} holds a run with other settings:\n" + "\n".join(changed) + "\nChoose another --output_dir, or "
            "give the same settings to continue that run, or delete the folder."
        )


def keep_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Leave the settings in a run's folder, once it is clear that the run can begin."""
    path = folder / SETTINGS
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        aside.write_text(_as_yaml(settings), encoding="utf-8")
        aside.replace(path)


def _as_yaml(settings: dict[str, Any]) -> str:
    return yaml.safe_dump(json.loads(json.dumps(settings, default=str)), sort_keys=True, allow_unicode=True)


@contextmanager
def open_run(training: TrainingArguments, settings: dict[str, Any]) -> Iterator[Path]:
    """The output folder of a run, in whose context the run is prepared; and all cores of the machine for it.

    The settings, and how the run is launched, are kept in the folder when the run is prepared. What prevents that, a
    `ValueError`, ends the process with its message alone, and leaves no settings behind that would refuse the
    corrected ones.

    Raises:
        SystemExit: if the folder holds another run (see `compare_with_folder`), or the run cannot be prepared.
    """
    state = PartialState()
    folder = Path(training.output_dir)
    settings = settings | launch_settings(training)
    compare_with_folder(folder, settings)
    threads = use_all_cores(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    state.print(f"{state.num_processes} process(es), {threads} threads each, on {training.device}")
    state.wait_for_everyone()
    try:
        yield folder
    except ValueError as error:
        raise SystemExit(f"this run cannot begin: {error}") from error
    if state.is_main_process:
        keep_settings(folder, settings)
    state.wait_for_everyone()


def use_all_cores(local_processes: int) -> int:
    """Share the cores among the processes of this machine; `accelerate launch` alone would leave one thread each.

    A number of threads that the user chose (`OMP_NUM_THREADS` other than 1) stays.

    Returns:
        The threads of this process.
    """
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_processes))
    return torch.get_num_threads()
