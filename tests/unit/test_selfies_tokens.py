"""SELFIES symbols as tokens: the text stays the text, embeddings start at the mean of pieces, and only they train."""

import copy
import shutil

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoProcessor

from omnimol_hf import OmniMolProcessor
from omnimol_hf.adapters import add_adapters
from omnimol_hf.adapters.export import merged_model
from omnimol_hf.adapters.tokens import make_rows_cheap, trained_rows
from omnimol_hf.loading import load_model
from omnimol_hf.selfies_tokens import (
    add_selfies_tokens,
    add_symbols,
    check_vocabulary,
    selfies_symbols,
    selfies_token_ids,
)
from omnimol_hf.tasks import task_prompts
from tests import tiny
from tests.adapted import logits, move, relative, settings
from tests.unit.test_processing import llama3  # noqa: F401 (a fixture)
from tests.unit.test_training import make_trainer

SYMBOLS = ["[C]", "[=O]", "[=Branch1]", "[Ring1]", "[C@@H1]", "[/N+1]", "[13CH3]"]
TEXTS = [
    "[C][C][=Branch1][Ring1][=O][O]",  # [O] has no token
    "The molecule SELFIES sequence is: [C][C@@H1].[13CH3][/N+1]>>[C][=O]. ",
    "as shown [1], [2,3]; the ion [Na+] and [C] of [NAD(P)H]\n[START_SELFIES][C][END_SELFIES] [ [C ] [[C]]",
    "No brackets, naïve 你好.",
]


def new_processor() -> OmniMolProcessor:
    """With a tokenizer of its own, which is to be changed."""
    return OmniMolProcessor(copy.deepcopy(tiny.tokenizer()), task_prompts=task_prompts())


def enlarged(tied: bool = True, **kwargs):
    """A tiny model with tokens for `SYMBOLS`, and its processor."""
    model, processor = tiny.model(text={"tie_word_embeddings": tied}, **kwargs), new_processor()
    add_selfies_tokens(model, processor, SYMBOLS)
    return model, processor


def batch(processor: OmniMolProcessor):
    chats = [tiny.chat(f"What is {text}?", "CCO", answer=text) for text in TEXTS[:2]]
    words = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "return_labels": True}
    return processor.apply_chat_template(chats, **words)


# --- the vocabulary --------------------------------------------------------------------------------------------------


def test_symbols_of_rows_by_frequency():
    rows = [
        {"input": "[C][C][O].[C]>>[N]", "output": "see [1], [NADP+] and [IV]", "task": "x"},
        {"input": "[START_SELFIES][O][=Branch1][END_SELFIES]", "output": "[C][2H]", "task": "x"},
    ]
    assert selfies_symbols(Dataset.from_list(rows), min_count=2) == ["[C]", "[O]", "[N]", "[=Branch1]", "[2H]"]
    many = [{"input": f"[{n}C]" * (20 - n), "output": ""} for n in range(1, 19)]
    # 11 occur 8 times or more; a multiple of 8 is filled up with rarer ones
    assert selfies_symbols(Dataset.from_list(many), min_count=9) == [f"[{n}C]" for n in range(1, 17)]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_stay_what_they_are(text, tmp_path):
    processor, old = new_processor(), tiny.tokenizer()
    add_symbols(processor.tokenizer, SYMBOLS)
    processor.save_pretrained(tmp_path)
    for tokenizer in (processor.tokenizer, AutoProcessor.from_pretrained(tmp_path).tokenizer):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        tokens = tokenizer.convert_ids_to_tokens(ids)
        for symbol in SYMBOLS:
            assert tokens.count(symbol) == text.count(symbol)
        if not any(symbol in text for symbol in SYMBOLS):
            assert ids == old(text, add_special_tokens=False)["input_ids"]
        assert selfies_token_ids(tokenizer) == list(range(len(old), len(old) + len(SYMBOLS)))
    assert "[O]" not in tokens


def test_what_is_no_symbol_is_refused():
    for wrong in ("[1]", "C", "[C][C]", "[START_SELFIES]", "[C ]"):
        with pytest.raises(ValueError, match="is no SELFIES symbol"):
            add_symbols(tiny.tokenizer(), ["[C]", wrong])


def test_the_real_tokenizer(llama3):  # noqa: F811
    processor = OmniMolProcessor(copy.deepcopy(llama3[0].tokenizer), task_prompts=task_prompts())
    tokenizer = processor.tokenizer
    before = tokenizer("[C][=C][Branch1][C][O][Ring1]", add_special_tokens=False)["input_ids"]
    pieces = add_symbols(tokenizer, [*SYMBOLS, "[=C]", "[Branch1]", "[O]"])
    after = tokenizer("[C][=C][Branch1][C][O][Ring1]", add_special_tokens=False)["input_ids"]
    assert (len(before), len(after)) == (15, 6)
    assert sorted(pieces) == list(range(128256, 128266))
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_start_at_the_mean_of_pieces(tied):
    before, (model, processor) = tiny.model(text={"tie_word_embeddings": tied}), enlarged(tied)
    size, old = len(tiny.tokenizer()), tiny.tokenizer()
    assert model.config.text_config.vocab_size == len(processor.tokenizer) == size + len(SYMBOLS)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    for new, was in ((model.get_input_embeddings(), before.get_input_embeddings()), (model.lm_head, before.lm_head)):
        assert torch.equal(new.weight[:size], was.weight)
        for row, symbol in enumerate(SYMBOLS, size):
            pieces = old(symbol, add_special_tokens=False)["input_ids"]
            assert len(pieces) > 1
            assert torch.allclose(new.weight[row], sum(was.weight[piece] for piece in pieces) / len(pieces), atol=1e-7)
    start = model.get_input_embeddings().weight.clone()
    add_selfies_tokens(model, processor, SYMBOLS)  # a second time changes nothing
    assert torch.equal(model.get_input_embeddings().weight, start)
    assert len(processor.tokenizer) == size + len(SYMBOLS)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_train_as_in_stock_peft(tied):
    """PEFT's own layer puts the rows into a copy of the whole matrix: the same logits and gradients."""
    base, processor = enlarged(tied)
    ids = selfies_token_ids(processor.tokenizer)
    rows = trained_rows(base, ids)
    stock = move(get_peft_model(base.double(), LoraConfig(target_modules=["q_proj"], trainable_token_indices=rows)))
    cheap = copy.deepcopy(stock)
    make_rows_cheap(cheap, "default")
    inputs = batch(processor)
    assert set(ids) & set(inputs["input_ids"].flatten().tolist())
    for model in (cheap, stock):
        model.train()(**inputs).loss.backward()
    gradients = [{n: p.grad for n, p in model.named_parameters() if p.requires_grad} for model in (cheap, stock)]
    assert sum("trainable_tokens_delta" in name for name in gradients[0]) == 2 - tied
    for name, gradient in gradients[0].items():
        assert relative(gradient, gradients[1][name]) < 1e-12, name
    assert relative(logits(cheap.eval(), inputs), logits(stock.eval(), inputs)) < 1e-12
    with cheap.disable_adapter():
        before = logits(cheap, inputs)
    assert relative(before, logits(enlarged(tied)[0].double(), inputs)) < 1e-12


@pytest.mark.parametrize("tied", [True, False])
def test_only_the_rows_train_and_they_are_merged(tied, tmp_path):
    base, processor = enlarged(tied)
    base.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    start = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    ids = selfies_token_ids(processor.tokenizer)
    model = add_adapters(base, settings(), token_ids=ids)
    rows = [p for name, p in model.named_parameters() if "trainable_tokens_delta" in name]
    assert {row.dtype for row in rows} == {torch.float32}
    move(model)
    model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    stored = {name: tensor.shape for name, tensor in saved.items() if "embed" in name or "lm_head" in name}
    assert set(stored.values()) == {(len(ids), 32)}
    assert len(stored) == 2 - tied
    merged = merged_model(tmp_path / "base", tmp_path / "adapter")
    assert (merged.lm_head.weight is merged.get_input_embeddings().weight) == tied
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        was, now = start[name], merged.state_dict()[name]
        changed = (was != now).any(1).nonzero().flatten().tolist()
        assert changed == ids
        row = rows[0] if tied or "embed" in name else rows[1]
        assert torch.equal(now[ids], row.to(torch.bfloat16))
    assert load_model(str(tmp_path / "adapter")).processor.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_another_vocabulary_is_named(tmp_path):
    model, processor = enlarged()
    check_vocabulary(model, processor.tokenizer, "here")
    with pytest.raises(ValueError, match=r"gone: the tokenizer has 308 tokens, of which 7 .* embeddings for 301"):
        check_vocabulary(tiny.model(), processor.tokenizer, "gone")
    tiny.model().save_pretrained(tmp_path / "plain")
    processor.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="plain: the tokenizer has 308 tokens"):
        load_model(str(tmp_path / "plain"))
    add_adapters(model, settings(), token_ids=selfies_token_ids(processor.tokenizer)).save_pretrained(tmp_path / "one")
    with pytest.raises(ValueError, match=r"one is for another base than .*plain: index .* out of bounds"):
        merged_model(tmp_path / "plain", tmp_path / "one")


def test_a_run_goes_on_where_it_stopped(tmp_path):
    """Four steps, and again the last two of them by a new model from the checkpoint in between."""

    def train():
        model, processor = enlarged()
        model = add_adapters(model, settings(), token_ids=selfies_token_ids(processor.tokenizer))
        steps = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        trainer = make_trainer(model, tmp_path, processor, **steps)
        trainer.train(resume_from_checkpoint=trainer.last_checkpoint())
        return {name: tensor.detach().clone() for name, tensor in model.named_parameters() if tensor.requires_grad}

    at_once = train()
    shutil.rmtree(tmp_path / "checkpoint-4")
    again = train()
    for name, tensor in again.items():
        assert torch.equal(tensor, at_once[name]), name
    model, _ = enlarged()
    (rows,) = (tensor for name, tensor in again.items() if "trainable_tokens_delta" in name)
    assert not torch.equal(rows, model.get_input_embeddings().weight[-len(rows) :])
