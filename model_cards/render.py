"""The README.md of a published model, filled only from its files and from scores that were measured on it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from omnimol_hf import OmniMolConfig
from omnimol_hf.llama_licence import llama_version
from omnimol_hf.stored_weights import stored_tensors
from omnimol_hf.tasks import ALL_TASKS, TASKS

TEMPLATE = Path(__file__).with_name("omni-mol.md.jinja")
PROTOCOLS = {
    "strict": "every row counts, an unreadable answer is a miss, stereochemistry counts",
    "paper": "what the authors' published code computes",
}


def model_card(
    model_dir: Path, results: Path | None, run_settings: Path | None, repo_id: str, revision: str = "main"
) -> ModelCard:
    """The card of a saved model; of the weights only the headers are read.

    Args:
        model_dir: a checkpoint with its processor.
        results: `results.json` of this model (task -> protocol -> metric -> fields); None: the card says that the
            model was not scored.
        run_settings: `run.yaml` of the training run; None: the card says that it is unknown.
        repo_id: where the model will be, `ORG/NAME`.
        revision: what the lines that load the model pin.

    Raises:
        ValueError: if a file cannot be read, or a score lacks a field.
    """
    config = OmniMolConfig.from_pretrained(model_dir)
    scores = read_results(results) if results else {}
    run = _read_run(run_settings) if run_settings else {}
    backbone, dataset = run.get("model"), run.get("dataset")
    llama = derived_llama(model_dir, run_settings)
    licence = _licence(model_dir, run, llama)
    name = repo_id.split("/")[-1]
    data = ModelCardData(
        model_name=name,
        language="en",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["chemistry", "molecules", "selfies", "moe", "multimodal", "omnimol"],
        datasets=[dataset] if dataset and _is_hub_id(dataset) else None,
        base_model=backbone if backbone and _is_hub_id(backbone) else None,
        eval_results=_eval_results(scores, *_scored_rows(results, dataset)) or None,
        **licence,
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=name,
        loading=loading_lines(repo_id, revision),
        config=config,
        parameters=count_parameters(model_dir, config),
        steps=_steps(model_dir),
        run=run,
        backbone=Path(backbone).name if backbone and not _is_hub_id(backbone) else backbone,
        dataset=_shown_dataset(dataset),
        llama=llama,
        licence=licence,
        scores=scores,
        rows=_score_rows(scores),
        not_better=_not_better(scores),
        protocols=PROTOCOLS,
        tasks={name: task for name, task in ALL_TASKS.items() if name in TASKS or name in scores},
    )


def loading_lines(repo_id: str, revision: str) -> str:
    """The three lines that load a published model."""
    arguments = f'"{repo_id}", trust_remote_code=True, revision="{revision}"'
    return (
        "from transformers import AutoModel, AutoProcessor\n"
        f"model = AutoModel.from_pretrained({arguments})\n"
        f"processor = AutoProcessor.from_pretrained({arguments})"
    )


def derived_llama(model_dir: Path, run_settings: Path | None) -> str | None:
    """The version of Meta's Llama that a saved model derives from, by its files or by what its run started from."""
    backbone = str(_read_run(run_settings).get("model") or "") if run_settings else ""
    return llama_version(model_dir, backbone)


def count_parameters(model_dir: Path, config: OmniMolConfig) -> dict[str, int]:
    """`total` stored parameters, and those that are `active` for a token: without the experts it does not go to."""
    statistics = (".running_mean", ".running_var", ".num_batches_tracked")
    stored = stored_tensors(model_dir)
    sizes = {key: math.prod(tensor.shape) for key, tensor in stored.items() if not key.endswith(statistics)}
    experts = sum(size for key, size in sizes.items() if ".mlp.experts." in key)
    idle = experts * (config.num_experts - config.num_experts_per_tok) // config.experts_per_layer
    return {"total": sum(sizes.values()), "active": sum(sizes.values()) - idle}


def read_results(path: Path) -> dict[str, Any]:
    """Scores as the recipes write them, checked: task -> protocol -> metric -> fields.

    Raises:
        ValueError: for a file that is no such thing, naming what is wrong.
    """
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the scores {path}: {error}") from error
    for task, protocols in scores.items():
        if task not in ALL_TASKS:
            raise ValueError(f"{path} has scores of an unknown task {task!r}; known: {', '.join(ALL_TASKS)}")
        for protocol in PROTOCOLS:
            for metric, fields in protocols[protocol].items() if protocol in protocols else [(protocol, {})]:
                if lost := {"value", "baseline", "low", "high", "n"} - fields.keys():
                    raise ValueError(f"{path}: {task}/{protocol}/{metric} lacks {', '.join(sorted(lost))}")
    return scores


def _read_run(path: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read the run's settings {path}: {error}") from error


def _steps(model_dir: Path) -> int | None:
    """Optimiser steps that the last training run took, by its own log."""
    log = model_dir / "training_log.json"
    return json.loads(log.read_text())[-1]["step"] if log.is_file() else None


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()


def _shown_dataset(dataset: str | None) -> str | None:
    """A dataset's name for the card; of a local folder or file only the last part."""
    if dataset == "starter":
        return "the starter data (`python -m dataset_builders build --source starter`)"
    if dataset is None or _is_hub_id(dataset):
        return dataset and f"[{dataset}](https://huggingface.co/datasets/{dataset})"
    return f"`{Path(dataset).name}` (a local file or folder)"


def _licence(model_dir: Path, run: Mapping[str, Any], llama: str | None) -> dict[str, str]:
    """The card's licence keys: Llama's, the file that came with the backbone, or this project's."""
    if llama:
        return {"license": f"llama{llama}"}
    if files := sorted(model_dir.glob("LICEN[SC]E*")):
        return {"license": "other", "license_name": "backbone", "license_link": files[0].name}
    return {"license": "apache-2.0" if run.get("new_model") else "unknown"}


def _score_rows(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a task and headline metric of the strict protocol."""
    if not scores:
        return []
    from omnimol_hf.analysis.report import HEADLINES, is_better  # the metrics' packages: only where there are scores
    from omnimol_hf.metrics import baseline_name

    return [
        {"task": name, "metric": metric, "baseline_name": baseline_name(task), "main": place == 0, "better": better}
        | fields
        for name, task in ALL_TASKS.items()
        if name in scores
        for place, metric in enumerate(HEADLINES[task.answer])
        if (fields := scores[name]["strict"].get(metric))
        for better in [is_better(metric, fields)]
    ]


def _not_better(scores: Mapping[str, Any]) -> list[str]:
    """Tasks whose main score does not beat the baseline by more than chance."""
    return [row["task"] for row in _score_rows(scores) if row["main"] and not row["better"]]


def _scored_rows(results: Path | None, dataset: str | None) -> tuple[str, str]:
    """The data and the split that scores were measured on: what `recipes/score.py` left beside them, else the held-out
    rows of the training run's dataset."""
    run = results and results.with_name("run.json")
    if run and run.is_file():
        data = json.loads(run.read_text(encoding="utf-8"))["data"]
        dataset, split = data["dataset"], data["split"]
    else:
        split = "test"
    source = "omni-mol-starter" if dataset in (None, "starter") else dataset
    return source if _is_hub_id(source) else Path(source).name, split


def _eval_results(scores: Mapping[str, Any], source: str, split: str) -> list[EvalResult]:
    """The headline scores for the card's `model-index`."""
    return [
        EvalResult(
            task_type="text-generation",
            task_name=row["task"],
            dataset_type=source,
            dataset_name=f"{source} ({row['task']})",
            dataset_config=row["task"],
            dataset_split=split,
            metric_type=row["metric"],
            metric_name=f"{row['metric']} (strict)",
            metric_value=row["value"],
        )
        for row in _score_rows(scores)
        if row["value"] is not None
    ]
