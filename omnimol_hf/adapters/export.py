"""What a trained adapter is published as.

- `folded`: a stock PEFT LoRA adapter, gamma multiplied into B, for `PeftModel.from_pretrained` on any machine.
- `merged`: the whole model with the adapter in its weights, for `AutoModel` without PEFT; experts stay deltas.
- `full-experts`: the same with every expert a feed-forward network of its own (`expert_training="full"`).

All three give the logits of the adapter; none holds a pickle.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, PreTrainedModel

from omnimol_hf.adapters.config import AdaptiveLoraConfig, AdaptivePeftType
from omnimol_hf.adapters.layer import GAMMA_PARAMETERS
from omnimol_hf.checkpoints import whole_folder
from omnimol_hf.configuration_omnimol import OmniMolConfig
from omnimol_hf.llama_licence import copy_legal_files
from omnimol_hf.moe_omnimol import PROJECTIONS, AnchorReconcileMoE, LowRankExperts, adaptive_gamma
from omnimol_hf.stored_weights import checkpoint_folder

FORMATS = ("folded", "merged", "full-experts")
_OWN_KEYS = {f.name for f in fields(AdaptiveLoraConfig)} - {f.name for f in fields(LoraConfig)}


def export(adapter: str | Path, to: str, out: str | Path, base: str | Path | None = None) -> None:
    """Write a trained adapter as a stock adapter or as a whole model.

    Args:
        adapter: folder that `save_pretrained` or a checkpoint of the trainer made.
        to: one of `FORMATS`.
        out: folder to make; it is there whole or not at all.
        base: the model that the adapter was trained on; None: what the adapter names. Of this one `folded` reads
            the config only, and only for the experts' gammas.

    Raises:
        ValueError: for folders and formats that this cannot be done with.
    """
    adapter, out = Path(adapter), Path(out)
    if to not in FORMATS:
        raise ValueError(f"the format is {to!r}; expected one of {FORMATS}")
    if out.exists():
        raise ValueError(f"{out} exists already; give a new folder")
    if missing := [name for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME) if not (adapter / name).is_file()]:
        raise ValueError(f"{adapter} is no adapter in safetensors: it has no {' and no '.join(missing)}")
    settings = json.loads((adapter / CONFIG_NAME).read_text())
    if to == "folded":
        if settings["peft_type"] != AdaptivePeftType.ADAPTIVE_LORA:
            raise ValueError(f"{adapter} has peft_type {settings['peft_type']!r}: there is no gamma to fold")
        tensors = fold(load_file(adapter / SAFETENSORS_WEIGHTS_NAME), settings)
        if any(name.endswith("experts.gamma_alpha") for name in tensors):
            tensors = fold_deltas(tensors, settings, AutoConfig.from_pretrained(_named_base(base, adapter, settings)))
        with whole_folder(out) as aside:
            save_file(tensors, aside / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
            (aside / CONFIG_NAME).write_text(json.dumps(stock_settings(settings), indent=2, sort_keys=True) + "\n")
            if (adapter / "README.md").is_file():
                shutil.copyfile(adapter / "README.md", aside / "README.md")
            copy_legal_files(adapter, aside, version=None)
        return
    folder = checkpoint_folder(_named_base(base, adapter, settings))
    with whole_folder(out) as aside:
        save_model(merged_model(folder, adapter), aside, full_experts=to == "full-experts")
        if (folder / "processor_config.json").is_file():
            AutoProcessor.from_pretrained(folder).save_pretrained(aside)
        copy_legal_files(folder, aside, version=None)


def _named_base(base: str | Path | None, adapter: Path, settings: dict[str, Any]) -> str | Path:
    """The model that the adapter was trained on: the given one, or what the adapter says."""
    base = base or settings["base_model_name_or_path"]
    if not base:
        raise ValueError(f"{adapter} does not say which model it was trained on: give that one as base")
    return base


def fold(tensors: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a stock LoRA adapter whose scale is 1: B times gamma in B's place, and no gammas.

    Args:
        tensors: those of a saved adaptive adapter.
        settings: its `adapter_config.json`.
    """
    folded = {name: tensor for name, tensor in tensors.items() if name.rsplit(".", 1)[-1] not in GAMMA_PARAMETERS}
    alphas = settings["alpha_pattern"]
    for name in tensors:
        layer, dot, end = name.rpartition(".lora_A.")
        if not dot or end != "weight":
            continue
        alpha = alphas.get(get_pattern_key(alphas, layer.removeprefix("base_model.model.")), settings["lora_alpha"])
        offsets = [tensors[f"{layer}.{key}"] for key in GAMMA_PARAMETERS if f"{layer}.{key}" in tensors]
        p, gamma_range = settings["gamma_p"], settings["gamma_range"]
        gamma = adaptive_gamma(alpha, len(tensors[name]), p, *offsets, gamma_range=gamma_range)
        folded[f"{layer}.lora_B.weight"] = gamma * tensors[f"{layer}.lora_B.weight"]
    return folded


def fold_deltas(tensors: dict[str, Tensor], settings: dict[str, Any], base: OmniMolConfig) -> dict[str, Tensor]:
    """The tensors with the experts' gammas at the start that they have in the base model, and B scaled accordingly.

    Stock PEFT puts the deltas into the base model, whose config alone then says how gamma is made.

    Args:
        tensors, settings: see `fold`.
        base: the config of the model that the adapter was trained on.
    """
    trained = copy.deepcopy(base)
    trained.expert_alpha, trained.gamma_p = settings["lora_alpha"], settings["gamma_p"]
    trained.gamma_range, trained.learn_gamma_p = settings["gamma_range"], settings["learn_p"]
    folded = dict(tensors)
    for name in tensors:
        prefix, found, _ = name.rpartition("gamma_alpha")
        if not found or not prefix.endswith("experts."):
            continue
        deltas = LowRankExperts(trained)
        deltas.load_state_dict({key: tensors[f"{prefix}{key}"] for key in deltas.state_dict()})
        deltas.restart_gamma(base.expert_alpha, base.gamma_p, base.gamma_range, base.learn_gamma_p)
        folded.pop(f"{prefix}gamma_p", None)
        folded |= {f"{prefix}{key}": tensor for key, tensor in deltas.state_dict().items()}
    return folded


def stock_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The `adapter_config.json` of the folded adapter: alpha = r in each layer, so that LoRA's scale is 1."""
    stock = {key: value for key, value in settings.items() if key not in _OWN_KEYS}
    return stock | {"peft_type": "LORA", "lora_alpha": settings["r"], "alpha_pattern": settings["rank_pattern"]}


def merged_model(base: Path, adapter: Path, dtype: str = "auto") -> PreTrainedModel:
    """The base model with the adapter in its weights, and the trained deltas, routers, projector and tokens in it.

    Raises:
        ValueError: if the adapter was trained on another base: one of another type, vocabulary or structure.
    """
    kind = AutoConfig.from_pretrained(base).model_type
    if kind != "omnimol":
        raise ValueError(f"{base} is a model of type {kind!r}; expected 'omnimol'")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    try:
        adapted = PeftModel.from_pretrained(model, adapter)
    except (IndexError, KeyError, RuntimeError) as error:
        raise ValueError(f"the adapter {adapter} is for another base than {base}: {error}") from error
    # What has no place in the other one, PEFT leaves out with no more than a warning.
    with safe_open(adapter / SAFETENSORS_WEIGHTS_NAME, "pt") as file:
        lost = sorted(set(file.keys()) ^ get_peft_model_state_dict(adapted).keys())
    if lost:
        raise ValueError(f"the adapter {adapter} is for another base than {base}: only one of them has {lost[0]}")
    return adapted.merge_and_unload(safe_merge=True)


def save_model(model: PreTrainedModel, folder: Path, full_experts: bool = False) -> None:
    """Save a model in a folder, with its experts as whole networks if asked for."""
    weights = None
    if full_experts and model.config.expert_training == "lora":
        weights = full_expert_weights(model)
        model.config.expert_training = "full"
    model.save_pretrained(folder, state_dict=weights)
    # save_pretrained takes the dtype of the first weight, which is the graph encoder's fp32 in any model.
    config = copy.deepcopy(model.config)
    config.dtype = model.get_input_embeddings().weight.dtype
    config.save_pretrained(folder)


@torch.no_grad()
def full_expert_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's tensors with `experts.{e}.{gate,up,down}_proj` in the place of the shared network and its deltas."""
    weights = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if ".mlp.base." not in name and ".mlp.experts." not in name
    }
    for name, block in model.named_modules():
        if not isinstance(block, AnchorReconcileMoE):
            continue
        for expert in range(model.config.experts_per_layer):
            for projection in PROJECTIONS:
                shared = getattr(block.base, f"{projection}_proj")
                whole = f"{name}.experts.{expert}.{projection}_proj"
                delta = block.experts.delta(projection, expert)
                weights[f"{whole}.weight"] = (shared.weight + delta).to(shared.weight.dtype)
                if shared.bias is not None:
                    weights[f"{whole}.bias"] = shared.bias.clone()
    return weights
