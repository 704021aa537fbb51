"""Generation: the same text for a row alone and in a mixed batch, however it is searched for."""

import pytest
import torch

from tests import tiny

CHATS = [
    tiny.chat("What is the weight?", "CCO"),
    tiny.chat("No molecule in this one, but many words."),
    tiny.chat("Two of them", "C", "c1ccccc1Br"),
    tiny.chat("Salt", "[Na+].[Cl-]"),
]


@pytest.fixture(scope="module")
def model():
    return tiny.model(seed=1)


def generate(model, *chats, **kwargs) -> list[str]:
    """The new text of each returned row."""
    batch = tiny.prompts(*chats)
    settings = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [model.config.graph_token_id]}
    out = model.generate(**batch, **(settings | kwargs))
    return tiny.processor().batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


SEARCHES = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "beams": {"num_beams": 3},
    "beams without cache": {"num_beams": 3, "use_cache": False},
    "two beams returned": {"num_beams": 3, "num_return_sequences": 2},
    "repeated": {"do_sample": True, "top_k": 1, "num_return_sequences": 3},  # sampling with but one choice
    "repeated without cache": {"do_sample": True, "top_k": 1, "num_return_sequences": 3, "use_cache": False},
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_batch_equals_single_rows(model, search):
    together = generate(model, *CHATS, **search)
    alone = [text for messages in CHATS for text in generate(model, messages, **search)]
    assert together == alone
    assert len(set(together)) >= len(CHATS)  # the rows do not all say the same


def test_cache_changes_nothing(model):
    greedy = generate(model, *CHATS)
    assert generate(model, *CHATS, use_cache=False) == greedy
    assert generate(model, *CHATS, cache_implementation="static") == greedy
    repeated = generate(model, *CHATS, do_sample=True, top_k=1, num_return_sequences=2)
    assert repeated == [text for text in greedy for _ in range(2)]


def test_text_only_batch(model):
    chats = [tiny.chat("one"), tiny.chat("another one, longer")]
    assert "atom_features" not in tiny.prompts(*chats)
    for kwargs in ({}, {"use_cache": False}, {"num_beams": 2}):
        assert generate(model, *chats, **kwargs) == [generate(model, one, **kwargs)[0] for one in chats]


def test_sampling_depends_on_the_seed_alone(model):
    def sampled(seed: int) -> list[str]:
        torch.manual_seed(seed)
        return generate(model, *CHATS, do_sample=True, top_k=0, num_return_sequences=2)

    first = sampled(0)
    assert len(first) == 2 * len(CHATS)
    assert first == sampled(0)
    assert first != sampled(1)
    assert any(first[i] != first[i + 1] for i in range(0, len(first), 2))


def test_molecules_are_encoded_once(model, monkeypatch):
    calls = []
    encoder = model.model.graph_encoder
    original = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda *args: calls.append(len(args[0])) or original(*args))
    generate(model, *CHATS, num_beams=3)
    assert calls == [3 + 1 + 7 + 2]


def test_the_graph_token_is_never_generated_when_suppressed():
    """With a head that likes nothing better than the graph token."""
    model = tiny.model(text={"tie_word_embeddings": False})
    graph, batch = model.config.graph_token_id, tiny.prompts(CHATS[0])
    with torch.no_grad():
        last = model.model(**batch).last_hidden_state[0, -1]
        model.lm_head.weight[graph] = 1000 * last
    length = batch["input_ids"].shape[1]
    assert model.generate(**batch, max_new_tokens=1, do_sample=False)[0, length] == graph
    model.generation_config.suppress_tokens = [graph]
    for kwargs in ({"do_sample": False}, {"do_sample": True}, {"num_beams": 2}):
        assert graph not in model.generate(**batch, max_new_tokens=8, **kwargs)[:, length:]


def test_generation_stops_at_the_end_of_the_turn(model):
    """Rows that ended early are filled with the pad token."""
    end, pad = model.config.text_config.eos_token_id, model.config.text_config.pad_token_id
    batch = tiny.prompts(*CHATS)
    length = batch["input_ids"].shape[1]
    first = model.generate(**batch, max_new_tokens=4, do_sample=False)[:, length:]
    out = model.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=[end, int(first[0, 1])])[:, length:]
    assert out[0].tolist() == [*first[0, :2].tolist(), *[pad] * (out.shape[1] - 2)]


def test_a_generated_chat_goes_on(model):
    """The second turn of a chat gives the same with the first one read anew."""
    question = CHATS[0]
    answer = generate(model, question)[0]
    both = generate(model, [*question, {"role": "assistant", "content": answer}, *tiny.chat("And now?")])
    assert both == generate(
        model, [*question, {"role": "assistant", "content": answer}, *tiny.chat("And now?")], use_cache=False
    )
