"""Generation: the same text for a row alone and in a mixed batch, however it is searched for."""

import pytest
import torch

from omnimol_hf.chemistry_omnimol import smiles_to_selfies
from omnimol_hf.generation import GenerationSettings, answer_batches, generate_answers, length_batches
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


# --- answers in bulk -------------------------------------------------------------------------------------------------

ROWS = [
    {
        "task": "logp",
        "instruction": "What is it?" * (i + 1),
        "input": smiles_to_selfies(smiles),
        "graph_smiles": [smiles],
    }
    for i, smiles in enumerate(("CCO", "c1ccccc1", "CCN(C)C", "C", "OC(=O)C"))
]


def answers(model, batch_size: int = 2, rows=ROWS, **settings) -> list[dict]:
    """The answers in the order of the rows."""
    model.generation_config.suppress_tokens = [model.config.graph_token_id]
    chosen = GenerationSettings(**{"max_new_tokens": 6} | settings)
    found = answer_batches(model, tiny.processor(), rows, length_batches(rows, batch_size), chosen)
    return [answer for _, answer in sorted((one for batch in found for one in batch), key=lambda one: one[0])]


def by_hand(model, row: dict) -> tuple[str, float, int]:
    """Text, log-probability and tokens of a row alone, from the logits that `generate` chose by."""
    processor = tiny.processor()
    batch = processor.apply_chat_template(
        processor.row_messages(row, with_answer=False), tokenize=True, return_dict=True, return_tensors="pt",
        add_generation_prompt=True,
    )  # fmt: skip
    out = model.generate(
        **batch, max_new_tokens=6, do_sample=False, output_scores=True, return_dict_in_generate=True
    )  # fmt: skip
    new = out.sequences[0, batch["input_ids"].shape[1] :]
    total, count = 0.0, 0
    for token, scores in zip(new, out.scores, strict=True):
        total, count = total + scores[0].log_softmax(-1)[token].item(), count + 1
        if token == model.config.text_config.eos_token_id:
            break
    return processor.tokenizer.decode(new, skip_special_tokens=True).strip(), total, count


@pytest.mark.parametrize("ends", [False, True], ids=["cut off", "ending"])
def test_answers_are_those_of_rows_alone_in_batches_of_any_size(ends):
    model = tiny.model(seed=1, text={"tie_word_embeddings": False})
    if ends:  # a head that ends some answers early
        with torch.no_grad():
            model.lm_head.weight[model.config.text_config.eos_token_id] *= 12
    one, four = answers(model, 1), answers(model, 4)
    expected = [by_hand(model, row) for row in ROWS]
    assert [answer["answer"] for answer in one] == [text for text, _, _ in expected]
    assert [answer["tokens"] for answer in one] == [count for _, _, count in expected]
    assert [answer["logprob"] for answer in one] == pytest.approx([value for _, value, _ in expected], abs=2e-4)
    assert [answer["logprob"] for answer in four] == pytest.approx([answer["logprob"] for answer in one], abs=2e-4)
    for key in ("answer", "ended", "tokens"):
        assert [answer[key] for answer in four] == [answer[key] for answer in one]
    assert any(answer["ended"] for answer in one) == ends
    plain = generate_answers(model, tiny.processor(), ROWS, batch_size=3, max_new_tokens=6)
    assert [answer["answer"] for answer in plain] == [answer["answer"] for answer in one]


def test_several_candidates(model):
    greedy = answers(model)
    beams = answers(model, num_beams=3, candidates=3)
    drawn = answers(model, do_sample=True, candidates=3)
    for found in (beams, drawn):
        for answer in found:
            assert len(answer["candidates"]) == 3
            assert {key: answer[key] for key in answer["candidates"][0]} == answer["candidates"][0]
    # every answer of a beam search here has as many tokens, so its order is that of the log-probabilities
    assert all(answer["tokens"] == 6 for answer in beams)
    for answer in (*beams, *drawn):
        rated = [one["logprob"] for one in answer["candidates"]]
        assert rated == sorted(rated, reverse=True)
    assert all(beam["logprob"] >= one["logprob"] - 1e-3 for beam, one in zip(beams, greedy, strict=True))
    assert drawn == answers(model, do_sample=True, candidates=3)
    assert drawn != answers(model, do_sample=True, candidates=3, seed=1)


def test_a_row_that_cannot_be_encoded_takes_no_other_with_it(model):
    bad = ROWS[0] | {"graph_smiles": ["C1CC"]}
    found = answers(model, 4, [ROWS[1], bad, ROWS[2]])
    assert found[1]["answer"] == ""
    assert "C1CC" in found[1]["problem"]
    assert [found[0]["answer"], found[2]["answer"]] == [answer["answer"] for answer in answers(model)[1:3]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 2}, "greedy search finds one answer"),
        ({"candidates": 3, "num_beams": 2}, "at least as many beams"),
        ({"temperature": 0.2}, "give do_sample too"),
        ({"do_sample": True, "temperature": 0.0}, "temperature above 0"),
        ({"num_beams": 0}, "num_beams is 0"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        GenerationSettings(**settings)
