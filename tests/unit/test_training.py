"""What trains and what stays frozen."""

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from omnimol_hf.collation import TrainingCollator, encode_rows
from omnimol_hf.training import OmniMolTrainer, select_trainable
from tests import tiny

ROWS = [
    {
        "task": "logp",
        "instruction": "How lipophilic?",
        "input": "[C]" * n,
        "output": f"{n}.5",
        "graph_smiles": ["C" * n],
    }
    for n in range(1, 9)
]


def make_trainer(model, folder, processor=None, **kwargs) -> OmniMolTrainer:
    processor = processor or tiny.processor()
    rows, left_out = encode_rows(Dataset.from_list(ROWS), processor)
    assert not left_out
    settings = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "save_strategy": "no",
    } | kwargs
    args = TrainingArguments(
        str(folder), use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True, **settings
    )
    collator = TrainingCollator(processor.tokenizer.pad_token_id)
    return OmniMolTrainer(model, args, data_collator=collator, train_dataset=rows, processing_class=processor)


def test_frozen_parts_keep_every_byte(tmp_path):
    model = tiny.model().to(torch.bfloat16)
    counts = select_trainable(model, ["projector", "router", "experts"])
    assert all(counts.values())
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.split(".")[-1] and any(p in name.split(".") for p in counts) for name in trains)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model.model.language_model.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16
    before = {name: value.clone() for name, value in model.state_dict().items()}
    make_trainer(model, tmp_path).train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved <= trains
    assert {"model.projector.weight", "model.language_model.layers.1.mlp.experts.gate_A"} <= moved


def test_everything_but_the_graph_encoder_trains_by_default():
    model = tiny.model()
    counts = select_trainable(model, None)
    encoder = sum(weight.numel() for weight in model.model.graph_encoder.state_dict().values())
    assert counts == {"all but the graph encoder": sum(p.numel() for p in model.parameters()), "frozen": encoder}


def test_unknown_part_is_named():
    with pytest.raises(ValueError, match=r"no trainable parameter is named \['routers'\].*'router'"):
        select_trainable(tiny.model(), ["projector", "routers"])
