"""What a run tells while it trains: losses by task, expert load, gammas, speed and memory, and that it went bad.

A step only adds to sums on the device and waits for nothing. Each logging step adds the sums up over the processes and
reads them once.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from omnimol_hf.adapters.layer import AdaptiveLinear
from omnimol_hf.modeling_omnimol import OmniMolCausalLMOutput
from omnimol_hf.moe_omnimol import LowRankExperts
from omnimol_hf.packing_omnimol import next_labels, sequence_numbers
from omnimol_hf.tasks import ALL_TASKS

if TYPE_CHECKING:
    from omnimol_hf.training import OmniMolTrainer

TELEMETRY = "telemetry.jsonl"
_GIB = 1024**3


def labels_by_sequence(batch: dict[str, Tensor]) -> Tensor:
    """How many labels each sequence of a padded or packed batch has to predict: `(sequences,)` int64."""
    cu_seq_lens = batch.get("cu_seq_lens_q")
    labelled = next_labels(batch["labels"], cu_seq_lens) != -100
    if cu_seq_lens is None:
        return labelled.sum(1)
    owner = sequence_numbers(cu_seq_lens, labelled.shape[1])
    return owner.new_zeros(len(cu_seq_lens) - 1).index_add(0, owner, labelled[0].long())


class BatchSums:
    """Sums over the sequences that were trained on, by task, since they were last read; on the device.

    Args:
        layers, experts: MoE layers and routed experts of each, for the expert load.
    """

    def __init__(self, layers: int, experts: int, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64  # which has no wider one
        tasks = len(ALL_TASKS)
        self.by_task = torch.zeros(tasks, 3, dtype=dtype, device=device)  # nll, labelled tokens, sequences
        self.load = torch.zeros(tasks, layers, experts, dtype=dtype, device=device)
        self.totals = torch.zeros(3, dtype=dtype, device=device)  # tokens, positions, balance loss
        self.first_bad = torch.full((tasks,), math.inf, dtype=dtype, device=device)

    @torch.no_grad()
    def add(
        self, task_ids: Tensor, batch: dict[str, Tensor], output: OmniMolCausalLMOutput, step: int, scale: int
    ) -> None:
        """Add one micro-batch.

        Args:
            task_ids: `(batch,)` int64, positions in `ALL_TASKS`.
            batch: the model's `labels`, with `attention_mask` or packed.
            step: the optimiser step that this belongs to, from 1.
            scale: by how much the processes' balance losses have to be multiplied before they are averaged.
        """
        nll = output.sequence_nll.to(self.by_task.dtype)
        labelled = labels_by_sequence(batch)
        self.by_task.index_add_(0, task_ids, torch.stack([nll, labelled.to(nll.dtype), torch.ones_like(nll)], 1))
        finite = nll.isfinite()
        finite &= output.loss.isfinite() | ~finite.all()  # a bad sum of good parts is no single task's doing
        at = torch.where(finite, math.inf, float(step)).to(nll.dtype)
        self.first_bad.scatter_reduce_(0, task_ids, at, "amin")
        positions = batch["labels"].numel()
        self.totals[0] += batch["attention_mask"].sum() if "attention_mask" in batch else positions
        self.totals[1] += positions
        if output.expert_load is not None:
            self.totals[2] += scale * output.aux_loss
            self.load.index_add_(0, task_ids, output.expert_load.transpose(0, 1).to(nll.dtype))

    def read(self, gather: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The sums `by_task`, `load` and `totals` over all processes; they begin anew.

        Args:
            gather: `(1, n)` of this process -> `(processes, n)`.
        """
        sums = (self.by_task, self.load, self.totals)
        everywhere = gather(torch.cat([each.flatten() for each in sums])[None]).sum(0).cpu().numpy()
        parts = np.split(everywhere, np.cumsum([each.numel() for each in sums])[:-1])
        for each in sums:
            each.zero_()
        by_task, load, totals = (part.reshape(each.shape) for part, each in zip(parts, sums, strict=True))
        return by_task, load, totals


class Telemetry(TrainerCallback):
    """Completes what the trainer logs, writes `telemetry.jsonl`, and stops a run whose loss is not finite.

    Speeds count the time since the line before, with all that happened in it: evaluating, saving and scoring too.

    Args:
        trainer: whose `compute_loss` calls `add`, whose `log` calls `read` and `write`, and who calls `check` before
            it logs, writes a checkpoint and ends.
    """

    def __init__(self, trainer: OmniMolTrainer) -> None:
        self.trainer = trainer
        self.path = Path(trainer.args.output_dir) / TELEMETRY

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        config = self.trainer.accelerator.unwrap_model(self.trainer.model).config
        self.sums = BatchSums(len(config.moe_layer_indices), config.num_experts, args.device)
        self.first_step = self.fine_until = self.read_until = state.global_step
        self.start = self.last_read = time.perf_counter()
        if state.is_world_process_zero:
            keep_lines(self.path, state.global_step)

    def add(self, task_ids: Tensor, batch: dict[str, Tensor], output: OmniMolCausalLMOutput) -> None:
        """Add one micro-batch; see `BatchSums.add`."""
        scale = self.trainer.args.world_size if self.trainer.counts_everywhere else 1
        self.sums.add(task_ids, batch, output, self.trainer.state.global_step + 1, scale)

    def read(self) -> tuple[dict[str, float], dict[str, dict[str, list[list[float]]]]]:
        """What there is to tell of the steps since it was last read. All processes call this and get the same.

        Returns:
            Scalars by name: `loss/TASK` in nats a labelled token, `balance_loss`, `expert_load/...`, `gamma/...`,
            `speed/...`, `memory/...`. And `expert_load`: task -> MoE layer -> expert -> its share of the choices.
        """
        args, state = self.trainer.args, self.trainer.state
        by_task, load, (tokens, positions, balance) = self.sums.read(self.trainer.accelerator.gather)
        now, steps = time.perf_counter(), state.global_step - self.read_until
        seconds, self.last_read, self.read_until = now - self.last_read, now, state.global_step
        scalars = {
            f"loss/{task}": nll / labelled
            for task, (nll, labelled, _) in zip(ALL_TASKS, by_task, strict=True)
            if labelled
        }
        table = {}
        if load.any():
            scalars["balance_loss"] = balance / args.world_size / steps
            scalars |= load_statistics(load.sum(0) / by_task[:, 2].sum())
            table = {
                task: (load[i] / by_task[i, 2]).round(4).tolist() for i, task in enumerate(ALL_TASKS) if by_task[i, 2]
            }
        scalars |= gamma_statistics(self.trainer.model)
        left = (state.max_steps - state.global_step) / (state.global_step - self.first_step)
        scalars |= {
            "speed/tokens_per_second": tokens / seconds,
            "speed/samples_per_second": by_task[:, 2].sum() / seconds,
            "speed/padding_share": 1 - tokens / positions,
            "speed/eta_seconds": (now - self.start) * left,
        }
        scalars |= peak_memory(self.trainer.accelerator.device)
        return {name: float(value) for name, value in scalars.items()}, {"expert_load": table} if table else {}

    def write(self, line: dict[str, Any]) -> None:
        """Append a line, with null for what is not finite. The first process writes."""
        if self.trainer.is_world_process_zero():
            finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite, allow_nan=False) + "\n")

    def check(self, logs: dict[str, float] | None = None, weights: bool = False) -> None:
        """Stop a run that went bad. All processes call this.

        Args:
            logs: what is just being logged, with `grad_norm` and `learning_rate`; None: what was logged last counts.
            weights: look at all trained weights as well: after a bad gradient they are bad before any loss is.

        Raises:
            FloatingPointError: if the loss of a step was NaN or infinite, or a weight is.
        """
        trainer, step = self.trainer, self.trainer.state.global_step
        good = torch.ones_like(self.sums.first_bad[:1])
        if weights:
            good = good * weights_are_finite(trainer.model)
        seen = trainer.accelerator.gather(torch.cat([self.sums.first_bad, good])[None]).amin(0).tolist()
        *first_bad, good = seen
        if (first := min(first_bad)) == math.inf and good:
            self.fine_until = step
            return
        when = f"between the steps {self.fine_until} and {step}"
        if first < math.inf:
            tasks = [task for task, at in zip(ALL_TASKS, first_bad, strict=True) if at == first]
            what = f"the loss became NaN or infinite {when}: first at step {first:.0f}, of {', '.join(tasks)}"
        else:
            what = f"weights became NaN or infinite {when}, while the loss was still finite"
        logged = logs or next((entry for entry in reversed(trainer.state.log_history) if "loss" in entry), {})
        checkpoint = trainer.last_checkpoint()
        raise FloatingPointError(
            f"training stopped, for {what}. Gradient norm {logged.get('grad_norm', 'unknown')}, learning rate "
            f"{logged.get('learning_rate', 'unknown')} at step {step if logs else logged.get('step', 0)}. "
            + (f"The last whole checkpoint is {checkpoint}." if checkpoint else "There is no whole checkpoint yet.")
        )


def keep_lines(path: Path, step: int) -> None:
    """Keep the lines of a JSONL file up to a step, without what a crash left of a line; none if nothing was trained.

    A run that continues from a checkpoint writes the later ones again.
    """
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")] if step else []
        aside = path.with_suffix(".tmp")
        aside.write_text("".join(line for line in whole if json.loads(line)["step"] <= step), encoding="utf-8")
        aside.replace(path)


def load_statistics(load: np.ndarray) -> dict[str, float]:
    """The busiest expert's share, and how even the load is: its entropy over that of even load, mean over layers.

    Args:
        load: `(MoE layers, experts)`, shares that sum to 1 in each layer.
    """
    entropy = -(load * np.log(load.clip(min=1e-12))).sum(1) / math.log(max(load.shape[1], 2))
    return {"expert_load/max": load.max(), "expert_load/entropy": entropy.mean()}


@torch.no_grad()
def gamma_statistics(model: nn.Module) -> dict[str, float]:
    """`gamma/PART_mean`, `_min` and `_max` of the model's adaptive coefficients, with or without PEFT's wrapper.

    PART is `attention` and `ffn` for the adapters of those layers, `experts` for all that is an expert's. Of what PEFT
    copied, the trained copy counts.
    """
    found: dict[str, list[Tensor]] = {"attention": [], "ffn": [], "experts": []}
    for name, module in model.named_modules():
        path = name.split(".")
        if isinstance(module, AdaptiveLinear):
            part = "attention" if "self_attn" in path else "experts" if "experts" in path else "ffn"
            found[part] += [module.gamma(adapter) for adapter in module.active_adapters if adapter in module.r]
        elif isinstance(module, LowRankExperts) and "original_module" not in path:
            found["experts"].append(module.gamma().flatten())
    parts = {part: torch.cat(gammas) for part, gammas in found.items() if gammas}
    if not parts:
        return {}
    numbers = torch.stack([torch.stack([gammas.mean(), gammas.min(), gammas.max()]) for gammas in parts.values()])
    names = [f"gamma/{part}_{statistic}" for part in parts for statistic in ("mean", "min", "max")]
    return dict(zip(names, numbers.flatten().tolist(), strict=True))


@torch.no_grad()
def weights_are_finite(model: nn.Module) -> Tensor:
    """Whether all that trains is finite, as a scalar bool on the device."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.stack([each.isfinite().all() for each in trained]).all()


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory that this process, and its GPU if it has one, have held so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    peak = {"memory/peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB}
    if device.type == "cuda":
        peak["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / _GIB
    return peak
