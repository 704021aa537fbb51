"""The model of a run: where it starts, what of it trains, and how it is saved at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, TrainingArguments

from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters, trainable_summary
from omnimol_hf.adapters.export import export, save_model
from omnimol_hf.checkpoints import stops_plainly, whole_folder
from omnimol_hf.from_scratch import new_model, new_processor
from omnimol_hf.llama_licence import copy_legal_files
from omnimol_hf.modeling_omnimol import OmniMolForCausalLM
from omnimol_hf.processing_omnimol import OmniMolProcessor
from omnimol_hf.run import RunArguments
from omnimol_hf.selfies_tokens import (
    add_selfies_tokens,
    add_symbols,
    check_vocabulary,
    selfies_symbols,
    selfies_token_ids,
)
from omnimol_hf.stored_weights import checkpoint_folder
from omnimol_hf.training import OmniMolTrainer, select_trainable
from omnimol_hf.upcycling import upcycle

ADAPTER_KINDS = ("adaptive", "lora", "rslora")


def starting_folder(run: RunArguments, folder: Path) -> str:
    """What the run starts from: its checkpoint, or DIR/initial, where a new, upcycled or enlarged model is kept."""
    return run.model if run.model and not run.selfies_tokens else str(folder / "initial")


def prepare_model(
    run: RunArguments, training: TrainingArguments, folder: Path, train: Dataset
) -> tuple[OmniMolForCausalLM, OmniMolProcessor]:
    """Load the model that the run starts from, with its projector of stage 1.

    A new, an upcycled or an enlarged model is first made and saved in DIR/initial, so that a continued run and all
    processes have the same one.

    Raises:
        ValueError: for a checkpoint that is no Omni-Mol model, a backbone that cannot become one, and a projector
            that does not fit.
    """
    source = starting_folder(run, folder)
    if source != run.model and not Path(source).exists():
        _make_start(run, training.seed, train, Path(source))
    model, processor = _load(source)
    if run.projector:
        load_projector(model, Path(run.projector))
    if training.gradient_checkpointing:
        model.config.text_config.use_cache = False
    return model, processor


def _make_start(run: RunArguments, seed: int, train: Dataset, folder: Path) -> None:
    """Make the model that a run starts from: whole, or nothing."""
    symbols = selfies_symbols(train) if run.selfies_tokens else []
    if run.backbone and not symbols:
        _upcycle(run, seed, folder)
        return
    with whole_folder(folder) as aside, TemporaryDirectory(dir=aside) as upcycled:
        if run.new_model:
            sizes = dict(run.new_model)
            processor = new_processor(train, sizes.pop("vocab_size"), sizes.pop("selfies_units", True))
            add_symbols(processor.tokenizer, symbols)
            model = new_model(processor, sizes.pop("text_config"), seed, **sizes)
        else:
            source = run.model
            if run.backbone:
                source = upcycled + "/model"
                _upcycle(run, seed, Path(source))
            model, processor = _load(source)
            add_selfies_tokens(model, processor, symbols)
            copy_legal_files(checkpoint_folder(source), aside, version=None)
        save_model(model, aside)
        processor.save_pretrained(aside)


def _upcycle(run: RunArguments, seed: int, folder: Path) -> None:
    try:
        upcycle(run.backbone, folder, **{"seed": seed} | (run.upcycle or {}), check_name=False)
    except TypeError as error:
        raise ValueError(f"upcycle: {error}") from error


def _load(source: str) -> tuple[OmniMolForCausalLM, OmniMolProcessor]:
    _check_architecture(source)
    model, processor = AutoModelForCausalLM.from_pretrained(source), AutoProcessor.from_pretrained(source)
    check_vocabulary(model, processor.tokenizer, source)
    return model, processor


def _check_architecture(source: str) -> None:
    kind = AutoConfig.from_pretrained(source).model_type
    if kind == "llama":
        raise ValueError(f"{source} is a plain Llama: give it as 'backbone', and it is made into an Omni-Mol model")
    if kind != "omnimol":
        raise ValueError(f"{source} is a model of type {kind!r}; expected 'omnimol'")


# --- what trains -----------------------------------------------------------------------------------------------------


def adapter_config(settings: Mapping[str, Any]) -> LoraConfig:
    """PEFT's configuration of a run's `adapter` setting.

    Args:
        settings: `kind`, one of `ADAPTER_KINDS` (default: adaptive), and settings of `AdaptiveLoraConfig`. Plain LoRA
            starts with the same r, alpha and dropout, and takes no notice of those of gamma.

    Raises:
        ValueError: for an unknown kind, setting or value.
    """
    given = {key: value for key, value in settings.items() if key != "kind"}
    kind = settings.get("kind", "adaptive")
    if kind not in ADAPTER_KINDS:
        raise ValueError(f"adapter: kind is {kind!r}; expected one of {', '.join(ADAPTER_KINDS)}")
    try:
        adaptive = AdaptiveLoraConfig(**given)
    except TypeError as error:
        raise ValueError(f"adapter: {error}") from error
    if kind == "adaptive":
        return adaptive
    plain = {key: value for key, value in given.items() if key in {f.name for f in fields(LoraConfig)}}
    paper = {name: getattr(adaptive, name) for name in ("r", "lora_alpha", "lora_dropout", "task_type")}
    return LoraConfig(**paper | plain | {"use_rslora": kind == "rslora"})


def choose_what_trains(
    model: OmniMolForCausalLM, run: RunArguments, processor: OmniMolProcessor
) -> tuple[nn.Module, dict[str, int]]:
    """Put adapters on the model, or freeze all parts but the named ones. Beside adapters, SELFIES tokens train.

    Returns:
        The model to train, and what trains: the part and its number of parameters, with `"frozen"` as the last entry.
    """
    if run.adapter is None:
        return model, select_trainable(model, run.trainable)
    token_ids = selfies_token_ids(processor.tokenizer) if run.selfies_tokens else ()
    adapted = add_adapters(model, adapter_config(run.adapter), token_ids=token_ids)
    counts = trainable_summary(adapted)
    counts["frozen"] += sum(weight.numel() for weight in model.model.graph_encoder.buffers())
    return adapted, counts


# --- the projector of stage 1 ----------------------------------------------------------------------------------------


def save_projector(model: OmniMolForCausalLM, path: Path) -> None:
    """Write the projector alone, in fp32, as safetensors whose header says what it fits."""
    tensors = {
        name: tensor.detach().float().cpu().contiguous() for name, tensor in model.model.projector.state_dict().items()
    }
    aside = path.with_name(path.name + ".unfinished")
    save_file(tensors, aside, metadata={"format": "pt", "projector": model.config.projector})
    aside.rename(path)


@torch.no_grad()
def load_projector(model: OmniMolForCausalLM, path: Path) -> None:
    """Put a projector that `save_projector` wrote into a model, in fp32 as it is.

    Raises:
        ValueError: if the file cannot be read, or its tensors have other names or shapes than the model's.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the projector {path} cannot be read as safetensors: {error}") from error
    own = model.model.projector.float().state_dict()
    found, expected = ({name: tuple(t.shape) for name, t in sorted(part.items())} for part in (tensors, own))
    if found != expected:
        raise ValueError(f"the projector {path} does not fit the model: it has {found}, the model's has {expected}")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


# --- the end ---------------------------------------------------------------------------------------------------------


def save_trained(trainer: OmniMolTrainer, start: str, folder: Path) -> None:
    """Save DIR/model, which `AutoModel` loads without PEFT; adapters also as they are, in DIR/adapter.

    Args:
        start: what the run started from; its licence and notice files go along.
    """
    model, adapter = folder / "model", folder / "adapter"
    if not isinstance(trainer.accelerator.unwrap_model(trainer.model), PeftModel):
        trainer.save_whole_model(model, checkpoint_folder(start))
        return
    if not adapter.exists():
        trainer.save_whole_model(adapter, checkpoint_folder(start))
    if trainer.args.should_save:
        with stops_plainly("the model", model), whole_folder(model) as aside:
            merged = aside / "merged"
            export(adapter, "merged", merged, base=start)
            for path in merged.iterdir():
                path.rename(aside / path.name)
            merged.rmdir()
            log = json.loads((adapter / "training_log.json").read_text())
            (aside / "training_log.json").write_text(json.dumps(log, indent=1))
    trainer.accelerator.wait_for_everyone()
