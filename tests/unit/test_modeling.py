"""The model: equal to Llama without experts, and equal to itself however it is batched, padded, cached or saved."""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, LlamaForCausalLM
from transformers.loss.loss_utils import ForCausalLMLoss

from omnimol_hf import OmniMolForCausalLM
from tests import tiny

ANSWERED = (
    tiny.chat("What is the weight?", "CCO", answer="46.07"),
    tiny.chat("No molecule in this one, but many words.", answer="Right, it is so."),
    tiny.chat("Two of them", "C", "c1ccccc1Br", answer="The first is a gas, the other is not."),
)
ASKED = [messages[:1] for messages in ANSWERED]


def assert_near(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> None:
    """Equal up to `tolerance` of the largest value."""
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max()


def gradients(model: OmniMolForCausalLM) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------- Llama


@pytest.mark.parametrize("tied", [True, False])
def test_without_experts_and_graphs_it_is_llama(tied):
    model = tiny.model(text={"tie_word_embeddings": tied}, moe_layers=[])
    llama = LlamaForCausalLM(model.config.text_config).eval()
    weights = {
        name.replace("model.language_model.", "model."): value
        for name, value in model.state_dict().items()
        if "graph_encoder" not in name and "projector" not in name
    }
    llama.load_state_dict(weights)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
    batch = tiny.prompts(tiny.chat("short"), tiny.chat("a longer question to pad for"))
    with torch.no_grad():
        ours, theirs = model(**batch).logits, llama(**batch).logits
        assert torch.equal(ours, theirs)
        batch = tiny.training_batch(tiny.chat("short", answer="yes"), tiny.chat("a longer question", answer="no, not"))
        torch.testing.assert_close(model(**batch).loss, llama(**batch).loss, rtol=1e-6, atol=0)


def test_with_experts_it_is_not_llama():
    """The parity above says something only if experts change the result."""
    batch = tiny.prompts(tiny.chat("short"))
    dense, sparse = tiny.model(moe_layers=[]), tiny.model()
    sparse.load_state_dict(dense.state_dict(), strict=False)
    assert (dense(**batch).logits - sparse(**batch).logits).abs().max() > 0.1


# ---------------------------------------------------------------- batches, padding, cache


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(side):
    model = tiny.model()
    batch = tiny.prompts(*ASKED, padding_side=side)
    logits = model(**batch).logits
    for i, messages in enumerate(ASKED):
        alone = model(**tiny.prompts(messages)).logits[0]
        assert_near(logits[i][batch["attention_mask"][i].bool()], alone, 1e-5)


@torch.no_grad()
def test_molecules_and_their_order_matter():
    model = tiny.model()
    first = model(**tiny.prompts(tiny.chat("Q", "CCO", "CCN"))).logits[0, -1]
    swapped = model(**tiny.prompts(tiny.chat("Q", "CCN", "CCO"))).logits[0, -1]
    assert (first - swapped).abs().max() > 1e-3


@torch.no_grad()
def test_cache_equals_no_cache():
    """Prefill the prompts with their molecules, then one token after the other."""
    model = tiny.model()
    batch = dict(tiny.prompts(*ASKED))
    more = torch.randint(10, 200, (3, 4))
    mask = torch.cat([batch["attention_mask"], torch.ones_like(more)], 1)
    everything = batch | {"input_ids": torch.cat([batch["input_ids"], more], 1), "attention_mask": mask}
    whole = model(**everything, use_cache=False)
    assert whole.past_key_values is None
    step = model(**batch, use_cache=True)
    length = batch["input_ids"].shape[1]
    for i in range(4):
        step = model(
            input_ids=more[:, i : i + 1],
            attention_mask=mask[:, : length + i + 1],
            past_key_values=step.past_key_values,
            use_cache=True,
        )
        assert_near(step.logits[:, 0], whole.logits[:, length + i], 1e-5)


def test_padding_changes_no_training_loss_and_no_gradient():
    model = tiny.model(router_aux_loss_coef=1.0).train()
    batch = tiny.training_batch(*ANSWERED)
    items = int((batch["labels"] != -100).sum())
    output = model(**batch, num_items_in_batch=items)
    output.loss.backward()
    whole = gradients(model)
    model.zero_grad()
    single = [model(**tiny.training_batch(messages), num_items_in_batch=items) for messages in ANSWERED]
    sum(one.loss for one in single).backward()
    assert_near(output.loss, sum(one.loss for one in single), 1e-6)
    assert_near(output.aux_loss, sum(one.aux_loss for one in single), 1e-6)
    for name, gradient in gradients(model).items():
        assert_near(whole[name], gradient, 1e-4)
    own_count = model(**batch)  # without a count given: the labels of the batch
    assert_near(own_count.loss, output.loss, 1e-6)


# ---------------------------------------------------------------- loss and logits


@torch.no_grad()
def test_loss_at_labelled_positions_is_stocks_full_loss():
    model = tiny.model(router_aux_loss_coef=0.0)
    batch = tiny.training_batch(*ANSWERED)
    output = model(**batch)
    expected = ForCausalLMLoss(output.logits, batch["labels"], model.config.text_config.vocab_size)
    assert_near(output.loss, expected, 1e-6)
    assert output.aux_loss is None
    halved = ForCausalLMLoss(
        output.logits, batch["labels"], model.config.text_config.vocab_size, num_items_in_batch=99
    )
    assert_near(model(**batch, num_items_in_batch=torch.tensor(99)).loss, halved, 1e-6)


@torch.no_grad()
def test_balance_loss_weighs_sequences_by_their_labels():
    """aux = sum_i n_i l_i / sum_i n_i: the mean over tokens, so long answers count for more."""
    model = tiny.model(router_aux_loss_coef=0.5)
    batch = tiny.training_batch(*ANSWERED)
    output = model(**batch, output_router_logits=True)
    labels = (batch["labels"] != -100).sum(1)
    assert len(set(labels.tolist())) == 3
    losses = []
    for i in range(3):
        tokens = batch["attention_mask"][i].bool()
        layers = []
        for logits in output.router_logits:
            scores = logits[i][tokens].softmax(-1)
            chosen = torch.zeros_like(scores).scatter(1, scores.topk(2).indices, 1)
            layers.append((chosen.sum(0) * 3 / (2 * len(scores)) * scores.mean(0)).sum())
        losses.append(sum(layers) / 3)
    expected = sum(n * loss for n, loss in zip(labels, losses, strict=True)) / labels.sum()
    assert_near(output.aux_loss, expected, 1e-6)
    language_loss = ForCausalLMLoss(output.logits, batch["labels"], model.config.text_config.vocab_size)
    assert_near(output.loss, language_loss + 0.5 * expected, 1e-6)


@torch.no_grad()
def test_sum_per_sample_is_eq4():
    """-1/B sum_i sum_t log p(y_it | ...): the sum over tokens, the mean over samples."""
    model = tiny.model(router_aux_loss_coef=0.0, loss_reduction="sum_per_sample")
    batch = tiny.training_batch(*ANSWERED)
    output = model(**batch)
    total = 0.0
    for row, labels in zip(output.logits.log_softmax(-1), batch["labels"], strict=True):
        for t in range(1, len(labels)):
            if labels[t] != -100:
                total -= row[t - 1, labels[t]]
    assert_near(output.loss, total / 3, 1e-6)
    assert_near(model(**batch, num_items_in_batch=12).loss, total / 12, 1e-6)
    model.config.router_aux_loss_coef = 1.0
    balanced = model(**batch, output_router_logits=True)
    assert_near(balanced.loss, total / 3 + balanced.aux_loss, 1e-6)
    assert 1 <= balanced.aux_loss < 2  # the plain mean over sequences, each at least near 1


@pytest.mark.parametrize("reduction", ["token_mean", "sum_per_sample"])
def test_the_loss_is_made_of_its_sequences(reduction):
    """Against each sequence alone; weights multiply its likelihood and leave the balance loss as it is."""
    model = tiny.model(router_aux_loss_coef=0.5, loss_reduction=reduction)
    batch = tiny.training_batch(*ANSWERED)
    output = model(**batch)
    singles = [model(**tiny.training_batch(messages)) for messages in ANSWERED]
    for i, single in enumerate(singles):
        labels = batch["labels"][i, 1:]
        stock = torch.nn.functional.cross_entropy(output.logits[i, :-1], labels, reduction="sum")
        assert_near(output.sequence_nll[i], stock, 1e-6)
        assert_near(output.expert_load[:, i], single.expert_load[:, 0], 1e-6)
    assert output.expert_load.shape == (3, 3, 3)
    assert not output.expert_load.requires_grad
    torch.testing.assert_close(output.expert_load.sum(-1), torch.ones(3, 3))

    weights = torch.tensor([2.0, 0.0, 0.25])
    weighted = model(**batch, num_items_in_batch=10, sequence_weights=weights)
    nll = sum(weight * single.sequence_nll[0] for weight, single in zip(weights, singles, strict=True)) / 10
    assert_near(weighted.loss, nll + 0.5 * weighted.aux_loss, 1e-6)
    assert_near(weighted.aux_loss, model(**batch, num_items_in_batch=10).aux_loss, 1e-6)
    projector = model.model.projector.weight
    (through_loss,) = torch.autograd.grad(weighted.loss - 0.5 * weighted.aux_loss, projector, retain_graph=True)
    assert_near(through_loss, torch.autograd.grad(nll, projector)[0], 1e-4)
    assert torch.equal(model(**batch, sequence_weights=torch.ones(3)).loss, output.loss)


@torch.no_grad()
def test_prediction_gathers_logits_alone():
    """What the trainer collects over an evaluation: not each sequence's loss nor its experts."""
    model, batch = tiny.model(), tiny.training_batch(*ANSWERED)
    left = {name for name in model(**batch) if name not in model.config.keys_to_ignore_at_inference}
    assert left == {"loss", "logits"}


def test_logits_exist_when_they_are_needed():
    model, batch = tiny.model(), tiny.training_batch(*ANSWERED)
    assert model.train()(**batch).logits is None
    full = model.eval()(**batch).logits
    assert full.shape == (*batch["input_ids"].shape, model.config.text_config.vocab_size)
    del batch["labels"]
    assert torch.equal(model.train()(**batch).logits, full)


@torch.no_grad()
def test_logits_to_keep():
    model, batch = tiny.model(), tiny.prompts(*ASKED)
    full = model(**batch).logits
    assert_near(model(**batch, logits_to_keep=1).logits, full[:, -1:], 1e-6)
    assert_near(model(**batch, logits_to_keep=3).logits, full[:, -3:], 1e-6)
    index = torch.tensor([0, 5, 9])
    assert_near(model(**batch, logits_to_keep=index).logits, full[:, index], 1e-6)


@torch.no_grad()
def test_router_logits_as_output():
    model, batch = tiny.model(), tiny.training_batch(*ANSWERED)
    seen = []
    for index in model.config.moe_layer_indices:
        router = model.model.language_model.layers[index].mlp.router
        router.register_forward_hook(lambda module, args, output: seen.append(args[0] @ module.weight.T))
    output = model(**batch, output_router_logits=True)
    assert len(output.router_logits) == 3
    for logits, expected in zip(output.router_logits, seen, strict=True):
        assert logits.shape == (*batch["input_ids"].shape, 3)
        assert logits.dtype == torch.float32
        assert_near(logits, expected, 1e-6)
    assert model(**batch).router_logits is None
    model.config.output_router_logits = True
    assert len(model(**batch).router_logits) == 3
    assert len(model(**tiny.prompts(*ASKED)).router_logits) == 3


@torch.no_grad()
def test_other_outputs():
    model, batch = tiny.model(), tiny.prompts(*ASKED)
    model.set_attn_implementation("eager")
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 5
    assert len(output.attentions) == 4
    as_tuple = model(**batch, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], output.logits)


# ---------------------------------------------------------------- training


def test_checkpointed_gradients_equal_plain_ones():
    def run(checkpointing: bool, coefficient: float) -> dict[str, torch.Tensor]:
        model = tiny.model(router_aux_loss_coef=coefficient).train()
        if checkpointing:
            model.gradient_checkpointing_enable()  # the name that all supported versions know
            assert model.model.language_model.layers[0].gradient_checkpointing
        model(**tiny.training_batch(*ANSWERED)).loss.backward()
        return gradients(model)

    plain, checkpointed, without = run(False, 5.0), run(True, 5.0), run(True, 0.0)
    assert set(plain) == set(checkpointed)
    router = "model.language_model.layers.2.mlp.router.weight"
    assert "model.projector.weight" in plain
    for name, gradient in plain.items():
        assert_near(checkpointed[name], gradient, 1e-6)
    # the balance loss reaches the router through the checkpoint
    assert (checkpointed[router] - without[router]).abs().max() > 1e-3 * without[router].abs().max()


def test_a_batch_without_molecules_reaches_the_projector():
    """Else other processes, whose batches have molecules, would wait for its gradient for ever."""
    model = tiny.model().train()
    model(**tiny.training_batch(tiny.chat("only text", answer="yes"))).loss.backward()
    for parameter in model.model.projector.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_training_leaves_the_graph_encoder_as_it_is():
    model = tiny.model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        model(**tiny.training_batch(*ANSWERED)).loss.backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is ("graph_encoder" in name), name
    assert any("running_mean" in name for name in before)
    assert not any(module.training for module in model.model.graph_encoder.modules())
    assert model.model.projector.training


def test_bad_inputs_are_named():
    model, batch = tiny.model(), tiny.prompts(tiny.chat("Q", "CCO"))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(attention_mask=batch["attention_mask"])
    with pytest.raises(ValueError, match="3 placeholders in input_ids, 2 atoms"):
        model(**{**batch, **_graph_of(tiny.prompts(tiny.chat("Q", "CC")))})
    with pytest.raises(ValueError, match="graph_features='ogb9', 9 columns an atom, but atom_features has 2"):
        model(**{**batch, "atom_features": batch["atom_features"][:, :2]})
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    with pytest.raises(ValueError, match="molecules need input_ids"):
        model(inputs_embeds=embeddings, **_graph_of(batch))


def _graph_of(batch) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("atom_features", "bond_index", "bond_features")}


@pytest.mark.parametrize("projector", ["linear", "mlp"])
@torch.no_grad()
def test_graph_tokens_stand_at_the_placeholders(projector):
    model = tiny.model(projector=projector)
    batch = tiny.prompts(*ASKED)
    graph = model.model.get_graph_features(**_graph_of(batch))
    assert graph.shape == (3 + 1 + 7, 32)
    places = batch["input_ids"] == model.config.graph_token_id
    expected = model.get_input_embeddings()(batch["input_ids"])
    expected[places] = graph
    given = model(inputs_embeds=expected, attention_mask=batch["attention_mask"]).logits
    assert torch.equal(given, model(**batch).logits)
    assert model.model.projector(torch.zeros(1, 12)).shape == (1, 32)


# ---------------------------------------------------------------- saving, dtypes, sizes


@pytest.mark.parametrize(
    "options", [{}, {"text": {"tie_word_embeddings": False}, "projector": "mlp"}, {"expert_training": "full"}]
)
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForCausalLM])
@torch.no_grad()
def test_saving_and_loading(tmp_path, options, auto):
    model, batch = tiny.model(**options), tiny.prompts(*ASKED)
    model.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path)
    assert type(loaded) is OmniMolForCausalLM
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    tied = loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert tied is model.config.tie_word_embeddings


@torch.no_grad()
def test_loading_in_bf16_keeps_small_and_frozen_parts_in_fp32(tmp_path):
    model, batch = tiny.model(learn_gamma_p=True), tiny.prompts(*ASKED)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    state = model.state_dict()
    for name, value in loaded.state_dict().items():
        kept = any(part in name for part in ("router", "gamma", "graph_encoder")) and value.is_floating_point()
        if kept:
            assert value.dtype == torch.float32, name
            assert torch.equal(value, state[name]), name
        elif value.is_floating_point():
            assert value.dtype == torch.bfloat16, name
    logits = loaded(**batch).logits
    assert logits.dtype == torch.bfloat16
    kept = batch["attention_mask"].bool()
    expected = model(**batch).logits[kept]  # near on average: some tokens are routed otherwise after rounding
    assert (logits[kept].float() - expected).abs().mean() < 0.1 * expected.abs().mean()
    loaded.train()
    with torch.enable_grad():
        loss = loaded(**tiny.training_batch(*ANSWERED)).loss
        loss.backward()
    assert loss.dtype == torch.float32
    assert all(parameter.grad is not None for parameter in loaded.parameters())


@torch.no_grad()
def test_device_map_auto(tmp_path):
    model, batch = tiny.model(), tiny.prompts(*ASKED)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, device_map="auto")
    batch = batch.to(loaded.device)
    logits = loaded(**batch).logits.cpu()
    kept = batch["attention_mask"].bool().cpu()
    assert_near(logits[kept], model(**tiny.prompts(*ASKED)).logits[kept], 1e-5)


@torch.no_grad()
def test_resizing_the_vocabulary(tmp_path):
    model, batch = tiny.model(), tiny.prompts(*ASKED)
    before = model(**batch).logits
    model.resize_token_embeddings(before.shape[-1] + 11)
    assert model.config.text_config.vocab_size == before.shape[-1] + 11
    assert model.lm_head.weight is model.get_input_embeddings().weight
    after = model(**batch).logits
    assert_near(after[..., :-11], before, 1e-6)
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(**batch).logits, after)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_attention_implementations(tmp_path, implementation):
    model, batch = tiny.model(), tiny.prompts(*ASKED)
    model.save_pretrained(tmp_path)
    other = AutoModel.from_pretrained(tmp_path, attn_implementation=implementation)
    assert other.model.language_model.config._attn_implementation == implementation
    kept = batch["attention_mask"].bool()
    expected = model(**batch).logits[kept]
    assert_near(other(**batch).logits[kept], expected, 1e-5)
    other.set_attn_implementation("eager" if implementation == "sdpa" else "sdpa")
    assert_near(other(**batch).logits[kept], expected, 1e-5)


def test_flex_attention_is_accepted():
    """Torch compiles it, which is slow on a CPU: only that the model offers it is checked."""
    model = tiny.model()
    model.set_attn_implementation("flex_attention")
    assert model.model.language_model.config._attn_implementation == "flex_attention"


def test_placeholders_without_molecules_are_refused_in_evaluation_too():
    model, processor = tiny.model(), tiny.processor()
    messages = [{"role": "user", "content": [{"type": "molecule", "smiles": "CCO"}]}]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    with pytest.raises(ValueError, match="3 placeholders in input_ids, 0 atoms"):
        model(input_ids=inputs["input_ids"])


def test_no_cache_is_built_for_a_loss():
    model, processor = tiny.model(), tiny.processor()
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", return_labels=True
    )
    assert model(**inputs).past_key_values is None
    assert model(input_ids=inputs["input_ids"]).past_key_values is not None
