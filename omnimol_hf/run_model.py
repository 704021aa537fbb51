"""The model of a run: where it starts, what of it trains, and how it is saved at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from huggingface_hub import snapshot_download
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, TrainingArguments

from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters, trainable_summary
from omnimol_hf.adapters.export import export
from omnimol_hf.checkpoints import stops_plainly, whole_folder
from omnimol_hf.from_scratch import new_model, new_processor
from omnimol_hf.modeling_omnimol import OmniMolForCausalLM
from omnimol_hf.processing_omnimol import OmniMolProcessor
from omnimol_hf.run import RunArguments
from omnimol_hf.training import OmniMolTrainer, select_trainable
from omnimol_hf.upcycling import upcycle

ADAPTER_KINDS = ("adaptive", "lora", "rslora")


def starting_folder(run: RunArguments, folder: Path) -> str:
    """What the run starts from: its checkpoint, or DIR/initial, where a new or upcycled model is kept."""
    return run.model or str(folder / "initial")


def prepare_model(
    run: RunArguments, training: TrainingArguments, folder: Path, train: Dataset
) -> tuple[OmniMolForCausalLM, OmniMolProcessor]:
    """Load the model that the run starts from, with its projector of stage 1.

    A new or an upcycled model is first made and saved in DIR/initial, so that a continued run and all processes have
    the same one.

    Raises:
        ValueError: for a checkpoint that is no Omni-Mol model, a backbone that cannot become one, and a projector
            that does not fit.
    """
    source = starting_folder(run, folder)
    if run.backbone and not Path(source).exists():
        try:
            upcycle(run.backbone, source, **{"seed": training.seed} | (run.upcycle or {}), check_name=False)
        except TypeError as error:
            raise ValueError(f"upcycle: {error}") from error
    if run.new_model and not Path(source).exists():
        sizes = dict(run.new_model)
        processor = new_processor(train, sizes.pop("vocab_size"))
        model = new_model(processor, sizes.pop("text_config"), training.seed, **sizes)
        with whole_folder(Path(source)) as aside:
            model.save_pretrained(aside)
            processor.save_pretrained(aside)
    _check_architecture(source)
    model = AutoModelForCausalLM.from_pretrained(source)
    if run.projector:
        load_projector(model, Path(run.projector))
    if training.gradient_checkpointing:
        model.config.text_config.use_cache = False
    return model, AutoProcessor.from_pretrained(source)


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


def choose_what_trains(model: OmniMolForCausalLM, run: RunArguments) -> tuple[nn.Module, dict[str, int]]:
    """Put adapters on the model, or freeze all parts but the named ones.

    Returns:
        The model to train, and what trains: the part and its number of parameters, with `"frozen"` as the last entry.
    """
    if run.adapter is None:
        return model, select_trainable(model, run.trainable)
    adapted = add_adapters(model, adapter_config(run.adapter))
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


def _legal_folder(model: str) -> Path:
    """The folder with the licence and notices of a checkpoint, which may be on the hub."""
    if Path(model).is_dir():
        return Path(model)
    return Path(snapshot_download(model, allow_patterns=["LICEN*", "NOTICE*", "USE*"]))


def save_trained(trainer: OmniMolTrainer, start: str, folder: Path) -> None:
    """Save DIR/model, which `AutoModel` loads without PEFT; adapters also as they are, in DIR/adapter.

    Args:
        start: what the run started from; its licence and notice files go along.
    """
    model, adapter = folder / "model", folder / "adapter"
    if not isinstance(trainer.accelerator.unwrap_model(trainer.model), PeftModel):
        trainer.save_whole_model(model, _legal_folder(start))
        return
    if not adapter.exists():
        trainer.save_whole_model(adapter, _legal_folder(start))
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
