"""Where a checkpoint lies, and what its safetensors hold, read from the files' headers alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

# No pickles, and nothing of folders within the repository, where some keep other formats.
_DOWNLOADED = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "README.md", "LICEN*", "NOTICE*", "Notice*", "USE*"]


def checkpoint_folder(source: str | Path) -> Path:
    """The folder of a checkpoint or an adapter; what is on the hub is downloaded to the hub's cache.

    Weights come in safetensors only, the licence and notices come along.

    Raises:
        ValueError: if there is no such folder and no such repository.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(str(source), allow_patterns=_DOWNLOADED, ignore_patterns=["*/*", "consolid*"]))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(source)!r} is no folder and cannot be downloaded: {error}") from error


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and its shape."""

    path: Path
    shape: tuple[int, ...]


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Name -> file and shape of every tensor of a checkpoint, in one file or in shards with an index.

    Raises:
        ValueError: if there are no weights, or a file is missing, cut short or lacks a tensor that the index lists.
    """
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    listed = json.loads(index.read_text())["weight_map"] if index.is_file() else {}
    tensors: dict[str, StoredTensor] = {}
    for path in sorted(folder / name for name in set(listed.values()) or {SAFE_WEIGHTS_NAME}):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (the file itself cannot be iterated over)
                    tensors[name] = StoredTensor(path, tuple(file.get_slice(name).get_shape()))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    if lost := sorted(listed.keys() - tensors.keys()):
        raise ValueError(f"{folder} lacks {len(lost)} tensors that its index lists, the first is {lost[0]}")
    return tensors


__all__ = ["StoredTensor", "checkpoint_folder", "stored_tensors"]
