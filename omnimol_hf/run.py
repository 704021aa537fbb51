"""What a training run is told and where it stands: its YAML and command line, and its output folder."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from omnimol_hf.mixture import parse_mixture
from omnimol_hf.selection import SelectionSettings

SETTINGS = "run.yaml"


@dataclass
class RunArguments:
    """The settings of a recipe besides `transformers.TrainingArguments`."""

    config: str = field(
        default="recipes/configs/quickstart.yaml", metadata={"help": "YAML file with the run's settings"}
    )
    dataset: str = field(default="starter", metadata={"help": "'starter', a folder, a hub id, or a file of rows"})
    dataset_dir: str = field(default="data/omni-mol-starter", metadata={"help": "where the starter data is built"})
    model: str | None = field(default=None, metadata={"help": "checkpoint to start from (path or hub id)"})
    new_model: dict | str | None = field(default=None, metadata={"help": "instead: sizes of a small random model"})
    trainable: list[str] | None = field(
        default=None, metadata={"help": "parts of the model that train, e.g. projector router experts; default: all"}
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
    max_heavy_atoms: int | None = field(default=None, metadata={"help": "leave out rows with larger molecules"})
    max_length: int | None = field(default=None, metadata={"help": "leave out rows with more tokens"})
    eval_rows: int = field(default=64, metadata={"help": "held-out rows a task that are answered at the end"})
    eval_batch_size: int = field(default=32, metadata={"help": "rows answered together"})
    max_new_tokens: int = field(default=256, metadata={"help": "longest answer"})

    def __post_init__(self) -> None:
        for name in ("new_model", "mixture", "selection"):
            if isinstance(value := getattr(self, name), str):
                try:
                    setattr(self, name, json.loads(value))
                except json.JSONDecodeError as error:
                    raise ValueError(f"{name} is {value!r}; expected names and values, such as {{...}}") from error
        if (self.model is None) == (self.new_model is None):
            raise ValueError("a run needs exactly one of 'model' (a checkpoint) and 'new_model' (sizes of a new one)")
        if self.tasks is not None:
            parse_mixture(self.tasks)  # a misspelt task is told before anything is loaded
        if self.selects and self.mixture:
            raise ValueError("a run has 'mixture' or 'selection', not both: the selection decides how tasks are mixed")
        if not 0 < self.proportion <= 1:
            raise ValueError(f"proportion is {self.proportion}; expected a number above 0 and up to 1")
        if self.eval_rows < 1:
            raise ValueError(f"eval_rows is {self.eval_rows}; at least one held-out row a task has to be scored")

    @property
    def selects(self) -> SelectionSettings | None:
        """How rows are selected; None when all are trained on."""
        settings = None if self.selection is None else SelectionSettings.parse(self.selection)
        return None if settings is None or settings.kind == "all" else settings


def parse_run(argv: list[str] | None = None) -> tuple[RunArguments, TrainingArguments, dict[str, Any]]:
    """Read the YAML file that `--config` names and the command line, which wins.

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
        _refuse_unknown(key, known, "the command line")
    path = Path(argv[argv.index("--config") + 1]) if "--config" in argv[:-1] else Path(RunArguments.config)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise SystemExit(f"cannot read the settings {path}: {error.strerror}") from error
    for key in settings:
        _refuse_unknown(key, known, str(path))
    parser.set_defaults(remove_unused_columns=False, report_to="none", **settings)
    try:
        run, training, rest = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    except ValueError as error:
        raise SystemExit(f"{path} or the command line: {error}") from error
    if rest:
        raise SystemExit(f"what is {rest} on the command line? Settings are given as --key value")
    if run.selects and (training.max_steps > 0 or "num_train_epochs" in {*settings, *given}):
        raise SystemExit(
            "the steps of a selection follow from its budget, rounds and epochs: leave out max_steps (or give -1) and "
            "num_train_epochs"
        )
    own = {f.name for f in fields(RunArguments)}
    chosen = {k: getattr(run if k in own else training, k) for k in [*settings, *given] if k != "help"}
    return run, training, {k: v for k, v in sorted(chosen.items()) if k not in ("config", "output_dir")}


def _refuse_unknown(key: str, known: set[str], where: str) -> None:
    if key not in known:
        near = get_close_matches(key, known, n=1)
        raise SystemExit(f"{where} has an unknown setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def compare_with_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Leave the settings in a new run's folder; stop if the folder holds a run with other settings.

    Raises:
        SystemExit: naming the settings that differ. Going on would mix two runs under one name.
    """
    path = folder / SETTINGS
    text = yaml.safe_dump(json.loads(json.dumps(settings, default=str)), sort_keys=True, allow_unicode=True)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
        return
    old, new = yaml.safe_load(path.read_text(encoding="utf-8")), yaml.safe_load(text)
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
