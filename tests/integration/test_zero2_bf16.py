"""ZeRO-2 of two processes on a bf16 base with adapters, in both of its precisions.

- `mixed_precision: no`: everything keeps its dtype. The base is bf16; what trains is fp32, on disk too.
- `mixed_precision: bf16`: DeepSpeed casts every parameter to bf16, what trains included, and steps fp32 copies. Its
  older versions cast the graph encoder's buffers too.

The two processes run this file as a script.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainingArguments

from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters
from omnimol_hf.collation import TrainingCollator, encode_rows
from omnimol_hf.training import OmniMolTrainer
from tests import tiny
from tests.conftest import ROOT

STEPS, RATE = 4, 8e-5
PRECISIONS = ("no", "bf16")


def rows() -> Dataset:
    text = {"task": "logp", "instruction": "Q", "input": ""}
    return Dataset.from_list(
        [text | {"graph_smiles": ["C" * (i % 7 + 1)], "output": "abcd"[: 1 + i % 4]} for i in range(32)]
    )


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Name, tensor and whether it trains, of all parameters and buffers."""
    for name, parameter in model.named_parameters():
        yield name, parameter.detach(), parameter.requires_grad
    for name, buffer in model.named_buffers():
        yield name, buffer, False


def train(folder: Path, precision: str) -> dict[str, dict]:
    """A short run, and of each tensor what came of it."""
    processor = tiny.processor()
    encoded, _ = encode_rows(rows(), processor)
    model = tiny.model().to(torch.bfloat16)
    model.model.graph_encoder.float()  # as from_pretrained loads it
    model = add_adapters(model, AdaptiveLoraConfig(r=4))
    before = {name: tensor.clone() for name, tensor, _ in tensors(model)}
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": 2},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": precision == "bf16"},
    }
    trainer = OmniMolTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=4,
            max_steps=STEPS,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=precision == "bf16",
            deepspeed=config,
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=encoded,
        data_collator=TrainingCollator(processor.tokenizer.pad_token_id),
    )
    trainer.train()
    trainer.save_model(str(folder / precision))
    return {
        name: {"trains": trains, "before": before[name], "after": tensor.clone()}
        for name, tensor, trains in tensors(model)
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zero2")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "tests.integration.test_zero2_bf16", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.integration
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_moves_and_what_stays(runs, precision):
    """All that trains moves, gamma too, if by little; what is frozen keeps its bytes, buffers included."""
    moves, stays = set(), set()
    for name, one in torch.load(runs / f"{precision}.pt", weights_only=True).items():
        if one["trains"]:
            moves.add(name)
            assert one["after"].dtype == (torch.float32 if precision == "no" else torch.bfloat16), name
            change = (one["after"].double() - one["before"].double()).abs().max()
            assert change > 0, name  # also from 0 in bf16, which is finest there
            assert "lora_gamma" not in name or change < 1.1 * STEPS * RATE, name  # Adam's steps are at most the rate
        elif precision == "no" or "graph_encoder" not in name:
            stays.add(name)
            assert one["after"].dtype == one["before"].dtype, name
            assert torch.equal(one["after"], one["before"]), name
    assert sum("lora_gamma_alpha" in name for name in moves) == 19
    assert sum(name.endswith("default.gamma_alpha") for name in moves) == 3
    assert sum("graph_encoder" in name for name in stays) == (45 if precision == "no" else 0)


@pytest.mark.integration
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_saved(runs, precision):
    saved = load_file(runs / precision / "adapter_model.safetensors")
    trained = torch.load(runs / f"{precision}.pt", weights_only=True)
    trained = {
        name.replace(".modules_to_save.default", "").replace(".default", ""): one
        for name, one in trained.items()
        if one["trains"]
    }
    assert saved.keys() == trained.keys()
    for name, tensor in saved.items():
        assert tensor.dtype == (torch.float32 if precision == "no" else torch.bfloat16), name
        assert torch.equal(tensor, trained[name]["after"]), name


if __name__ == "__main__":
    from accelerate.state import AcceleratorState

    torch.set_num_threads(1)
    for precision in PRECISIONS:
        AcceleratorState._reset_state(reset_partial_state=True)
        results = train(Path(sys.argv[1]), precision)
        if os.environ["RANK"] == "0":
            torch.save(results, Path(sys.argv[1]) / f"{precision}.pt")
    torch.distributed.destroy_process_group()
