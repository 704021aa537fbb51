"""Settings shared by all tests: no network, fixed seeds, and where real data lies when there is some."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["DS_ACCELERATOR"] = "cpu"
# Tiny tensors gain nothing from threads, and test processes share the cores.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)  # on tensors this small more threads only wait for one another

ROOT = Path(__file__).resolve().parent.parent
_SHARED = ROOT.parent / "shared"
SHARED: Path | None = _SHARED if _SHARED.is_dir() else None


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def shared() -> Path:
    """The folder with real source data and the Llama-3 tokenizer file, beside the checkout."""
    if SHARED is None:
        pytest.skip("no folder ../shared with real source data")
    return SHARED
