"""What a folder of safetensors holds, read from the files' headers alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME


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


__all__ = ["StoredTensor", "stored_tensors"]
