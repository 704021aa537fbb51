"""One training run, dealt out in four ways: whole batches, micro-batches, two processes, and both.

The loss is a mean over all labelled tokens of an optimiser step (or a sum over tokens, averaged over its samples), and
the balance loss is weighted likewise; so neither may depend on who computes which rows. The two processes run this
file as a script.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from omnimol_hf.collation import TrainingCollator, encode_rows
from omnimol_hf.training import OmniMolTrainer
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
STEPS, BATCH = 20, 8
REDUCTIONS = ("token_mean", "sum_per_sample")
# Reduction, accumulation, balance_tasks.
SHARED_RUNS = (
    ("token_mean", 1, False),
    ("token_mean", 2, False),
    ("sum_per_sample", 1, False),
    ("token_mean", 2, True),
)


def rows() -> Dataset:
    """Answers of 1 to 60 letters; the shortest rows have no molecule, so some micro-batches have none either."""
    made = []
    for i in range(40):
        molecule = [] if i < 10 else ["C" * (i % 7 + 1) + "O"]
        text = {
            "task": "logp" if i % 3 else "tpsa",
            "instruction": "Q" * (1 + i // 10 * 9),
            "input": "",
            "graph_smiles": molecule,
        }
        made.append(text | {"output": "abcde "[: 1 + i % 5] * (1 + 3 * (i % 4))})
    return Dataset.from_list(made)


class FirstGradients(TrainerCallback):
    def __init__(self):
        self.gradients = None

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        if self.gradients is None:
            named = getattr(model, "module", model).named_parameters()
            self.gradients = {name: parameter.grad.clone() for name, parameter in named}


def train(
    folder: Path, reduction: str, accumulation: int = 1, balance_tasks: bool = False, processes: int = 1
) -> dict:
    """Losses of all steps, all that was logged of the first one, and its gradients."""
    processor = tiny.processor()
    encoded, _ = encode_rows(rows(), processor)
    model = tiny.model(loss_reduction=reduction, router_aux_loss_coef=0.5)
    first = FirstGradients()
    trainer = OmniMolTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=BATCH // processes // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=STEPS,
            learning_rate=8e-5,
            max_grad_norm=0.0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=encoded,
        data_collator=TrainingCollator(processor.tokenizer.pad_token_id),
        callbacks=[first],
        balance_tasks=balance_tasks,
    )
    assert trainer.args.world_size == processes
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": [entry["loss"] for entry in entries], "logged": entries[0], "gradients": first.gradients}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    runs = [(reduction, False) for reduction in REDUCTIONS] + [("token_mean", True)]
    return {
        (reduction, balance): train(tmp_path_factory.mktemp("whole"), reduction, balance_tasks=balance)
        for reduction, balance in runs
    }


@pytest.fixture(scope="module")
def shared_by_two(tmp_path_factory):
    """The runs of two processes (gloo)."""
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launch, "-m", "tests.integration.test_distributed_loss", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "results.pt", weights_only=True)


def assert_same_run(run: dict, expected: dict) -> None:
    assert len(expected["losses"]) == STEPS
    assert expected["losses"][0] != expected["losses"][-1]
    assert max(abs(a - b) / b for a, b in zip(run["losses"], expected["losses"], strict=True)) < 1e-4
    assert {"loss/logp", "loss/tpsa", "balance_loss", "expert_load/max"} <= set(run["logged"])
    for name, value in expected["logged"].items():
        if not name.startswith(("speed/", "memory/")):
            assert run["logged"][name] == pytest.approx(value, rel=1e-6), name
    assert set(run["gradients"]) == set(expected["gradients"])
    for name, gradient in expected["gradients"].items():
        assert gradient.abs().max() > 0, name
        assert (run["gradients"][name] - gradient).abs().max() <= 1e-6 * largest(expected), name


def largest(run: dict) -> float:
    return max(gradient.abs().max().item() for gradient in run["gradients"].values())


@pytest.mark.integration
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_accumulation(tmp_path, whole, reduction):
    assert_same_run(train(tmp_path, reduction, accumulation=4), whole[reduction, False])


@pytest.mark.integration
@pytest.mark.parametrize(("reduction", "accumulation", "balance_tasks"), SHARED_RUNS)
def test_two_processes(whole, shared_by_two, reduction, accumulation, balance_tasks):
    run = shared_by_two[f"{reduction}, {accumulation}, {balance_tasks}"]
    assert_same_run(run, whole[reduction, balance_tasks])


@pytest.mark.integration
def test_the_reductions_differ(whole):
    a, b = (whole[reduction, False]["losses"][0] for reduction in REDUCTIONS)
    assert b > 2 * a
    assert abs(whole["token_mean", True]["losses"][0] - a) > 3e-4


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    results = {
        f"{reduction}, {accumulation}, {balance}": train(target, reduction, accumulation, balance, processes=2)
        for reduction, accumulation, balance in SHARED_RUNS
    }
    if os.environ["RANK"] == "0":
        torch.save(results, target / "results.pt")
    torch.distributed.destroy_process_group()
