"""The cases, one function each: it prepares both sides, compares their results, and returns what is to be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from benchmarks.baseline_data import prompt_text, row_graph, tokenise, tokenised_row
from benchmarks.baseline_metrics import reaction_scores
from benchmarks.baseline_model import MaskedMoE, gradient_errors, moe_gradient_pairs
from benchmarks.harness import Case, rate
from benchmarks.memory import peak_bytes
from benchmarks.setting import (
    BATCH,
    DROPOUT,
    Setting,
    grouped_batches,
    move,
    moved,
    new_optimizer,
    pick_rows,
    product_loss,
    random_batches,
    same_graph,
    set_dropout,
    train_step,
    training_errors,
    without_dropout,
)
from omnimol_hf import OmniMolConfig
from omnimol_hf.chemistry_omnimol import MoleculeGraph, mol_from_smiles, molecule_graphs
from omnimol_hf.encoded_rows import EncodedRows, encoded_table
from omnimol_hf.generation import generate_answers
from omnimol_hf.metrics import molecules
from omnimol_hf.metrics.bootstrap import values
from omnimol_hf.moe_omnimol import AnchorReconcileMoE
from omnimol_hf.packing import PackedCollator, prepare_attention
from omnimol_hf.row_encoding import KeptGraphs, RowEncoder

_MOE_TOKENS = (4, 128)
_REACTIONS, _EXACT, _BROKEN = 3000, 0.4, 0.05  # what share of the answers is right, and what share no molecule


def train_samples(setting: Setting, other: Setting | None = None) -> Case:
    """Stage 2: rows to batches to optimiser steps. The product encoded its rows once, before the first epoch.

    A round is a part of an epoch and the next round another one, so that together they go through the same rows.

    Args:
        other: with what vocabulary the baseline is timed on the same rows; None: the product's.
    """
    encoded, baseline_rows = setting.encoded(), setting.baseline_rows()
    ours, theirs = setting.collators()
    product = setting.product()
    baseline = setting.baseline(product)
    baseline.llama.model.embed_tokens.requires_grad_(other is not None)  # their gradient is one to compare
    first = list(range(BATCH))
    errors = training_errors(
        product,
        baseline,
        moved(ours([encoded[i] for i in first]), setting.device),
        moved(theirs([baseline_rows[i] for i in first]), setting.device),
    )
    lengths = np.asarray(encoded["length"][:])
    if other is not None:
        baseline_rows, theirs = other.baseline_rows(), other.collators()[1]
        baseline = other.baseline(other.product())
        lengths = np.asarray(other.encoded()["length"][:])
    optimizers = new_optimizer(product, fused=True), new_optimizer(baseline, fused=False)
    parts = setting.size.parts
    grouped = grouped_batches(encoded)
    shuffled = random_batches(len(encoded), torch.Generator().manual_seed(0))
    done = {"product": 0, "baseline": 0}

    def part(side: str, batches: Sequence[list[int]]) -> Sequence[list[int]]:
        """The next part of the epoch: batches of all lengths."""
        done[side] += 1
        return batches[done[side] % parts :: parts]

    def train_product() -> None:
        for batch in DataLoader(encoded, batch_sampler=part("product", grouped), collate_fn=ours):
            train_step(product, product_loss(product, moved(batch, setting.device)), optimizers[0])

    def train_baseline() -> None:
        for batch in DataLoader(baseline_rows, batch_sampler=part("baseline", shuffled), collate_fn=theirs):
            train_step(baseline, baseline(**moved(batch, setting.device)).loss, optimizers[1])

    count = BATCH * len(grouped[::parts])
    about = {"size": setting.size_name, "rows": len(encoded), "rows_a_round": count, "batch": BATCH}
    about |= {"dropout": DROPOUT, "padding_product": padding(encoded["length"][:], grouped)} | _lengths(encoded)
    about |= {"padding_baseline": padding(lengths, shuffled), "tokens_median_baseline": int(np.median(lengths))}
    about["rows_shrink"] = round(float(lengths.mean() / np.mean(encoded["length"][:])), 2)
    about["share_left_out"] = round(1 - len(encoded) / setting.train_rows.looked_at, 3)
    timed = rate(count, train_product), rate(count, train_baseline)
    return Case("train_samples", "rows/s", at_mid_size(setting, 4), *timed, errors, about, warm=True)


def at_mid_size(setting: Setting, goal: float) -> float | None:
    """A goal that holds at mid size alone."""
    return goal if setting.size_name == "mid" else None


def train_samples_selfies_tokens(setting: Setting) -> Case:
    """The same with SELFIES symbols as tokens of the product alone: a language model's own vocabulary cuts them.

    Loss and gradients are compared with a baseline that is fed with the product's tokens.
    """
    case = train_samples(*setting.with_selfies_tokens())
    case.name, case.goal = "train_samples_selfies_tokens", at_mid_size(setting, 6)
    return case


def train_samples_packed(setting: Setting) -> Case:
    """The product against itself: rows packed as a shuffle brings them, against padded batches of similar length."""
    encoded, padding_collator = setting.encoded(), setting.collators()[0]
    collators = PackedCollator(padding_collator), padding_collator
    product, parts = setting.product(), setting.size.parts
    prepare_attention(product.get_base_model())
    first = [encoded[i] for i in range(BATCH)]
    with without_dropout(product):
        batches = (moved(collate(first), setting.device) for collate in collators)
        packed, padded = (product_loss(product, batch).item() for batch in batches)
    optimizer = new_optimizer(product, fused=True)
    shuffled, grouped = random_batches(len(encoded), torch.Generator().manual_seed(0)), grouped_batches(encoded)

    def train(batches: Sequence[list[int]], collate: Callable[..., dict[str, Any]]) -> Callable[[], None]:
        remaining = cycle(batches[start::parts] for start in range(parts))

        def part_of_epoch() -> None:
            for batch in DataLoader(encoded, batch_sampler=next(remaining), collate_fn=collate):
                train_step(product, product_loss(product, moved(batch, setting.device)), optimizer)

        return part_of_epoch

    count = BATCH * len(shuffled[::parts])
    about = {"size": setting.size_name, "batch": BATCH, "baseline": "the product on padded batches of similar length"}
    about["padding_baseline"] = padding(encoded["length"][:], grouped)
    sides = [rate(count, train(*side)) for side in zip((shuffled, grouped), collators, strict=True)]
    errors = {"loss": abs(packed - padded) / padded}
    return Case("train_samples_packed", "rows/s", None, *sides, errors, about)


def padding(lengths: Sequence[int], batches: Sequence[list[int]]) -> float:
    """What share of a batch is padding on average."""
    lengths = np.asarray(lengths)
    return round(1 - lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in batches), 3)


def _lengths(encoded: Any) -> dict[str, int]:
    low, median, high = np.percentile(encoded["length"][:], [10, 50, 90]).astype(int).tolist()
    return {"tokens_p10": low, "tokens_median": median, "tokens_p90": high}


def train_memory(setting: Setting) -> Case:
    """Peak memory of training on the same rows: the product's largest batch against the baseline's largest."""
    encoded, baseline_rows = setting.encoded(), setting.baseline_rows()
    ours, theirs = setting.collators()
    lengths = np.asarray(encoded["length"][:])
    largest = grouped_batches(encoded)[-1]
    shuffled = random_batches(len(encoded), torch.Generator().manual_seed(0))
    other = max(shuffled, key=lambda batch: len(batch) * lengths[batch].max())
    batch = {
        "product": ours([encoded[i] for i in largest]),
        "baseline": theirs([baseline_rows[i] for i in other]),
    }
    about = {"size": setting.size_name, "product_tokens": int(lengths[largest].sum()), "batch": BATCH}
    about |= {"baseline_tokens": int(lengths[other].sum()), "padded_to": int(lengths.max())}

    def peak(side: str) -> Callable[[], float]:
        return lambda: peak_bytes(side, setting.processor, setting.size, batch[side], setting.device)

    product, baseline = peak("product"), peak("baseline")
    goal = at_mid_size(setting, 0.5)
    return Case("train_memory", "bytes", goal, product, baseline, about=about, less_is_better=True)


def moe_layer(setting: Setting) -> Case:
    """Forward and backward of one MoE layer at Llama-3.2-1B's geometry with 5 routed experts."""
    config = OmniMolConfig(num_experts=5, expert_dropout=DROPOUT)
    torch.manual_seed(0)
    moe = AnchorReconcileMoE(config)
    moe.base.requires_grad_(False)
    moe.router.reset_parameters()
    moe.experts.reset_parameters()
    move(moe)
    baseline = MaskedMoE(moe)
    set_dropout(baseline, DROPOUT)
    moe.to(setting.device).train()
    baseline.to(setting.device).train()
    inputs = torch.randn(*_MOE_TOKENS, config.text_config.hidden_size, device=setting.device, requires_grad=True)
    upstream = torch.randn_like(inputs)

    def step(layer: torch.nn.Module) -> torch.Tensor:
        inputs.grad = None
        layer.zero_grad()
        output = layer(inputs)
        output.backward(upstream)
        return output.detach()

    with without_dropout(moe, baseline):
        output, own_gradient = step(moe), inputs.grad
        other, other_gradient = step(baseline), inputs.grad
        pairs = [("inputs", own_gradient, other_gradient), *moe_gradient_pairs("", moe, baseline)]
        errors = {"output": float((output - other).norm() / other.norm())} | gradient_errors(pairs)
    tokens = inputs.shape[0] * inputs.shape[1]
    about = {"tokens": tokens, "hidden": 2048, "intermediate": 8192, "experts": 5, "top_k": 2, "rank": 64}
    return Case(
        "moe_layer",
        "tokens/s",
        2.4,
        rate(tokens, lambda: step(moe)),
        rate(tokens, lambda: step(baseline)),
        errors,
        about | {"dropout": DROPOUT},
        size="1B geometry",
    )


def bulk_answers(setting: Setting) -> Case:
    """Greedy answers: batches of 32 of the model with merged adapters, against one after the other."""
    rows = pick_rows(setting.test, setting.size.answer_rows, setting.processor).rows
    tokenizer, new_tokens = setting.processor.tokenizer, setting.size.new_tokens
    adapted = setting.product(dropout=0.0)
    baseline = setting.baseline(adapted, dropout=0.0).eval()
    baseline.merge_adapters()
    product = adapted.merge_and_unload().eval()

    def answer_product(some: list[dict[str, Any]] = rows) -> list[str]:
        return [one["answer"] for one in generate_answers(product, setting.processor, some, 32, new_tokens)]

    def answer_baseline(some: list[dict[str, Any]] = rows) -> list[str]:
        answers = []
        for row in some:
            graph = row_graph(row)
            graph = graph and tuple(part.to(setting.device) for part in graph)
            new = baseline.answer(tokenise(prompt_text(row, graph is not None), tokenizer), graph, new_tokens)
            answers.append(tokenizer.decode(new, skip_special_tokens=True).strip())
        return answers

    pairs = list(zip(answer_product(rows[:16]), answer_baseline(rows[:16]), strict=True))
    errors = {"share_of_answers_that_differ": sum(a != b for a, b in pairs) / len(pairs)}
    about = {"size": setting.size_name, "rows": len(rows), "new_tokens": new_tokens, "batch": 32}
    return Case(
        "bulk_answers", "rows/s", 12, rate(len(rows), answer_product), rate(len(rows), answer_baseline), errors, about
    )


def _graph_rows(setting: Setting) -> list[dict[str, Any]]:
    return [row for row in pick_rows(setting.train, 300, seed=2).rows if row["graph_smiles"]]


def row_to_graph_cold(setting: Setting) -> Case:
    """Dataset rows to the arrays of their graphs, 9 atom and 3 bond columns; every row by itself, nothing kept."""
    rows = _graph_rows(setting)

    def product() -> list[MoleculeGraph]:
        return molecule_graphs(mol_from_smiles(".".join(row["graph_smiles"])) for row in rows)

    return _cold_case("row_to_graph_cold", 3, rows, product)


def row_to_graph_first_pass(setting: Setting) -> Case:
    """The same as rows are encoded for the first time: a molecule that comes again in these rows is read once."""
    rows = _graph_rows(setting)
    molecules = [[("smiles", part) for part in row["graph_smiles"]] for row in rows]
    parts = [part for molecule in molecules for part in molecule]

    def product() -> list[MoleculeGraph]:
        graphs = KeptGraphs(setting.processor)
        graphs.load(parts)
        return [graphs.whole(molecule) for molecule in molecules]

    about = {"molecules": len(parts), "share_repeated": round(1 - len(set(parts)) / len(parts), 3)}
    return _cold_case("row_to_graph_first_pass", None, rows, product, about)


def _cold_case(
    name: str,
    goal: float | None,
    rows: list[dict[str, Any]],
    product: Callable[[], list[MoleculeGraph]],
    about: dict[str, Any] | None = None,
) -> Case:
    errors = {"graphs_that_differ": _different(product(), rows)}
    baseline = rate(len(rows), lambda: [row_graph(row) for row in rows])
    return Case(name, "rows/s", goal, rate(len(rows), product), baseline, errors, {"rows": len(rows)} | (about or {}))


def _different(graphs: list[MoleculeGraph], rows: list[dict[str, Any]]) -> int:
    return sum(not same_graph(graph, row_graph(row)) for graph, row in zip(graphs, rows, strict=True))


def row_to_graph_cached(setting: Setting) -> Case:
    """The same again: from what was kept when the rows were encoded, in a random order; the tokens come along."""
    encoded = setting.encoded()
    rows = setting.train_rows.rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    product = rate(len(rows), lambda: [encoded[i] for i in order])
    baseline = rate(len(rows), lambda: [row_graph(rows[i]) for i in order])
    drawn = [i for i, row in enumerate(rows) if row["graph_smiles"]]
    kept = [
        MoleculeGraph(
            encoded[i]["atom_features"].reshape(-1, 9),
            encoded[i]["bond_index"].reshape(2, -1),
            encoded[i]["bond_features"].reshape(-1, 3),
        )
        for i in drawn
    ]
    errors = {"graphs_that_differ": _different(kept, [rows[i] for i in drawn])}
    return Case("row_to_graph_cached", "rows/s", 80, product, baseline, errors, {"rows": len(rows)})


def tokenise_collate(setting: Setting) -> Case:
    """Rows without their graphs to padded batches, nothing kept from before; the product tokenises all at once."""
    ours, theirs = setting.collators()
    rows = [row | {"graph_smiles": []} for row in setting.train_rows.rows]
    batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    tokenizer = setting.processor.tokenizer

    def product() -> list[dict[str, Any]]:
        table = encoded_table(RowEncoder(setting.processor).encode(rows))
        encoded = EncodedRows(Dataset(table, fingerprint="rows"), np.arange(len(rows)))
        return [ours(encoded.__getitems__(range(i, min(i + BATCH, len(rows))))) for i in range(0, len(rows), BATCH)]

    def baseline() -> list[dict[str, Any]]:
        return [theirs([tokenised_row(row, False, tokenizer) | {"graph": None} for row in batch]) for batch in batches]

    names = ("input_ids", "labels", "attention_mask")
    differ = sum(
        not torch.equal(a[name], b[name]) for a, b in zip(product(), baseline(), strict=True) for name in names
    )
    about = {"rows": len(rows), "batch": BATCH}
    return Case(
        "tokenise_collate",
        "rows/s",
        4,
        rate(len(rows), product),
        rate(len(rows), baseline),
        {"batches_that_differ": differ},
        about,
    )


def batch_cached(setting: Setting) -> Case:
    """The whole data path of an epoch after the first: rows to batches with graphs, in a random order."""
    encoded, baseline_rows = setting.encoded(), setting.baseline_rows()
    ours, theirs = setting.collators()
    batches = random_batches(len(encoded), torch.Generator().manual_seed(0))

    def product() -> None:
        for batch in batches:
            ours(encoded.__getitems__(batch))

    def baseline() -> None:
        for batch in batches:
            theirs([baseline_rows[i] for i in batch])

    count = len(encoded)
    about = {"rows": count, "batch": BATCH}
    return Case("batch_cached", "rows/s", None, rate(count, product), rate(count, baseline), {}, about)


def reaction_metrics(setting: Setting) -> Case:
    """The authors' seven scores of 3,000 reactions, nothing kept from before."""
    chosen = np.flatnonzero(np.asarray(setting.test["task"][:]) == "forward_prediction")
    outputs = setting.test.select(chosen)["output"][:]
    generator = np.random.default_rng(0)
    references = [outputs[i] for i in generator.integers(len(outputs), size=_REACTIONS)]
    others = [outputs[i] for i in generator.integers(len(outputs), size=_REACTIONS)]
    kind = generator.random(_REACTIONS)
    predictions = [
        reference if draw < _EXACT else "[C][no symbol]" if draw > 1 - _BROKEN else other
        for reference, other, draw in zip(references, others, kind, strict=True)
    ]

    def product() -> dict[str, float | None]:
        for cached in (molecules._read, molecules._fingerprints, molecules._inchi):
            cached.cache_clear()
        return values(molecules.paper_molecule_metrics(predictions, references))

    ours, theirs = product(), reaction_scores(predictions, references)
    errors = {"score": max(abs(ours[name] - value) / max(abs(value), 1e-9) for name, value in theirs.items())}
    about = {"reactions": _REACTIONS, "distinct": len(set(references) | set(predictions)), "exact": _EXACT}
    return Case(
        "reaction_metrics",
        "rows/s",
        2.5,
        rate(_REACTIONS, product),
        rate(_REACTIONS, lambda: reaction_scores(predictions, references)),
        errors,
        about | {"no_molecule": _BROKEN},
    )


CASES: dict[str, Callable[[Setting], Case]] = {
    case.__name__: case
    for case in (
        train_samples,
        train_samples_selfies_tokens,
        train_samples_packed,
        moe_layer,
        train_memory,
        bulk_answers,
        row_to_graph_cold,
        row_to_graph_first_pass,
        row_to_graph_cached,
        tokenise_collate,
        batch_cached,
        reaction_metrics,
    )
}
