"""What is compared: real rows, a product of a given size with adapters as in stage 2, and its baseline."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn

from benchmarks.baseline_data import BaselineCollator, BaselineRows, Graph, row_graph
from benchmarks.baseline_model import BaselineModel, gradient_errors, gradient_pairs
from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters
from omnimol_hf.chemistry_omnimol import MoleculeGraph, mol_from_smiles, molecule_graph
from omnimol_hf.collation import TrainingCollator, encode_rows
from omnimol_hf.from_scratch import new_model, new_processor
from omnimol_hf.processing_omnimol import OmniMolProcessor
from omnimol_hf.rows import load_rows
from omnimol_hf.sampling import MixtureSampler
from omnimol_hf.selfies_tokens import add_symbols, selfies_symbols, selfies_token_ids

BATCH = 8
DROPOUT = 0.05  # of adapters and experts, Table 4; switched off where results are compared
MAX_LENGTH = 1024  # longer rows are left out: one of them would decide how long a round takes


@dataclass(frozen=True)
class Size:
    """A model's size, and how many rows are used at it; a round of training takes one of so many parts of an epoch."""

    vocab_size: int
    rank: int
    text: dict[str, Any]
    train_rows: int
    parts: int
    answer_rows: int
    new_tokens: int


_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def _text(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": 2 * MAX_LENGTH,
        "rope_parameters": _ROPE,
    }


SIZES = {
    "quickstart": Size(1024, 8, _text(128, 256, 4, 4, 2), train_rows=512, parts=4, answer_rows=64, new_tokens=64),
    "mid": Size(32_000, 64, _text(512, 2048, 8, 8, 4), train_rows=512, parts=16, answer_rows=32, new_tokens=32),
}


def same_graph(ours: MoleculeGraph, theirs: Graph) -> bool:
    """Whether both are the same graph with the same order of atoms; the order of bonds means nothing."""
    atoms, ends, kinds = (part.numpy() for part in theirs)
    if ours.atom_features.shape != atoms.shape or (ours.atom_features != atoms).any():
        return False
    bonds = (
        np.concatenate([a.T, b], axis=1).tolist() for a, b in ((ours.bond_index, ours.bond_features), (ends, kinds))
    )
    first, second = map(sorted, bonds)
    return first == second


def product_graph(row: dict[str, Any]) -> MoleculeGraph:
    """The graph of a row that has one, as the product makes it: from the SMILES that the dataset carries."""
    return molecule_graph(mol_from_smiles(".".join(row["graph_smiles"])))


@dataclass
class Rows:
    """Rows that both sides read alike, and how many of those looked at are not."""

    rows: list[dict[str, Any]]
    looked_at: int


def pick_rows(source: Dataset, count: int, processor: OmniMolProcessor | None = None, seed: int = 0) -> Rows:
    """A random mixture of rows.

    Left out are those whose SELFIES give the atoms in another order than the stored SMILES, for then the two sides
    would learn from different sequences; and, with a processor, those above `MAX_LENGTH`.
    """
    kept, looked_at = [], 0
    for row in source.shuffle(seed=seed):
        if len(kept) == count:
            break
        looked_at += 1
        if row["graph_smiles"] and not same_graph(product_graph(row), row_graph(row)):
            continue
        if processor is not None:
            messages = processor.row_messages(row)
            if len(processor.apply_chat_template(messages, tokenize=True)) > MAX_LENGTH:
                continue
        kept.append(row)
    return Rows(kept, looked_at)


class Setting:
    """Rows, processor and models of one size on one device; models are made when they are asked for."""

    def __init__(self, dataset: str, size: str, device: str) -> None:
        self.size_name, self.size, self.device = size, SIZES[size], device
        splits = load_rows(dataset)
        self.train, self.test = splits["train"], splits["test"]
        self.processor = self.new_processor()
        self.train_rows = pick_rows(self.train, self.size.train_rows, self.processor)

    def new_processor(self, selfies_units: bool = True) -> OmniMolProcessor:
        """A processor whose tokenizer is trained on some of the rows; see `train_tokenizer`."""
        texts = self.train.shuffle(seed=1).select(range(min(4000, len(self.train))))
        return new_processor(texts, self.size.vocab_size, selfies_units)

    def with_selfies_tokens(self) -> tuple[Setting, Setting]:
        """The product's setting, in which SELFIES symbols are tokens, and the baseline's, on the same rows.

        Both have a tokenizer that cuts SELFIES symbols into pieces, as that of a published language model does.
        """
        plain, short = copy.copy(self), copy.copy(self)
        plain.processor = self.new_processor(selfies_units=False)
        plain.train_rows = short.train_rows = pick_rows(self.train, self.size.train_rows, plain.processor)
        short.processor = copy.deepcopy(plain.processor)
        add_symbols(short.processor.tokenizer, selfies_symbols(self.train))
        return short, plain

    def product(self, dropout: float = DROPOUT) -> PeftModel:
        """The product in training mode, every trained parameter away from its start."""
        return make_product(self.processor, self.size, dropout).to(self.device)

    def baseline(self, product: PeftModel, dropout: float = DROPOUT) -> BaselineModel:
        """The baseline with the product's weights, in training mode."""
        return make_baseline(product, dropout)

    def encoded(self) -> Dataset:
        return encode_rows(Dataset.from_list(self.train_rows.rows), self.processor)[0]

    def baseline_rows(self) -> BaselineRows:
        return BaselineRows(self.train_rows.rows, self.processor.tokenizer)

    def collators(self) -> tuple[TrainingCollator, BaselineCollator]:
        pad = self.processor.tokenizer.pad_token_id
        return TrainingCollator(pad, self.processor.graph_features), BaselineCollator(pad)


def make_product(processor: OmniMolProcessor, size: Size, dropout: float) -> PeftModel:
    """A random model of a size with stage 2's adapters, moved as if it had been trained."""
    token_ids = selfies_token_ids(processor.tokenizer)
    text = size.text | {"vocab_size": size.vocab_size + len(token_ids)}
    model = new_model(processor, text, expert_rank=size.rank)
    adapted = add_adapters(model, AdaptiveLoraConfig(r=size.rank, lora_dropout=dropout), token_ids=token_ids)
    move(adapted)
    return adapted.train()


def make_baseline(product: PeftModel, dropout: float) -> BaselineModel:
    """The baseline with a product's weights, in training mode."""
    baseline = BaselineModel(product).train()
    set_dropout(baseline, dropout)
    return baseline


@torch.no_grad()
def move(model: nn.Module, seed: int = 0, std: float = 0.02) -> None:
    """Move what trains away from its start, where half of all gradients are zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(std * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def set_dropout(model: nn.Module, p: float) -> None:
    """Set every dropout layer of a model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p


@contextlib.contextmanager
def without_dropout(*models: nn.Module) -> Iterator[None]:
    """No dropout inside, what there was afterwards."""
    layers = [module for model in models for module in model.modules() if isinstance(module, nn.Dropout)]
    before = [layer.p for layer in layers]
    for layer in layers:
        layer.p = 0.0
    yield
    for layer, p in zip(layers, before, strict=True):
        layer.p = p


def moved(batch: dict[str, Any], device: str) -> dict[str, Any]:
    """A batch on a device; the baseline's list of graphs too."""
    result = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    if "graphs" in batch:
        result["graphs"] = [graph and tuple(part.to(device) for part in graph) for graph in batch["graphs"]]
    return result


def product_loss(product: PeftModel, batch: dict[str, Any]) -> Tensor:
    return product(**{name: value for name, value in batch.items() if name != "task_ids"}).loss


def training_errors(
    product: PeftModel, baseline: BaselineModel, ours: dict[str, Any], theirs: dict[str, Any]
) -> dict[str, Any]:
    """How far loss (relative to itself) and gradients (`gradient_errors`) of the same rows differ; without dropout."""
    with without_dropout(product, baseline):
        loss, other = product_loss(product, ours), baseline(**theirs).loss
        loss.backward()
        other.backward()
    errors = gradient_errors(gradient_pairs(product, baseline))
    product.zero_grad()
    baseline.zero_grad()
    return {"loss": abs(loss.item() - other.item()) / abs(other.item())} | errors


def train_step(model: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """What follows the loss in a step, the same for both."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def new_optimizer(model: nn.Module, fused: bool) -> torch.optim.AdamW:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=8e-5, fused=fused)


def grouped_batches(encoded: Dataset) -> list[list[int]]:
    """The product's batches of an epoch, the shortest first."""
    order = list(MixtureSampler(list(encoded["task"]), encoded["length"], BATCH))
    lengths = np.asarray(encoded["length"][:])
    return sorted((order[i : i + BATCH] for i in range(0, len(order), BATCH)), key=lambda batch: lengths[batch].max())


def random_batches(count: int, generator: torch.Generator) -> Sequence[list[int]]:
    """The order of the baseline's rows: a plain shuffle."""
    return [batch.tolist() for batch in torch.randperm(count, generator=generator).split(BATCH)]
