"""Greedy decoding of many rows finds what `generate` finds, with what probability, whatever the model is made of."""

import pytest
import torch

from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters
from omnimol_hf.decoding import can_decode, decode
from omnimol_hf.generation import answer_logprobs
from tests import tiny

CHATS = [
    tiny.chat("What is the weight?", "CCO"),
    tiny.chat("No molecule in this one, but many more words than there are in all of the others together."),
    tiny.chat("Two of them", "C", "c1ccccc1Br"),
    tiny.chat("Salt", "[Na+].[Cl-]"),
    tiny.chat("What is the weight?", "CCCCCCN"),
]
MODELS = {
    "paper": {},
    "many experts": {"num_experts": 7, "num_experts_per_tok": 1},  # too many for all of them to see each token
    "no anchor": {"anchor_expert": False},
    "whole experts": {"expert_training": "full"},
    "rescaled": {"preserve_at_init": True},
    "dense": {"moe_layers": []},
    "biases": {"text": {"mlp_bias": True}},
    "one key head": {"text": {"num_key_value_heads": 1}},
    "a key head each": {"text": {"num_key_value_heads": 4}},
}


def ready(model):
    """A model whose generation config is as a checkpoint's."""
    model.generation_config.suppress_tokens = [model.config.graph_token_id]
    model.generation_config.pad_token_id = model.config.text_config.pad_token_id
    model.generation_config.eos_token_id = [model.config.text_config.eos_token_id]
    return model


def check(model, chats=CHATS, new_tokens: int = 12) -> torch.Tensor:
    batch = tiny.prompts(*chats)
    expected = model.generate(**batch, max_new_tokens=new_tokens, do_sample=False)[:, batch["input_ids"].shape[1] :]
    new, rates = decode(model, batch, new_tokens, rate=True)
    assert torch.equal(new, expected)
    is_end = torch.isin(new, torch.tensor(model.generation_config.eos_token_id))
    kept = (is_end.cumsum(1) - is_end.long() == 0) & (new != model.config.text_config.pad_token_id)
    suppressed = model.config.graph_token_id
    assert suppressed not in new
    torch.testing.assert_close(rates, answer_logprobs(model, batch, new, kept), atol=1e-4, rtol=1e-5)
    return new


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])  # they attend in other ways
@pytest.mark.parametrize("kwargs", MODELS.values(), ids=MODELS)
def test_decoding_finds_what_generate_finds(kwargs, dtype):
    text = {"tie_word_embeddings": False} | kwargs.get("text", {})
    model = ready(tiny.model(seed=1, **(kwargs | {"text": text})).to(dtype))
    assert can_decode(model)
    first = check(model)
    # Take for an end what answers say at different times, so that slots are given to other rows.
    lengths = {int(token): (first == token).cumsum(1).eq(0).sum(1).unique() for token in first.unique()}
    model.generation_config.eos_token_id.append(max(lengths, key=lambda token: len(lengths[token])))
    kept = (check(model) != model.config.text_config.pad_token_id).sum(1)
    assert len(kept.unique()) > 1


def test_a_prompt_longer_than_a_piece(monkeypatch):
    monkeypatch.setattr("omnimol_hf.decoding._PIECE", {"cpu": 0})  # 64 tokens, so that some prompts are cut
    check(ready(tiny.model(seed=1)))
    check(ready(tiny.model(seed=1)), CHATS[1:2])
    check(ready(tiny.model(seed=1)), [CHATS[0]] * 3)


def test_adapters_need_not_be_merged():
    """As in the scoring rounds of training."""
    model = ready(tiny.model(seed=1))
    adapted = add_adapters(model, AdaptiveLoraConfig(r=4, lora_dropout=0.0)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "gamma" in name:
                parameter.normal_(std=0.3)
    inner = adapted.get_base_model()
    assert can_decode(inner)
    check(inner)


def test_a_generation_config_with_further_wishes_is_left_to_generate():
    model = ready(tiny.model(seed=1))
    assert can_decode(model)
    model.generation_config.repetition_penalty = 1.3
    assert not can_decode(model)
