"""Models as they are scored: merged ones, adapters on their base, and quantised ones on a GPU."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import is_bitsandbytes_available

import omnimol_hf.adapters  # noqa: F401  (makes adaptive LoRA known to PEFT)
from omnimol_hf.processing_omnimol import OmniMolProcessor

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# Small, and in fp32 for good reasons; experts' deltas are no linear layers at all.
_NOT_QUANTISED = ["graph_encoder", "projector", "router", "experts", "lm_head"]


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
