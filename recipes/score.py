"""Score models on held-out rows, beside baselines and the paper's numbers, and write a report.

    accelerate launch recipes/score.py --model PATH_OR_ID [PATH_OR_ID ...] --dataset PATH_OR_ID --out DIR
    accelerate launch recipes/score.py --model DIR/model --dataset data/omni-mol-starter --tasks logp tpsa --rows 200
    torchrun --nproc-per-node 2 recipes/score.py --device cpu ...       # several processes on a CPU

A model is a merged one, or the folder of an adapter, which names its base. Answers are greedy by default and come into
DIR/predictions.jsonl; the same command again continues a run that was killed. Scores are in DIR/results.json and
results.csv, those of all baselines in baselines.json, the report for people in report.html and report.md. With several
models, each has a folder of its own in DIR for its answers and scores, and the report compares them.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import HfArgumentParser

from omnimol_hf.analysis.report import results_table, write_results
from omnimol_hf.analysis.score_report import ScoredModel, write_report
from omnimol_hf.generation import GenerationSettings
from omnimol_hf.loading import load_model
from omnimol_hf.predictions import add_scores, read_predictions
from omnimol_hf.run import refuse_unknown, use_all_cores
from omnimol_hf.scoring import (
    HeldOut,
    answer_rows,
    held_out_rows,
    row_scores,
    score_all_baselines,
    score_answers,
)

RUN = "run.json"


@dataclass
class ScoreArguments:
    """What is scored, on which rows, and how answers are searched for."""

    model: list[str] = field(metadata={"help": "models or adapters, paths or hub ids"})
    dataset: str = field(metadata={"help": "a folder, a hub id, or a file of rows"})
    out: str = field(default="outputs/scores", metadata={"help": "where answers, scores and the report go"})
    tasks: list[str] | None = field(default=None, metadata={"help": "only these tasks; default: all that have rows"})
    split: str = field(default="test", metadata={"help": "the split that is scored"})
    rows: int | None = field(default=None, metadata={"help": "rows a task, drawn by the seed; default: all"})
    batch_size: int = field(default=32, metadata={"help": "rows answered together by each process"})
    max_new_tokens: int = field(default=512, metadata={"help": "longest answer, in tokens"})
    num_beams: int = field(default=1, metadata={"help": "beams; 1: greedy"})
    do_sample: bool = field(default=False, metadata={"help": "draw answers instead"})
    temperature: float = field(default=1.0, metadata={"help": "of the draws; the authors' code has 0.2"})
    top_p: float = field(default=1.0, metadata={"help": "of the draws"})
    top_k: int = field(default=50, metadata={"help": "of the draws; 0: all tokens"})
    candidates: int = field(default=1, metadata={"help": "answers a row; the first one is scored"})
    seed: int = field(default=0, metadata={"help": "of the rows and the draws"})
    baselines: str = field(
        default="all", metadata={"help": "all, or constant: without the nearest training row and fitted models"}
    )
    dtype: str = field(default="auto", metadata={"help": "auto (as saved), float32, bfloat16 or float16"})
    device: str = field(default="auto", metadata={"help": "auto, or cpu where there is a GPU"})
    quantise: str | None = field(default=None, metadata={"help": "8bit or 4bit, through bitsandbytes on a GPU"})

    def __post_init__(self) -> None:
        for name in ("rows", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected a whole number from 1")
        if self.device not in ("auto", "cpu"):
            raise ValueError(f"device is {self.device!r}; expected 'auto' or 'cpu'")
        if self.baselines not in ("all", "constant"):
            raise ValueError(f"baselines is {self.baselines!r}; expected 'all' or 'constant'")
        self.generation  # noqa: B018 (its checks, before anything is loaded)

    @property
    def generation(self) -> GenerationSettings:
        """How answers are searched for."""
        own = {f.name for f in fields(GenerationSettings)}
        return GenerationSettings(**{name: value for name, value in vars(self).items() if name in own})


def parse_arguments(argv: list[str] | None = None) -> ScoreArguments:
    """Read the command line.

    Raises:
        SystemExit: with a message, for an unknown setting (and the nearest known one) or an impossible value.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = HfArgumentParser(ScoreArguments, allow_abbrev=False)
    known = {f.name for f in fields(ScoreArguments)} | {"help"}
    for word in argv:
        if word.startswith("--"):
            refuse_unknown(word[2:].split("=")[0].replace("-", "_"), known, "the command line")
    try:
        return parser.parse_args_into_dataclasses(argv)[0]
    except ValueError as error:
        raise SystemExit(f"the command line: {error}") from error


def model_names(sources: list[str]) -> list[str]:
    """A short name for each model: the last parts of its path that tell it from the others; `DIR/model` is DIR."""
    paths = [[part for part in Path(source).parts if part not in ("/", "..")] for source in sources]
    paths = [parts[:-1] if parts[-1:] == ["model"] and len(parts) > 1 else parts for parts in paths]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["-".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise SystemExit(f"--model names one model twice: {' '.join(sources)}")


def versions() -> dict[str, str]:
    """What the scores were computed with."""
    packages = ("omnimol-hf", "torch", "transformers", "peft", "accelerate", "datasets", "rdkit", "selfies", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def command(processes: int) -> str:
    """The line that started this run, by what its environment tells."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        start = ["accelerate", "launch", "--num_processes", str(processes)]
    else:
        start = ["torchrun", "--nproc-per-node", str(processes)] if processes > 1 else ["python"]
    return shlex.join([*start, *sys.argv])


def answer(options: ScoreArguments, held: HeldOut, names: list[str], folders: list[Path]) -> dict[str, Any]:
    """Let each model answer all rows into its file; what a report says of the models, by name."""
    state = PartialState()
    before = Path(options.out) / RUN
    timed = json.loads(before.read_text(encoding="utf-8"))["models"] if before.exists() else {}
    models = {}
    for name, source, folder in zip(names, options.model, folders, strict=True):
        state.print(f"{name}: {source}")
        loaded = load_model(source, options.dtype, state.device, options.quantise)
        start = time.perf_counter()
        answered = answer_rows(
            folder / "predictions.jsonl", loaded, held.rows, held.about, options.generation, options.batch_size
        )
        seconds = time.perf_counter() - start
        facts = {"rows_answered": answered, "seconds_per_row": seconds / answered} if answered else {}
        if not answered:
            state.print(f"{folder}/predictions.jsonl is there already and whole: no row is answered anew")
            facts = {key: timed.get(name, {}).get(key) for key in ("rows_answered", "seconds_per_row")}
        models[name] = loaded.about | facts | {"processor": loaded.processor}
    return models


def main() -> None:
    options = parse_arguments()
    state = PartialState(cpu=options.device == "cpu")
    threads = use_all_cores(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    out = Path(options.out)
    names = model_names(options.model)
    folders = [out if len(names) == 1 else out / name for name in names]
    try:
        with state.main_process_first():
            held = held_out_rows(options.dataset, options.tasks, options.split, options.rows, options.seed)
        models = answer(options, held, names, folders)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    if not state.is_main_process:
        return
    scored = []
    start = time.perf_counter()
    tokenize = models[names[0]]["processor"].tokenizer.tokenize
    baselines = None
    if options.baselines == "all":
        baselines = score_all_baselines(held.rows, held.train, tokenize)
        write_results(baselines, out / "baselines.json")
    for name, folder in zip(names, folders, strict=True):
        answers = read_predictions(folder / "predictions.jsonl")
        texts = [one["answer"] for one in answers]
        results = score_answers(held.rows, texts, held.train, models[name].pop("processor").tokenizer.tokenize)
        write_results(results, folder / "results.json")
        rho = row_scores(held.rows, texts, held.train)
        add_scores(folder / "predictions.jsonl", rho)
        scored.append(ScoredModel(name, results, answers, rho))
        print(f"\n{name}\n{results_table(results)}")
    device = torch.cuda.get_device_name() if state.device.type == "cuda" else platform.processor() or "CPU"
    run = {
        "command": command(state.num_processes),
        "data": held.about,
        "models": models,
        "generation": vars(options.generation),
        "batch_size": options.batch_size,
        "device": f"{device}, {state.num_processes} process(es) of {threads} threads",
        "versions": versions(),
        "seconds_scoring": time.perf_counter() - start,
    }
    write_results(run, out / RUN)
    write_report(out, held.rows, scored, run, baselines)
    print(f"\nscores: {', '.join(str(folder / 'results.json') for folder in folders)}\nreport: {out}/report.html")


if __name__ == "__main__":
    main()
