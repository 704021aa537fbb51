"""The benchmarks' baseline is the product's function: same graphs, tokens, loss, gradients, answers and scores."""

import json

import pytest
import torch
from datasets import Dataset

from benchmarks.__main__ import save
from benchmarks.baseline_data import BaselineCollator, BaselineRows, prompt_text, row_graph, tokenise
from benchmarks.baseline_metrics import reaction_scores
from benchmarks.baseline_model import BaselineModel, gradient_errors, gradient_pairs
from benchmarks.chart import draw
from benchmarks.harness import Case, measure
from benchmarks.setting import product_graph, product_loss, same_graph, training_errors
from omnimol_hf.adapters import add_adapters
from omnimol_hf.collation import TrainingCollator, encode_rows
from omnimol_hf.generation import generate_answers
from omnimol_hf.metrics.bootstrap import values
from omnimol_hf.metrics.molecules import paper_molecule_metrics
from tests import tiny
from tests.adapted import base, move, settings


def row(task: str, molecule: str, smiles: list[str], output: str) -> dict:
    return {"task": task, "instruction": "What is it?", "input": molecule, "output": output, "graph_smiles": smiles}


ROWS = [
    row("molecular_weight", "[C][C][O]", ["CCO"], "46.07 g/mol"),
    row("forward_prediction", "[C][C][=Branch1][C][=O][O].[C][O]", ["CC(=O)O"], "[C][C][=Branch1][C][=O][O][C]"),
    row("text_guided_generation", "the simplest amine", [], "[N]"),
    row("reagent_prediction", "[C][C@H1][Branch1][C][F][Cl].[Na+1]>>[C]", ["C[C@H](F)Cl", "[Na+]"], "[O]"),
]


def batches(rows: list[dict]) -> tuple[dict, dict]:
    encoded, left_out = encode_rows(Dataset.from_list(rows), tiny.processor())
    assert not left_out
    own = BaselineRows(rows, tiny.tokenizer())
    ours, theirs = TrainingCollator(tiny.tokenizer().pad_token_id), BaselineCollator(tiny.tokenizer().pad_token_id)
    return ours(encoded[i] for i in range(len(rows))), theirs([own[i] for i in range(len(rows))])


@pytest.mark.parametrize("one", [one for one in ROWS if one["graph_smiles"]], ids=lambda one: one["task"])
def test_graphs(one):
    ours = product_graph(one)
    assert same_graph(ours, row_graph(one))
    for part in row_graph(one):
        if part.numel():
            changed = [value.clone() for value in row_graph(one)]
            place = next(i for i, value in enumerate(changed) if value.shape == part.shape and value.equal(part))
            changed[place][0, 0] += 1
            assert not same_graph(ours, tuple(changed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text_only", [False, True])
def test_loss_and_gradients(dtype, text_only):
    product = move(add_adapters(base("deltas", dtype), settings())).train()
    baseline = BaselineModel(product).train()
    ours, theirs = batches([ROWS[2], ROWS[2] | {"input": "an amine"}] if text_only else ROWS)
    errors = training_errors(product, baseline, ours, theirs)
    product_loss(product, ours).backward()
    baseline(**theirs).loss.backward()
    others = gradient_errors(pair for pair in gradient_pairs(product, baseline) if "gamma" not in pair[0])
    # In fp32 the two differ in the order of sums alone, which depends on the CPU; gamma's gradients nearly cancel.
    gradient, gammas = (3e-6, 1e-4) if dtype == torch.float32 else (1e-6, 1e-5)
    assert errors["loss"] <= 1e-6
    assert errors["gradient"] <= gradient
    assert errors["worst"] <= gammas
    assert others["worst"] <= 1e-5


def test_gradients_of_tokens_that_train():
    """The baseline trains all embeddings, and has the same gradient for those rows."""
    ids = sorted(set(tiny.tokenizer()("[C][O]", add_special_tokens=False)["input_ids"]))
    product = move(add_adapters(base("deltas", torch.float64), settings(), token_ids=ids)).train()
    baseline = BaselineModel(product).train()
    baseline.llama.model.embed_tokens.requires_grad_(True)
    errors = training_errors(product, baseline, *batches(ROWS))
    assert errors["loss"] <= 1e-6
    assert errors["gradient"] <= 1e-6
    assert errors["worst"] <= 1e-5
    product(**{name: value for name, value in batches(ROWS)[0].items() if name != "task_ids"}).loss.backward()
    baseline(**batches(ROWS)[1]).loss.backward()
    rows = {name: theirs for name, _, theirs in gradient_pairs(product, baseline)}["selfies_tokens"]
    assert rows.shape == (len(ids), 32)
    assert rows.any(1).all()


def test_every_trained_parameter_is_compared():
    product = move(add_adapters(base("deltas"), settings())).train()
    baseline = BaselineModel(product).train()
    ours, theirs = batches(ROWS)
    product(**{name: value for name, value in ours.items() if name != "task_ids"}).loss.backward()
    baseline(**theirs).loss.backward()
    pairs = list(gradient_pairs(product, baseline))
    compared = sum(ours.numel() for _, ours, _ in pairs)
    assert compared == sum(p.numel() for p in product.parameters() if p.requires_grad)
    assert compared == sum(p.numel() for p in baseline.parameters() if p.requires_grad)
    assert all(theirs.any() for _, _, theirs in pairs)  # a gradient of zeros would agree with anything missing
    baseline.moe_layers[1].experts[2].up_proj.lora_B.weight.grad *= 1.001
    errors = gradient_errors(gradient_pairs(product, baseline))
    assert errors["worst"] > 1e-4
    assert errors["worst_name"] == "layers.2.up_B"


def test_greedy_answers():
    product = move(add_adapters(tiny.model(), settings())).eval()
    baseline = BaselineModel(product).eval()
    baseline.merge_adapters()
    merged = product.merge_and_unload().eval()
    merged.generation_config.update(suppress_tokens=[merged.config.graph_token_id])
    baseline.llama.generation_config.update(suppress_tokens=[merged.config.graph_token_id])
    tokenizer = tiny.tokenizer()
    expected = [one["answer"] for one in generate_answers(merged, tiny.processor(), ROWS, 4, max_new_tokens=12)]
    found = []
    for one in ROWS:
        graph = row_graph(one)
        new = baseline.answer(tokenise(prompt_text(one, graph is not None), tokenizer), graph, 12)
        found.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    assert found == expected
    assert len(set(found)) == len(found)


def test_reaction_scores():
    references = ["[C][C][O]", "[C][=C][C][=C][C][=C][Ring1][=Branch1]", "[N]", "[C][C@H1][Branch1][C][F][Cl]"] * 2
    predictions = [*references[:4], "[C][O][C]", "[C][C][=C][C][=C][C][=C][Ring1][=Branch1]", "[no symbol]", "[C][F]"]
    expected = values(paper_molecule_metrics(predictions, references))
    assert reaction_scores(predictions, references) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected["exact_match"] < 1
    assert 0 < expected["validity"] < 1


def test_rounds_and_results(tmp_path):
    """The round before the first does not count, and ratios are of neighbours."""
    order = []

    def side(name, numbers):
        left = iter(numbers)
        return lambda: (order.append(name), next(left))[1]

    case = Case("train_samples", "rows/s", 4, side("p", [9, 2, 6, 12]), side("b", [1, 1, 2, 3]))
    result = measure(case, 3)
    assert "".join(order) == "pbbppbbp"
    assert [result[key] for key in ("product", "baseline", "ratio_median", "ratio_min", "ratio_max", "rounds")] == [
        *(6, 2, 3, 2, 4, 3)
    ]
    path = tmp_path / "cpu.json"
    for size, rounds in (("mid", 1), ("quickstart", 2), ("mid", 3)):
        save(path, result | {"size": size, "rounds": rounds})
    assert [(one["size"], one["rounds"]) for one in json.loads(path.read_text())] == [("mid", 3), ("quickstart", 2)]
    draw(json.loads(path.read_text()), tmp_path / "cpu.png")
    assert (tmp_path / "cpu.png").read_bytes().startswith(b"\x89PNG")
