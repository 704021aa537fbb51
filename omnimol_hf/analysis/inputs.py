"""What analyses look at: saved models and held-out rows."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoProcessor

from omnimol_hf.modeling_omnimol import OmniMolForCausalLM
from omnimol_hf.processing_omnimol import OmniMolProcessor
from omnimol_hf.rows import choose_rows, load_rows


def load_model(source: str, device: torch.device | str = "cpu") -> tuple[OmniMolForCausalLM, OmniMolProcessor]:
    """A saved model in eval mode and its processor.

    Args:
        source: a run's folder (its `model` is taken), a model's folder, or a hub id.
    """
    inside = Path(source) / "model"
    place = str(inside) if (inside / "config.json").is_file() else source
    model = AutoModelForCausalLM.from_pretrained(place).to(device).eval()
    return model, AutoProcessor.from_pretrained(place)


def held_out_rows(
    source: str, tasks: Collection[str] | None, rows_a_task: int, split: str = "test", seed: int = 0
) -> Dataset:
    """So many rows of each task, the same ones for the same seed.

    Args:
        source: see `omnimol_hf.rows.load_splits`.
        tasks: None: all that have rows.

    Raises:
        ValueError: if a task has no row in the split, or there is no such split.
    """
    splits = load_rows(source, tasks)
    if split not in splits:
        raise ValueError(f"{source} has no split {split!r}; it has {sorted(splits)}")
    rows = splits[split]
    wanted = dict.fromkeys(tasks if tasks else set(rows["task"]), rows_a_task)
    if missing := sorted(set(wanted) - set(rows["task"])):
        raise ValueError(f"{source} has no rows of {', '.join(missing)} in its split {split!r}")
    return choose_rows(rows, seed, wanted)
