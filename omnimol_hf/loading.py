"""Models as they are scored: merged ones, adapters on their base, and quantised ones on a GPU."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import is_bitsandbytes_available

from omnimol_hf.adapters.export import merged_model
from omnimol_hf.processing_omnimol import OmniMolProcessor
from omnimol_hf.selfies_tokens import check_vocabulary
from omnimol_hf.stored_weights import checkpoint_folder

ADAPTER_CONFIG = "adapter_config.json"
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
        model = merged_model(base, folder, dtype)
        # An adapter may come without a processor of its own.
        folder = folder if (folder / "processor_config.json").is_file() else base
    else:
        _check_type(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, **settings)
    about["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    if not quantise:
        model = model.to(device)
        _leave_file(model)
    processor = AutoProcessor.from_pretrained(folder)
    check_vocabulary(model, processor.tokenizer, source)
    return LoadedModel(model.eval(), processor, about)


def _leave_file(model: PreTrainedModel) -> None:
    """Copy weights that lie in the mapped file into memory of their own.

    In the file a matrix starts at any multiple of four bytes, and on a CPU the product of one row with it is summed in
    an order that depends on where it starts: equal rows would have other last digits in another process.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


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


def _quantised(quantise: str, device: str | torch.device) -> dict[str, Any]:
    if quantise not in ("8bit", "4bit"):
        raise ValueError(f"quantise is {quantise!r}; expected '8bit' or '4bit'")
    if not torch.cuda.is_available():
        raise ValueError(f"quantise={quantise} needs a GPU, and PyTorch sees none on this machine")
    if not is_bitsandbytes_available():
        raise ValueError(f"quantise={quantise} needs bitsandbytes: pip install 'omnimol-hf[quantise]'")
    config = BitsAndBytesConfig(**{f"load_in_{quantise}": True}, llm_int8_skip_modules=_NOT_QUANTISED)
    return {"quantization_config": config, "device_map": {"": device}}
