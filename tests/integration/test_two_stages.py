"""From a plain Llama to Omni-Mol as its user goes: stage 1, stage 2 with adapters and selection, and ZeRO-2."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoProcessor

import omnimol_hf.adapters  # noqa: F401 (makes the method known to PEFT)
from omnimol_hf import OmniMolForCausalLM
from omnimol_hf.tasks import ALL_TASKS
from tests import tiny
from tests.integration.launching import launch, losses
from tests.unit.test_upcycling import GRAPH, dense_llama

pytestmark = pytest.mark.integration
STAGE_1 = {
    "upcycle": {"moe_layers": [], "graph_config": GRAPH},
    "num_train_epochs": 2,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "save_steps": 4,
    "eval_rows": 3,
    "use_cpu": True,
}
STAGE_2 = {
    "upcycle": {"graph_config": GRAPH, "expert_rank": 4, "expert_dropout": 0.0},
    "adapter": {"r": 4, "lora_dropout": 0.0},
    "selfies_tokens": True,
    "selection": {"kind": "active", "budget": 40, "rounds": 2, "epochs": 2, "scored_rows": 4},
    "learning_rate": 8e-5,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "save_steps": 20,
    "eval_rows": 2,
    "max_new_tokens": 6,
    "eval_batch_size": 8,
    "use_cpu": True,
}


def write_rows(path: Path) -> Path:
    """Molecules with a description, a number, and a name that stands for itself: rows without any graph."""
    with path.open("w") as file:
        for n in range(1, 25):
            selfies, name = "[C]" * n + "[O]", f"alkanol-{n}"
            for task, given, answer in (
                ("alignment", selfies, f"A chain of {n} carbons."),
                ("logp", selfies, f"The LogP for the input molecule is {n / 7:.2f}."),
                ("iupac_to_selfies", name, selfies),
            ):
                row = {"task": task, "instruction": ALL_TASKS[task].instructions[0], "input": given, "output": answer}
                file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Path:
    """Settings of both stages, and the run of stage 1 with all it printed."""
    folder = tmp_path_factory.mktemp("stages")
    rows = str(write_rows(folder / "rows.jsonl"))
    dense_llama(folder / "llama")
    start = {"dataset": rows, "backbone": str(folder / "llama")}
    (folder / "align.yaml").write_text(yaml.safe_dump(STAGE_1 | start))
    projector = str(folder / "one" / "projector.safetensors")
    (folder / "unified.yaml").write_text(
        yaml.safe_dump(STAGE_2 | start | {"projector": projector, "tasks": "logp/iupac_to_selfies"})
    )
    printed = launch("recipes/align.py", "--config", folder / "align.yaml", "--output_dir", folder / "one")
    (folder / "printed").write_text(printed)
    return folder


@pytest.fixture(scope="module")
def stage_2(stages) -> Path:
    launch("recipes/unified.py", "--config", stages / "unified.yaml", "--output_dir", stages / "two")
    return stages / "two"


def test_stage_1_trains_the_projector_alone(stages):
    out, printed = stages / "one", (stages / "printed").read_text()
    assert "416 parameters train: projector" in printed
    start = load_file(out / "initial" / "model.safetensors")
    end = load_file(next(out.glob("checkpoint-*")) / "model.safetensors")
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved == {"model.projector.weight", "model.projector.bias"}
    saved = load_file(out / "projector.safetensors")
    assert all(torch.equal(tensor, end[f"model.projector.{name}"]) for name, tensor in saved.items())


def test_stage_1_is_measured_against_other_molecules_graphs(stages):
    results = json.loads((stages / "one" / "results.json").read_text())
    found = results["held-out loss (nats per token)"]
    assert results["rows"] == 2  # of 24, every tenth
    assert found["after"] < found["before"]
    assert found["after"] != found["after, with other molecules' graphs"]
    model = OmniMolForCausalLM.from_pretrained(stages / "one" / "initial").eval()
    rows = [json.loads(line) for line in (stages / "rows.jsonl").read_text().splitlines()]
    held_out = [row for row in rows if row["task"] == "alignment"][9::10]
    chats = [tiny.chat(row["instruction"], row["input"], answer=row["output"]) for row in held_out]
    for messages, row in zip(chats, held_out, strict=True):
        messages[0]["content"][0] = {"type": "molecule", "selfies": row["input"]}
    batch = tiny.training_batch(*chats)
    with torch.no_grad():
        logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits.log_softmax(-1)
    labels = batch["labels"][:, 1:]
    places = labels != -100
    by_hand = -logits[:, :-1][places].gather(1, labels[places][:, None]).mean().item()
    assert found["before"] == pytest.approx(by_hand, rel=1e-4)


def test_stage_2_starts_with_the_projector_of_stage_1_and_moves_all_that_trains(stages, stage_2):
    start = load_file(stage_2 / "initial" / "model.safetensors")
    adapter = load_file(stage_2 / "adapter" / "adapter_model.safetensors")
    aligned = load_file(stages / "one" / "projector.safetensors")
    for name, tensor in adapter.items():
        before = start.get(name.removeprefix("base_model.model."))
        if ".projector." in name:
            before = aligned[name.rsplit(".", 1)[-1]]
            assert (tensor - before).abs().max() < 0.05  # 30 steps of 8e-5
        if before is None:  # an adapter's: B and gamma start at 0, A is random
            assert tensor.abs().max() > 0, name
        else:
            assert not torch.equal(tensor, before), name
    trained = {"lora_A", "lora_B", "lora_gamma_alpha", "lora_gamma_beta", "projector", "router", "experts"}
    assert trained | {"trainable_tokens_delta"} <= {part for name in adapter for part in name.split(".")}


def test_what_is_frozen_keeps_every_byte(stage_2):
    """Embeddings, norms, the shared feed-forward networks, the graph encoder with its BatchNorm statistics."""
    start, end = (load_file(stage_2 / part / "model.safetensors") for part in ("initial", "model"))
    assert start.keys() == end.keys()
    tokenizer = AutoProcessor.from_pretrained(stage_2 / "model").tokenizer
    embeddings = [weights.pop("model.language_model.embed_tokens.weight") for weights in (start, end)]
    moved = (embeddings[0] != embeddings[1]).any(1).nonzero().flatten().tolist()
    assert tokenizer.convert_ids_to_tokens(moved) == ["[C]", "[O]"]
    trained = ("projector", "router", "experts", "q_proj", "k_proj", "v_proj", "o_proj")
    frozen = {name for name in start if not set(trained) & set(name.split("."))}
    dense = {name for name in frozen if ".layers.0." in name and ".mlp." in name}
    assert any("running_mean" in name for name in frozen)
    assert any(".mlp.base." in name for name in frozen)
    for name in frozen - dense:  # the first layer has no experts: its network carries adapters
        assert torch.equal(start[name], end[name]), name
    assert all(not torch.equal(start[name], end[name]) for name in dense)


def test_the_model_is_the_backbone_with_its_adapters(stage_2):
    """In fp64, for fp32 itself rounds the logits of weights as large as these by more than the merge does."""
    base = OmniMolForCausalLM.from_pretrained(stage_2 / "initial")
    adapted = PeftModel.from_pretrained(base, stage_2 / "adapter").double().eval()
    merged = OmniMolForCausalLM.from_pretrained(stage_2 / "model").double().eval()
    batch = tiny.prompts(tiny.chat("How lipophilic?", "CCO"))
    with torch.no_grad():
        ours, theirs = merged(**batch).logits, adapted(**batch).logits
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < 1e-6


def rounds(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "selection.jsonl").read_text().splitlines()]


def test_zero2_with_two_processes_equals_one(stages, stage_2):
    """The rows of iupac_to_selfies have no graph: micro-batches of two rows often hold none."""
    two = stages / "zero2"
    launch(
        "recipes/unified.py", "--config", stages / "unified.yaml", "--output_dir", two,
        "--per_device_train_batch_size", "2", accelerate="recipes/accelerate/zero2_cpu.yaml",
    )  # fmt: skip
    assert len(losses(two)) == 30  # 20 rows are 5 steps; 2 epochs of 1 and 2 portions
    assert losses(two) == pytest.approx(losses(stage_2), rel=1e-4)
    histories = [
        [json.loads(line) for line in (run / "selection.jsonl").read_text().splitlines()] for run in (two, stage_2)
    ]
    for ours, theirs in zip(*histories, strict=True):
        assert ours["drawn"] == theirs["drawn"]
        assert ours["pi"] == pytest.approx(theirs["pi"], abs=1e-6)
    ours, theirs = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (two, stage_2))
    start = load_file(two / "initial" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        before = start.get(name.removeprefix("base_model.model."))
        assert tensor.abs().max() > 0 if before is None else not torch.equal(tensor, before), name


def test_every_answer_has_its_normalised_score(stage_2):
    answers = [json.loads(line) for line in (stage_2 / "predictions.jsonl").read_text().splitlines()]
    assert {answer["task"] for answer in answers} == {"logp", "iupac_to_selfies"}
    assert all(0 <= answer["rho"] <= 1 and math.isfinite(answer["rho"]) for answer in answers)
