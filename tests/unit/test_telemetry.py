"""What training tells, against sums by hand over the same batches; and runs that go bad."""

import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback, TrainingArguments

from omnimol_hf.adapters.config import AdaptiveLoraConfig
from omnimol_hf.adapters.model import add_adapters
from omnimol_hf.collation import TrainingCollator, encode_rows
from omnimol_hf.tasks import ALL_TASKS
from omnimol_hf.telemetry import TELEMETRY, BatchSums, gamma_statistics, keep_lines, load_statistics
from omnimol_hf.training import OmniMolTrainer, last_checkpoint
from tests import tiny

TASKS = list(ALL_TASKS)
ROWS = [
    {"task": task, "instruction": question, "input": "[C]" * n, "output": answer * n, "graph_smiles": ["C" * n]}
    for n in (1, 3, 4)
    for task, question, answer in (("logp", "How?", "1.5"), ("tpsa", "Zap!", "20"))
] + [{"task": "complexity", "instruction": "Q", "input": "[C]", "output": "7", "graph_smiles": ["C"]}] * 2


class Batches(TrainingCollator):
    """Keeps the batches that the trainer got."""

    def __call__(self, rows):
        self.seen = [*getattr(self, "seen", []), super().__call__(rows)]
        return dict(self.seen[-1])


def make_trainer(folder, model=None, callbacks=None, balance_tasks=False, **settings) -> OmniMolTrainer:
    processor = tiny.processor()
    rows, left_out = encode_rows(Dataset.from_list(ROWS), processor)
    assert not left_out
    settings = {"per_device_train_batch_size": 8, "logging_steps": 1, "save_strategy": "no"} | settings
    fixed = {"use_cpu": True, "remove_unused_columns": False, "disable_tqdm": True, "report_to": "none"}
    return OmniMolTrainer(
        tiny.model() if model is None else model,
        TrainingArguments(str(folder), **(fixed | settings)),
        data_collator=Batches(processor.tokenizer.pad_token_id),
        train_dataset=rows,
        callbacks=callbacks,
        balance_tasks=balance_tasks,
    )


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / TELEMETRY).read_text().splitlines()]


@torch.no_grad()
def by_hand(model, batches) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Each task's loss a token, from all logits; and its experts' load, token by token."""
    nll, labels = dict.fromkeys(TASKS, 0.0), dict.fromkeys(TASKS, 0)
    loads = {task: [] for task in TASKS}
    for batch in batches:
        inputs = {name: tensor for name, tensor in batch.items() if name != "task_ids"}
        output = model.eval()(**inputs, output_router_logits=True)
        for i, task in enumerate(TASKS[number] for number in batch["task_ids"]):
            each = F.cross_entropy(output.logits[i, :-1], batch["labels"][i, 1:], reduction="none", ignore_index=-100)
            nll[task] += each.sum().item()
            labels[task] += (batch["labels"][i] != -100).sum().item()
            tokens = batch["attention_mask"][i].bool()
            chosen = [logits[i][tokens].topk(2).indices for logits in output.router_logits]
            loads[task].append(torch.stack([one.flatten().bincount(minlength=3) / one.numel() for one in chosen]))
    drawn = [task for task in TASKS if labels[task]]
    return {t: nll[t] / labels[t] for t in drawn}, {t: torch.stack(loads[t]).mean(0) for t in drawn}


def test_what_is_logged_is_what_was_trained_on(tmp_path):
    """At a learning rate of 0, so that the sums can be made again: three steps of two, one and two micro-batches."""
    trainer = make_trainer(
        tmp_path,
        max_steps=3,
        logging_steps=3,
        learning_rate=0.0,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        report_to="tensorboard",
    )
    trainer.train()
    batches = trainer.data_collator.seen[:5]
    losses, loads = by_hand(trainer.model, batches)
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert {key[5:] for key in entry if key.startswith("loss/")} == set(losses) == {"logp", "tpsa", "complexity"}
    for task, loss in losses.items():
        assert entry[f"loss/{task}"] == pytest.approx(loss, rel=1e-6)
    assert entry["speed/padding_share"] == pytest.approx(
        1 - sum(b["attention_mask"].sum().item() for b in batches) / sum(b["input_ids"].numel() for b in batches)
    )
    tokens = sum(b["attention_mask"].sum().item() for b in batches)
    rows = sum(len(b["input_ids"]) for b in batches)
    assert entry["speed/tokens_per_second"] / entry["speed/samples_per_second"] == pytest.approx(tokens / rows)
    assert entry["speed/eta_seconds"] == 0
    assert entry["memory/peak_gib"] > 0.05
    aux = [steps_balance(trainer.model, step) for step in (batches[:2], batches[2:3], batches[3:])]
    assert entry["balance_loss"] == pytest.approx(sum(aux) / 3, rel=1e-6)

    line, end = lines_of(tmp_path)
    assert {name: value for name, value in line.items() if name != "expert_load"} == entry
    assert end["train_loss"] == pytest.approx(entry["loss"])
    assert set(line["expert_load"]) == set(loads)
    for task, load in loads.items():
        torch.testing.assert_close(torch.tensor(line["expert_load"][task]), load, rtol=0, atol=5.1e-5)
    counts = {task: sum(TASKS[n] == task for b in batches for n in b["task_ids"]) for task in loads}
    whole = sum(counts[task] * load for task, load in loads.items()) / sum(counts.values())
    assert entry["expert_load/max"] == pytest.approx(whole.max().item())

    events = EventAccumulator(str(next((tmp_path / "runs").iterdir()))).Reload()
    for name in ("loss/logp", "gamma/experts_mean", "speed/tokens_per_second", "expert_load/max", "balance_loss"):
        (event,) = events.Scalars(f"train/{name}")
        assert (event.step, event.value) == (3, pytest.approx(entry[name], rel=1e-6))


def steps_balance(model, batches) -> float:
    """sum_i n_i l_i / sum_i n_i over the sequences of an optimiser step, each alone in its batch."""
    total = labels = 0.0
    for batch in batches:
        items = (batch["labels"] != -100).sum().item()
        with torch.no_grad():
            output = model.eval()(**{name: tensor for name, tensor in batch.items() if name != "task_ids"})
        total, labels = total + items * output.aux_loss.item(), labels + items
    return total / labels


def test_a_step_waits_for_nothing():
    """No number may be read from the device, nor a size depend on what is in a tensor."""

    class NoTransfers(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert not re.search("local_scalar_dense|nonzero|masked_select|unique|_to_copy.*cpu", str(function))
            return function(*args, **(kwargs or {}))

    model, batch = tiny.model(), tiny.training_batch(tiny.chat("Q", "CCO", answer="yes"))
    output = model(**batch)
    sums = BatchSums(3, 3, torch.device("cpu"))
    with NoTransfers():
        sums.add(torch.tensor([8]), batch, output, 1, 1)
    by_task, load, _ = sums.read(lambda row: row)
    assert by_task[8] == pytest.approx([output.sequence_nll.item(), (batch["labels"] != -100).sum().item(), 1])
    assert load.sum() == pytest.approx(3)
    assert not sums.by_task.any()
    with NoTransfers(), pytest.raises(AssertionError):
        output.loss.item()


def test_load_statistics():
    even, half = torch.full((2, 4), 0.25).numpy(), torch.tensor([[0.5, 0.5, 0, 0]]).numpy()
    assert load_statistics(even) == pytest.approx({"expert_load/max": 0.25, "expert_load/entropy": 1})
    assert load_statistics(half) == pytest.approx({"expert_load/max": 0.5, "expert_load/entropy": 0.5})


@pytest.mark.parametrize("experts", ["lora", "full"])
def test_gamma_statistics_of_adapters_and_experts(experts):
    model = add_adapters(tiny.model(expert_training=experts), AdaptiveLoraConfig(r=4, lora_alpha=16, gamma_p=0.5))
    found: dict[str, list[float]] = {"attention": [], "ffn": [], "experts": []}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gamma" in name and "original_module" not in name:
                parameter.normal_()
        state = {name: value for name, value in model.named_parameters() if "original_module" not in name}
        for name, alpha in state.items():
            if "gamma_alpha" in name:  # of adapters r = 4, p = 0.5; so have the deltas of tiny models
                part = "attention" if "self_attn" in name else "experts" if "experts" in name else "ffn"
                gamma = (16 + alpha) / 4**0.5 + state[name.replace("gamma_alpha", "gamma_beta")]
                found[part] += gamma.flatten().tolist()
    assert model.get_base_model().config.expert_alpha == 16
    assert len(found["attention"]) == 16
    assert len(found["ffn"]) == 3  # one dense layer
    assert len(found["experts"]) == 3 * 4 * 3
    expected = {
        f"gamma/{part}_{name}": value
        for part, gammas in found.items()
        for name, value in (("mean", sum(gammas) / len(gammas)), ("min", min(gammas)), ("max", max(gammas)))
    }
    assert gamma_statistics(model) == pytest.approx(expected, rel=1e-5)


def test_gamma_statistics_of_plain_models():
    assert set(gamma_statistics(tiny.model())) == {f"gamma/experts_{name}" for name in ("mean", "min", "max")}
    assert gamma_statistics(tiny.model(moe_layers=[])) == {}


# ---------------------------------------------------------------- the file


def test_a_continued_run_has_every_line_once(tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    make_trainer(tmp_path, **settings).train()
    before = lines_of(tmp_path)
    assert [line["step"] for line in before] == [1, 2, 3, 4, 4]
    with (tmp_path / TELEMETRY).open("a") as file:
        file.write('{"step": 1, "lo')  # a crash in the middle of a line
    make_trainer(tmp_path, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    after = lines_of(tmp_path)
    assert [line["step"] for line in after] == [1, 2, 3, 4, 4]
    assert after[:2] == before[:2]
    for old, new in zip(before[2:4], after[2:4], strict=True):
        assert old["loss/tpsa"] == new["loss/tpsa"]
        assert old["expert_load"] == new["expert_load"]


def test_lines_of_another_run_go(tmp_path):
    path = tmp_path / TELEMETRY
    path.write_text('{"step": 0}\n{"step": 7}\n')
    keep_lines(path, 0)
    assert path.read_text() == ""
    keep_lines(tmp_path / "none", 3)
    assert [file.name for file in tmp_path.iterdir()] == [TELEMETRY]


# ---------------------------------------------------------------- runs that go bad


class Plant(TrainerCallback):
    """Makes one weight infinite before or after a step."""

    def __init__(self, step: int, after: bool = False):
        self.step, self.after = step, after

    def plant(self, model):
        token = tiny.tokenizer().convert_tokens_to_ids("Z")  # which only the question of tpsa has
        with torch.no_grad():
            model.get_input_embeddings().weight[token, 3] = math.inf

    def on_step_begin(self, args, state, control, model, **kwargs):
        if not self.after and state.global_step + 1 == self.step:
            self.plant(model)

    def on_step_end(self, args, state, control, model, **kwargs):
        if self.after and state.global_step == self.step:
            self.plant(model)


def train_with(tmp_path, plant, **settings) -> str:
    """The message that training ends with."""
    model = tiny.model(text={"tie_word_embeddings": False})
    trainer = make_trainer(tmp_path, model, callbacks=[plant], max_steps=9, **settings)
    assert trainer.args.logging_nan_inf_filter is False
    with pytest.raises(FloatingPointError) as error:
        trainer.train()
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history)
    return str(error.value)


def test_a_loss_that_is_not_finite_stops_at_the_next_logging_step(tmp_path):
    message = train_with(tmp_path, Plant(4), logging_steps=3, learning_rate=1e-3)
    assert "between the steps 3 and 6: first at step 4, of tpsa." in message
    assert "Gradient norm nan, learning rate 0.0004" in message.replace("44444", "")
    assert "at step 6. There is no whole checkpoint yet." in message
    assert [line["step"] for line in lines_of(tmp_path)] == [3]


@pytest.mark.parametrize("after", [False, True])
def test_no_checkpoint_is_written_of_what_is_not_finite(tmp_path, after):
    """Nor of infinite weights that no loss has seen yet."""
    plant = Plant(4, after)
    message = train_with(tmp_path, plant, logging_steps=9, save_strategy="steps", save_steps=2)
    what = "weights became NaN or infinite" if after else "the loss became NaN or infinite"
    assert f"{what} between the steps 2 and 4" in message
    assert message.endswith(f"The last whole checkpoint is {tmp_path / 'checkpoint-2'}.")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-2"]


def test_a_run_does_not_end_well_that_went_bad_after_its_last_line(tmp_path):
    assert "between the steps 8 and 9: first at step 9" in train_with(tmp_path, Plant(9), logging_steps=8)


# ---------------------------------------------------------------- balance_tasks


class Gradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.seen = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("reduction", ["token_mean", "sum_per_sample"])
def test_balanced_tasks_count_alike(tmp_path, accumulation, reduction):
    model = tiny.model(router_aux_loss_coef=0.0, loss_reduction=reduction)
    gradients = Gradients()
    trainer = make_trainer(
        tmp_path,
        model,
        callbacks=[gradients],
        balance_tasks=True,
        max_steps=1,
        learning_rate=0.0,
        max_grad_norm=0.0,
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
    )
    trainer.train()
    model.zero_grad()
    total, counts = {}, {}
    for batch in trainer.data_collator.seen[:accumulation]:
        logits = model.eval()(**{name: tensor for name, tensor in batch.items() if name != "task_ids"}).logits
        for i, task in enumerate(batch["task_ids"].tolist()):
            labels = batch["labels"][i, 1:]
            total[task] = total.get(task, 0) + F.cross_entropy(logits[i, :-1], labels, reduction="sum")
            counts[task] = counts.get(task, 0) + ((labels != -100).sum() if reduction == "token_mean" else 1)
    assert len(counts) == 3
    expected = sum(total[task] / counts[task] for task in total) / 3
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-6)
    expected.backward()
    largest = max(p.grad.abs().max() for p in model.parameters() if p.grad is not None)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert (gradients.seen[name] - parameter.grad).abs().max() <= 1e-6 * largest, name
