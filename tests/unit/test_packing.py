"""Packed rows against the same rows padded: equal in all that training sees, and deaf to each other."""

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from omnimol_hf.collation import TrainingCollator, encode_rows
from omnimol_hf.packing import PackedCollator
from omnimol_hf.packing_omnimol import PACKED_SDPA
from omnimol_hf.training import OmniMolTrainer, select_trainable
from tests import tiny


def row(task: str, input: str, output: str, *smiles: str) -> dict:
    return {"task": task, "instruction": "What is it?", "input": input, "output": output, "graph_smiles": list(smiles)}


ROWS = [
    row("logp", "[C][C][O]", "1.25", "CCO"),
    row("iupac_to_selfies", "methane", "[C]"),
    row("reagent_prediction", "[C][O].[N]>>[C][N]", "[O][Br]", "CO", "N", "CN"),
    row("logp", "[C]" * 9, "4", "C" * 9),
]


@pytest.fixture(scope="module")
def encoded() -> Dataset:
    return encode_rows(Dataset.from_list(ROWS), tiny.processor())[0]


def collators() -> tuple[TrainingCollator, PackedCollator]:
    padded = TrainingCollator(tiny.processor().tokenizer.pad_token_id)
    return padded, PackedCollator(padded)


def run(model, batch, **kwargs):
    output = model(**{name: value for name, value in batch.items() if name != "task_ids"}, **kwargs)
    model.zero_grad()
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reduction", ["token_mean", "sum_per_sample"])
@pytest.mark.parametrize(
    ("dtype", "attention"),
    [
        (torch.float32, "eager"),
        *((dtype, a) for a in ("sdpa", PACKED_SDPA) for dtype in (torch.float32, torch.float64)),
    ],
)
def test_loss_and_gradients(encoded, attention, reduction, dtype, monkeypatch):
    if dtype == torch.float64:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # also in routers, which insist on fp32
    model = tiny.model(loss_reduction=reduction, router_aux_loss_coef=0.5).to(dtype).train()
    model.set_attn_implementation(attention)
    padded, packed = (collate(encoded[i] for i in range(4)) for collate in collators())
    assert packed["input_ids"].shape == (1, sum(encoded["length"]))
    weights = torch.tensor([0.5, 1, 2, 1.5], dtype=dtype)
    (one, ours), (other, theirs) = (
        run(model, batch, sequence_weights=weights, num_items_in_batch=17) for batch in (packed, padded)
    )
    for name in ("loss", "aux_loss", "sequence_nll", "expert_load"):
        torch.testing.assert_close(one[name], other[name], rtol=1e-6, atol=1e-6)
    assert ours.keys() == theirs.keys()
    if dtype == torch.float64:
        model.config.router_aux_loss_coef = 0.0  # whose gradients are fp32
        (one, ours), (other, theirs) = (run(model, batch) for batch in (packed, padded))
        assert abs(one.loss - other.loss) <= 1e-12 * other.loss
    for name, gradient in theirs.items():
        limit = (1e-4 if dtype == torch.float32 else 1e-12) * max(gradient.norm(), 1e-3)
        assert (ours[name] - gradient).norm() <= limit, name


@pytest.mark.parametrize("attention", ["sdpa", PACKED_SDPA])
@pytest.mark.parametrize("changed", range(3))
def test_rows_do_not_hear_each_other(encoded, attention, changed):
    """Another row of the same length in one's place, its molecule too, leaves all others' logits as they are."""
    model = tiny.model()
    model.set_attn_implementation(attention)
    # Which atoms are alike is a matter of all molecules, and with it the order of sums: here, each one by itself.
    model.model.graph_encoder.forward = model.model.graph_encoder.message_passing
    _, collate = collators()
    rows = [dict(encoded[i]) for i in range(3)]
    logits = []
    for _ in range(2):
        batch = collate(rows)
        batch.pop("task_ids")
        with torch.no_grad():
            logits.append(model(**batch).logits[0].split([one["length"] for one in rows]))
        ids = rows[changed]["input_ids"].copy()
        text = ids != model.config.graph_token_id
        ids[text] = 10 + (ids[text] + 1) % 200
        atoms = rows[changed]["atom_features"].copy()
        atoms[:] = (atoms + 1) % 2
        rows[changed] |= {"input_ids": ids, "atom_features": atoms}
    for i, (before, after) in enumerate(zip(*logits, strict=True)):
        assert torch.equal(before, after) == (i != changed)


def test_labels_at_the_start_of_a_row_are_nobodys(encoded):
    """The token before it is another row's: as in a padded row, nothing predicts it."""
    model = tiny.model().train()
    padded, packed = (collate(encoded[i] for i in range(3)) for collate in collators())
    padded["labels"][:, 0] = padded["input_ids"][:, 0]
    packed["labels"][0, packed["cu_seq_lens_q"][:-1].long()] = padded["labels"][:, 0]
    for batch in (padded, packed):
        batch.pop("label_index")
    torch.testing.assert_close(run(model, packed)[0].sequence_nll, run(model, padded)[0].sequence_nll)


def trained(encoded: Dataset, folder, packing: bool, steps: int = 4, **kwargs) -> OmniMolTrainer:
    model = tiny.model().train()
    select_trainable(model, ["projector", "router", "experts"])
    args = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        use_cpu=True,
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        save_steps=2,
        **kwargs,
    )
    more = [one | {"output": one["output"] + "[C]" * i} for i, one in enumerate(ROWS, 1)]
    train = encode_rows(Dataset.from_list([*ROWS, *more]), tiny.processor())[0]
    trainer = OmniMolTrainer(
        model, args, data_collator=collators()[0], train_dataset=train, eval_dataset=encoded, packing=packing
    )
    trainer.train(resume_from_checkpoint=trainer.last_checkpoint())
    return trainer


def losses(trainer: OmniMolTrainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_a_packed_run_is_the_padded_one(encoded, tmp_path):
    """Under accumulation, the loss over all tokens of a step; evaluated alike; continued as if never stopped."""
    padded, packed = (trained(encoded, tmp_path / str(packing), packing) for packing in (False, True))
    assert packed.model.config._attn_implementation == PACKED_SDPA
    assert losses(packed) == pytest.approx(losses(padded), rel=1e-5)
    assert packed.evaluate()["eval_loss"] == pytest.approx(padded.evaluate()["eval_loss"], rel=1e-5)
    by_task = [
        {name: value for name, value in one.state.log_history[3].items() if name.startswith(("loss/", "balance"))}
        for one in (padded, packed)
    ]
    assert by_task[1] == pytest.approx(by_task[0], rel=1e-4)
    shares = [one.state.log_history[0]["speed/padding_share"] for one in (padded, packed)]
    assert shares[0] > shares[1] == 0
    trained(encoded, tmp_path / "stopped", True, steps=2)
    continued = trained(encoded, tmp_path / "stopped", True)
    for (name, one), other in zip(packed.model.named_parameters(), continued.model.parameters(), strict=True):
        assert torch.equal(one, other), name
