"""How much faster the quickstart is than the baseline's way of it: `python -m benchmarks.quickstart_speed`.

Both sides train on the same draws of the quickstart's mixture and answer the same held-out rows, in turns; the minutes
of a whole quickstart follow from the seconds of a step and of an answer. Both have the same Trainer, saving and
scoring around them, which are left out; preparing rows and tokenizer counts on both sides, encoding on the product's.

Everything trains in the quickstart. The baseline's experts share one network, as the product's do: that is less work
than the copies of the authors' code, which would no longer be the same function after the first step.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_caching
from torch import Tensor

from benchmarks.baseline_data import BaselineCollator, BaselineRows, prompt_text, row_graph, tokenise
from benchmarks.baseline_model import BaselineModel, LoraLinear, MaskedMoE, gradient_errors, moe_gradient_pairs
from benchmarks.clock import clock_name, seconds
from benchmarks.harness import machine
from benchmarks.setting import move, product_graph, product_loss, same_graph, train_step
from omnimol_hf import OmniMolForCausalLM, OmniMolProcessor
from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters
from omnimol_hf.checkpoints import global_batch
from omnimol_hf.collation import TrainingCollator, encode_rows
from omnimol_hf.from_scratch import new_model, new_processor
from omnimol_hf.generation import END, generate_answers, length_batches
from omnimol_hf.moe_omnimol import PROJECTIONS, AnchorReconcileMoE
from omnimol_hf.run import RunArguments, parse_run
from omnimol_hf.run_rows import prepare_rows, rows_that_fit
from omnimol_hf.sampling import MixtureSampler
from omnimol_hf.training import select_trainable

RESULTS = Path(__file__).parent / "results"
ENCODED_ROWS = 3000  # of the training rows; enough to draw the measured steps from


def plain_baseline(product: OmniMolForCausalLM) -> BaselineModel:
    """The baseline of a model without adapters that trains whole but for its graph encoder."""
    adapted = add_adapters(copy.deepcopy(product), AdaptiveLoraConfig(r=1, lora_dropout=0.0))
    baseline = BaselineModel(adapted)
    for layer in baseline.llama.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, module in list(block.named_children()):
                if isinstance(module, LoraLinear):
                    setattr(block, name, module.base)
        if isinstance(layer.mlp, MaskedMoE):
            for name in PROJECTIONS:
                projections = [getattr(one, f"{name}_proj") for one in (*layer.mlp.experts, layer.mlp.anchor)]
                for one in projections:
                    one.base = projections[0].base
    return baseline.requires_grad_(True).train()


def plain_gradient_pairs(product: OmniMolForCausalLM, baseline: BaselineModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Every trained parameter of the product and its gradient in both."""
    llama = baseline.llama.model
    theirs = dict(llama.named_parameters())
    for name, parameter in product.model.language_model.named_parameters():
        if ".mlp." not in name or name in theirs:
            yield name, parameter.grad, theirs[name].grad
    for name, parameter in product.model.projector.named_parameters():
        yield f"projector.{name}", parameter.grad, baseline.projector.get_parameter(name).grad
    for number, layer in enumerate(product.model.language_model.layers):
        if isinstance(layer.mlp, AnchorReconcileMoE):
            moe = llama.layers[number].mlp
            yield from moe_gradient_pairs(f"layers.{number}.", layer.mlp, moe)
            for name in PROJECTIONS:
                shared = getattr(moe.anchor, f"{name}_proj").base.weight.grad
                yield f"layers.{number}.{name}", getattr(layer.mlp.base, f"{name}_proj").weight.grad, shared


@dataclass
class Quickstart:
    """The quickstart's settings, rows, model and processor, and what preparing them took."""

    run: RunArguments
    steps: int
    batch: int
    learning_rate: float
    train: list[dict[str, Any]]
    all_train_rows: int
    encoded: Dataset
    test: list[dict[str, Any]]
    all_test_rows: int
    model: OmniMolForCausalLM
    processor: OmniMolProcessor
    prepare_seconds: float
    encode_seconds_a_row: float


def prepare(arguments: list[str], answers: int) -> Quickstart:
    """What `recipes/unified.py` has when it begins to train, with as many training rows as are measured."""
    run, training, _ = parse_run(arguments)
    kept: dict[str, Any] = {}

    def rows_and_processor() -> None:
        kept["rows"] = prepare_rows(run, training)
        sizes = dict(run.new_model)
        kept["processor"] = new_processor(kept["rows"].train, sizes.pop("vocab_size"))
        kept["sizes"] = sizes

    prepared = seconds(rows_and_processor, "cpu")
    rows, processor, sizes = kept["rows"], kept["processor"], kept["sizes"]
    model = new_model(processor, sizes.pop("text_config"), training.seed, **sizes)
    select_trainable(model, None)
    train = rows.train.shuffle(seed=0).select(range(min(ENCODED_ROWS, len(rows.train))))
    encode = seconds(lambda: kept.update(encoded=encode_rows(train, processor, run.max_length)), "cpu")
    fitting = [row for one in rows.test.values() for row in rows_that_fit(one, processor, run)]
    spread = torch.randperm(len(fitting), generator=torch.Generator().manual_seed(0))[:answers].tolist()
    return Quickstart(
        run=run,
        steps=training.max_steps,
        batch=global_batch(training),
        learning_rate=training.learning_rate,
        train=list(train),
        all_train_rows=len(rows.train),
        encoded=kept["encoded"][0],
        test=[fitting[i] for i in spread],
        all_test_rows=len(fitting),
        model=model,
        processor=processor,
        prepare_seconds=prepared,
        encode_seconds_a_row=encode / len(train),
    )


class Training:
    """Short parts of the quickstart's training on both sides, the same draws on each."""

    def __init__(self, quick: Quickstart) -> None:
        self.quick = quick
        pad = quick.processor.tokenizer.pad_token_id
        self.ours, self.theirs = TrainingCollator(pad, quick.processor.graph_features), BaselineCollator(pad)
        self.rows = BaselineRows(quick.train, quick.processor.tokenizer)
        self.number = quick.encoded["row"][:].tolist()
        move(quick.model)
        self.product, self.baseline = quick.model.train(), plain_baseline(quick.model)
        self.optimizers = [
            torch.optim.AdamW(
                [one for one in model.parameters() if one.requires_grad], lr=quick.learning_rate, fused=fused
            )
            for model, fused in ((self.product, True), (self.baseline, False))
        ]
        self.errors = self._errors()

    def _errors(self) -> dict[str, Any]:
        """Loss and gradients of rows whose SELFIES and SMILES give the atoms in the same order."""
        same = (
            place
            for place, number in enumerate(self.number)
            if not (row := self.quick.train[number])["graph_smiles"] or same_graph(product_graph(row), row_graph(row))
        )
        batch = [next(same) for _ in range(self.quick.batch)]
        loss = product_loss(self.product, self._own_batch(batch))
        other = self.baseline(**self._other_batch(batch)).loss
        loss.backward()
        other.backward()
        errors = gradient_errors(plain_gradient_pairs(self.product, self.baseline))
        self.product.zero_grad()
        self.baseline.zero_grad()
        return {"loss": abs(loss.item() - other.item()) / abs(other.item())} | errors

    def _own_batch(self, places: list[int]) -> dict[str, Tensor]:
        return self.ours(self.quick.encoded.__getitems__(places))

    def _other_batch(self, places: list[int]) -> dict[str, Any]:
        return self.theirs([self.rows[self.number[place]] for place in places])

    def batches(self, steps: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        """So many batches of the mixture: the product's, of similar length, and the same draws in a plain shuffle."""
        quick = self.quick
        mixture = {task: quick.run.mixture[task] for task in set(quick.encoded["task"])}
        sampler = MixtureSampler(list(quick.encoded["task"]), quick.encoded["length"], quick.batch, mixture, seed)
        order = list(sampler)[: steps * quick.batch]
        shuffled = torch.tensor(order)[torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))]
        own = [order[i : i + quick.batch] for i in range(0, len(order), quick.batch)]
        return own, [batch.tolist() for batch in shuffled.split(quick.batch)]

    def train_product(self, batches: Sequence[list[int]]) -> None:
        for batch in batches:
            train_step(self.product, product_loss(self.product, self._own_batch(batch)), self.optimizers[0])

    def train_baseline(self, batches: Sequence[list[int]]) -> None:
        for batch in batches:
            train_step(self.baseline, self.baseline(**self._other_batch(batch)).loss, self.optimizers[1])


class Answering:
    """Answers as long as the rows' references, which an untrained model would not give: none ends by itself.

    A batch of the product runs as long as its longest answer; one of the baseline's ends where its row's does.
    """

    def __init__(self, quick: Quickstart, training: Training) -> None:
        self.quick = quick
        tokenizer = quick.processor.tokenizer
        limit = quick.run.max_new_tokens
        lengths = [len(tokenizer(row["output"], add_special_tokens=False).input_ids) + 1 for row in quick.test]
        self.lengths = [min(length, limit) for length in lengths]
        self.product = copy.deepcopy(training.product).eval()
        self.baseline = plain_baseline(training.product).eval()
        self.baseline.merge_adapters()
        suppressed = [self.product.config.graph_token_id, tokenizer.convert_tokens_to_ids(END)]
        for model in (self.product, self.baseline.llama):
            model.generation_config.update(suppress_tokens=suppressed, eos_token_id=suppressed[1])

    def answer_product(self) -> list[str]:
        answers = [""] * len(self.quick.test)
        for batch in length_batches(self.quick.test, self.quick.run.eval_batch_size):
            rows, longest = [self.quick.test[i] for i in batch], max(self.lengths[i] for i in batch)
            found = generate_answers(self.product, self.quick.processor, rows, len(rows), longest)
            for i, one in zip(batch, found, strict=True):
                answers[i] = one["answer"]
        return answers

    def answer_baseline(self) -> list[str]:
        tokenizer, answers = self.quick.processor.tokenizer, []
        for row, length in zip(self.quick.test, self.lengths, strict=True):
            graph = row_graph(row)
            new = self.baseline.answer(tokenise(prompt_text(row, graph is not None), tokenizer), graph, length)
            answers.append(tokenizer.decode(new, skip_special_tokens=True).strip())
        return answers

    def share_that_differ(self) -> float:
        """Of answers, the baseline's being the beginning of the product's where rows are read alike."""
        pairs = zip(self.answer_product(), self.answer_baseline(), strict=True)
        return sum(not ours.startswith(theirs) for ours, theirs in pairs) / len(self.quick.test)


def measure(quick: Quickstart, steps: int, rounds: int) -> dict[str, Any]:
    """Alternating rounds, each of which gives the minutes of a whole quickstart on either side."""
    training = Training(quick)
    answering = Answering(quick, training)
    errors = training.errors | {"share_of_answers_that_differ": answering.share_that_differ()}  # warms up too
    parts: dict[str, list[dict[str, float]]] = {"product": [], "baseline": []}
    for number in range(rounds):
        own, other = training.batches(steps, seed=number)
        sides = [
            ("product", lambda own=own: training.train_product(own), answering.answer_product),
            ("baseline", lambda other=other: training.train_baseline(other), answering.answer_baseline),
        ]
        for name, train, answer in sides if number % 2 else reversed(sides):
            whole = {
                "prepare": quick.prepare_seconds,
                "encode": quick.encode_seconds_a_row * quick.all_train_rows if name == "product" else 0.0,
                "train": seconds(train, "cpu") / steps * quick.steps,
                "answer": seconds(answer, "cpu") / len(quick.test) * quick.all_test_rows,
            }
            parts[name].append({part: value / 60 for part, value in whole.items()})
    return {"errors": errors} | combine(parts)


def combine(parts: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians and ratios, baseline over product, of rounds of minutes by part."""
    ratios = [
        sum(theirs.values()) / sum(ours.values())
        for ours, theirs in zip(parts["product"], parts["baseline"], strict=True)
    ]
    result: dict[str, Any] = {
        f"{name}_minutes": {part: statistics.median(one[part] for one in each) for part in each[0]}
        | {"all": statistics.median(sum(one.values()) for one in each)}
        for name, each in parts.items()
    }
    for part in ("train", "answer"):
        each = [b[part] / a[part] for a, b in zip(parts["product"], parts["baseline"], strict=True)]
        result[f"{part}_ratio_median"] = statistics.median(each)
    return result | {
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rounds": len(ratios),
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line; what it does not know is a setting of the quickstart."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quickstart_speed", description=__doc__)
    parser.add_argument("--steps", type=int, default=80, help="of training in a round")
    parser.add_argument("--answers", type=int, default=64, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options, settings = parser.parse_known_args(arguments)
    disable_caching()  # a fresh clone encodes its rows
    quick = prepare(settings, options.answers)
    about = {"steps_a_round": options.steps, "answers_a_round": len(quick.test), "steps": quick.steps}
    about |= {"answers": quick.all_test_rows, "clock": clock_name("cpu"), "machine": machine()}
    result = about | measure(quick, options.steps, options.rounds)
    for name in ("baseline", "product"):
        print(
            f"{name:9s}", ", ".join(f"{part} {value:.2f}" for part, value in result[f"{name}_minutes"].items()), "min"
        )
    print(
        f"the quickstart is {result['ratio_median']:.2f} times as fast ({result['ratio_min']:.2f} to "
        f"{result['ratio_max']:.2f}, {result['rounds']} rounds): training {result['train_ratio_median']:.2f}, answers "
        f"{result['answer_ratio_median']:.2f}  {result['errors']}"
    )
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "quickstart_speed.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
