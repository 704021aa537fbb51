"""What every evaluation shares: which rows are held out, the model that answers them, and the scores."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import snapshot_download
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import is_bitsandbytes_available

import omnimol_hf.adapters  # noqa: F401  (makes adaptive LoRA known to PEFT)
from omnimol_hf.generation import GenerationSettings, answer_batches, length_batches
from omnimol_hf.metrics import baseline_predictions, score_task
from omnimol_hf.metrics.normalised import label_scales, normalised_score
from omnimol_hf.predictions import answer_to_file, fingerprint
from omnimol_hf.processing_omnimol import OmniMolProcessor
from omnimol_hf.rows import by_task, load_rows
from omnimol_hf.tasks import ALL_TASKS

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# Small, and in fp32 for good reasons; experts' deltas are no linear layers at all.
_NOT_QUANTISED = ["graph_encoder", "projector", "router", "experts", "lm_head"]


# --- rows ------------------------------------------------------------------------------------------------------------


class HeldOut(NamedTuple):
    """Rows to score on.

    Attributes:
        rows: in the dataset's order, tasks in the order of the paper's tables.
        train: the training rows of the same tasks, for baselines; None if there are none.
        about: `dataset`, `revision` (a hub dataset's commit; None for files), `split`, `rows` and `fingerprint`.
    """

    rows: list[dict[str, Any]]
    train: Dataset | None
    about: dict[str, Any]


def held_out_rows(
    source: str,
    tasks: Collection[str] | None = None,
    split: str = "test",
    per_task: int | None = None,
    seed: int = 0,
) -> HeldOut:
    """The rows of a split that a model is scored on.

    Args:
        source: see `omnimol_hf.rows.load_splits`.
        tasks: only these; None: all but `alignment`, which is there for training alone.
        per_task: so many rows of each task, drawn by `seed`; None: all of them.

    Raises:
        ValueError: for an unknown task, or one without rows in the split, or a missing split.
    """
    for task in tasks or ():
        if task not in ALL_TASKS:
            near = get_close_matches(task, ALL_TASKS, n=1)
            raise ValueError(f"unknown task {task!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    splits = load_rows(source, tasks)
    if split not in splits:
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(splits)}")
    parts = by_task(splits[split])
    if lost := [task for task in tasks or () if task not in parts]:
        raise ValueError(f"{source} has no {split} rows of {', '.join(lost)}; it has {', '.join(parts) or 'none'}")
    chosen = [task for task in parts if (task in tasks if tasks else task != "alignment")]
    if not chosen:
        raise ValueError(f"{source} has no {split} rows to score")
    rows = []
    for task in chosen:
        part = parts[task]
        if per_task is not None and per_task < len(part):
            part = part.select(sorted(np.random.default_rng(seed).permutation(len(part))[:per_task]))
        rows += list(part)
    train = splits["train"] if split != "train" and "train" in splits else None
    if train is not None:
        train = train.select(np.flatnonzero(np.isin(train["task"][:], chosen)))
    about = {
        "dataset": source,
        "revision": _revision(splits[split]),
        "split": split,
        "rows": len(rows),
        "fingerprint": fingerprint(rows),
    }
    return HeldOut(rows, train, about)


def _revision(rows: Dataset) -> str | None:
    """The commit of the hub dataset that rows were read from, by the files that they came from."""
    files = " ".join(rows.info.download_checksums or ())
    found = re.search(r"hf://datasets/[^@\s]+@([0-9a-f]{40})/", files)
    return found and found[1]


# --- models ----------------------------------------------------------------------------------------------------------


class LoadedModel(NamedTuple):
    """A model that answers, its processor, and `model`, `weights` (a digest) and other facts about it."""

    model: PreTrainedModel
    processor: OmniMolProcessor
    about: dict[str, Any]


def load_model(
    source: str, dtype: str = "auto", device: str | torch.device = "cpu", quantise: str | None = None
) -> LoadedModel:
    """A merged model, or a model with the adapter of a folder merged into it, ready to answer.

    Args:
        source: folder or hub id; a folder with `adapter_config.json` is an adapter and names its base model.
        dtype: one of `PRECISIONS`; `auto`: as it was saved.
        device: where it goes.
        quantise: `8bit` or `4bit`: load the linear layers through bitsandbytes, on a GPU.

    Raises:
        ValueError: for what cannot be loaded, an adapter of another base, or quantisation without a GPU.
    """
    if dtype not in PRECISIONS:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(PRECISIONS)}")
    folder = checkpoint_folder(source)
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    if is_adapter and quantise:
        raise ValueError(
            f"{source} is an adapter and cannot be merged into quantised weights; merge it first: "
            f"python -m omnimol_hf.adapters export --adapter {source} --to merged --out DIR"
        )
    settings = {"dtype": dtype} | (_quantised(quantise, device) if quantise else {})
    about = {"model": source, "weights": weights_digest(folder), "dtype": dtype, "quantise": quantise}
    if is_adapter:
        base = adapter_base(folder)
        about |= {"base": str(base), "base_weights": weights_digest(base)}
        model = _merged(base, folder, dtype)
        # An adapter may come without a processor of its own.
        folder = folder if (folder / "processor_config.json").is_file() else base
    else:
        _check_type(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, **settings)
    about["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    if not quantise:
        model = model.to(device)
    return LoadedModel(model.eval(), AutoProcessor.from_pretrained(folder), about)


def checkpoint_folder(source: str) -> Path:
    """The folder of a checkpoint or an adapter; one on the hub is downloaded to the hub's cache, without pickles.

    Raises:
        ValueError: if there is no such folder and no such repository.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, allow_patterns=["*.safetensors", "*.json", "*.jinja", "tokenizer*"]))
    except (OSError, ValueError) as error:
        raise ValueError(f"{source!r} is no folder and cannot be downloaded: {error}") from error


def weights_digest(folder: Path) -> str:
    """SHA-256 of the configuration and the weights of a checkpoint or an adapter.

    Raises:
        ValueError: if the folder holds no safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no model: there is no safetensors file in it")
    digest = hashlib.sha256()
    for path in [*sorted(folder.glob("*config.json")), *files]:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _check_type(folder: Path) -> None:
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind != "omnimol":
        raise ValueError(f"{folder} is a model of type {kind!r}; expected 'omnimol'")


def adapter_base(adapter: Path) -> Path:
    """The folder of the model that an adapter was trained on.

    Raises:
        ValueError: if the adapter does not name one, or it is not there.
    """
    name = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not name:
        raise ValueError(f"{adapter / ADAPTER_CONFIG} does not name its base model (base_model_name_or_path)")
    try:
        return checkpoint_folder(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the adapter {adapter} belongs to the model {name}, which cannot be read: {error}"
        ) from error


def _merged(base: Path, adapter: Path, dtype: str) -> PreTrainedModel:
    _check_type(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    try:
        adapted = PeftModel.from_pretrained(model, adapter)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the adapter {adapter} is for another base than {base}: {error}") from error
    # What has no place in the other one, PEFT leaves out with no more than a warning.
    with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
        lost = sorted(set(file.keys()) ^ get_peft_model_state_dict(adapted).keys())
    if lost:
        raise ValueError(f"the adapter {adapter} is for another base than {base}: only one of them has {lost[0]}")
    return adapted.merge_and_unload(safe_merge=True)


def _quantised(quantise: str, device: str | torch.device) -> dict[str, Any]:
    if quantise not in ("8bit", "4bit"):
        raise ValueError(f"quantise is {quantise!r}; expected '8bit' or '4bit'")
    if not torch.cuda.is_available():
        raise ValueError(f"quantise={quantise} needs a GPU, and PyTorch sees none on this machine")
    if not is_bitsandbytes_available():
        raise ValueError(f"quantise={quantise} needs bitsandbytes: pip install 'omnimol-hf[quantise]'")
    config = BitsAndBytesConfig(**{f"load_in_{quantise}": True}, llm_int8_skip_modules=_NOT_QUANTISED)
    return {"quantization_config": config, "device_map": {"": device}}


# --- answers ---------------------------------------------------------------------------------------------------------


def answer_rows(
    path: Path,
    loaded: LoadedModel,
    rows: Sequence[dict[str, Any]],
    about: Mapping[str, Any],
    settings: GenerationSettings,
    batch_size: int,
) -> int:
    """Answer rows into a file, or go on where an earlier run stopped; see `omnimol_hf.predictions.answer_to_file`.

    Args:
        about: of the rows, such as `HeldOut.about`.
        batch_size: rows answered together; drawn answers depend on it, others do not.

    Returns:
        How many rows this call answered.
    """
    facts = {key: value for key, value in loaded.about.items() if key != "parameters"}
    everything = {**about, **facts, "generation": asdict(settings)}
    if settings.do_sample:
        everything["batch_size"] = batch_size

    def answer(batches: Sequence[Sequence[int]]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        return answer_batches(loaded.model, loaded.processor, rows, batches, settings)

    return answer_to_file(path, everything, rows, length_batches(rows, batch_size), answer)


# --- scores ----------------------------------------------------------------------------------------------------------


def score_answers(
    rows: Sequence[Mapping[str, Any]],
    answers: Sequence[str],
    train: Dataset | None,
    tokenize: Callable[[str], list[str]],
) -> dict[str, Any]:
    """task -> protocol -> metric -> value, baseline, interval and misses; what `results.json` holds.

    Args:
        rows: held-out rows, of any tasks.
        answers: one for each row.
        train: rows for the baselines; None, or none of a task: its baselines are None.
        tokenize: the model tokenizer's, for the protocol `paper`.
    """
    train_rows = by_task(train) if train is not None else {}
    results = {}
    for task, places in places_by_task(rows).items():
        mine = [rows[i] for i in places]
        constant = baseline_predictions(ALL_TASKS[task], train_rows[task], mine) if task in train_rows else None
        results[task] = score_task(
            ALL_TASKS[task],
            [answers[i] for i in places],
            [row["output"] for row in mine],
            constant,
            subsets=[row["subset"] for row in mine],
            tokenize=tokenize,
        )
    return results


def places_by_task(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Where the rows of each task are, tasks in the order of the paper's tables."""
    places: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        places.setdefault(row["task"], []).append(i)
    return {task: places[task] for task in ALL_TASKS if task in places}


def row_scores(rows: Sequence[Mapping[str, Any]], answers: Sequence[str], train: Dataset | None) -> list[float]:
    """The normalised score in [0, 1] of each answer; numbers are measured by the spread of the training labels.

    Where there are no training labels of a task, the held-out ones stand in.
    """
    columns = ["task", "subset", "output"]
    spread = list(train.select_columns(columns)) if train is not None else []
    trained = {row["task"] for row in spread}
    scales = label_scales([*spread, *(row for row in rows if row["task"] not in trained)])
    return [normalised_score(row, answer, scales) for row, answer in zip(rows, answers, strict=True)]
