"""What PEFT does with adapters, done at each place that has one and after a move of each parameter of gamma."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from omnimol_hf import OmniMolForCausalLM
from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters
from omnimol_hf.adapters.model import adapted_deltas
from tests import tiny
from tests.adapted import (
    DELTAS,
    LINEARS,
    OFFSETS,
    PLACES,
    at,
    base,
    layer_of,
    logits,
    move_at,
    only,
    relative,
    settings,
)

EACH = pytest.mark.parametrize(("place", "offset"), [(place, offset) for place in PLACES for offset in OFFSETS])


@pytest.fixture(scope="module")
def batch():
    chats = [tiny.chat("What is it?", "CCO", answer="[C][C][O]"), tiny.chat("And this?", "C", answer="[C]")]
    return tiny.training_batch(*chats)


def gamma_of(model: PeftModel, place: str, adapter: str = "default") -> torch.Tensor:
    if place == "deltas":
        return layer_of(model, DELTAS).modules_to_save[adapter].gamma()
    return layer_of(model, LINEARS[place]).gamma(adapter)


@EACH
def test_save_and_load(place, offset, batch, tmp_path):
    model = at(place, offset, gamma_range=0.5)
    assert gamma_of(model, place).sub(8).abs().min() > 1e-4  # that parameter counts
    expected = logits(model, batch)
    assert relative(expected, logits(base(place), batch)) > 1e-4
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(place), tmp_path)
    assert torch.equal(logits(loaded, batch), expected)
    assert torch.equal(gamma_of(loaded, place), gamma_of(model, place))
    frugal = PeftModel.from_pretrained(base(place), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(logits(frugal, batch), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_save_and_load_everything(dtype, batch, tmp_path):
    config = {"learn_p": True, "gamma_range": 0.5, "gamma_p": 0.7, "lora_alpha": 12.0}
    model = move_at(add_adapters(tiny.model().to(dtype), settings(**config)), "all", "p").eval()
    expected = logits(model, batch)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert not any(".base." in name or "graph_encoder" in name for name in saved)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "ADAPTIVE_LORA"
    loaded = PeftModel.from_pretrained(tiny.model().to(dtype), tmp_path)
    assert isinstance(loaded.peft_config["default"], AdaptiveLoraConfig)
    assert torch.equal(logits(loaded, batch), expected)
    again = add_adapters(tiny.model().to(dtype), settings(**config))  # as Trainer resumes
    again.load_adapter(tmp_path, "default", is_trainable=True)
    assert torch.equal(logits(again.eval(), batch), expected)
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains == {name for name, parameter in again.named_parameters() if parameter.requires_grad}
    assert sum(name.endswith(".gamma_p") for name in trains) == 3


@EACH
def test_several_adapters(place, offset, batch, tmp_path):
    """The second one with another start, range and no learnable p: each adapter keeps its own gamma."""
    first = at(place, offset)
    other = settings(**({} if place == "deltas" else {"r": 2}), gamma_p=1, gamma_range=0.2, **only(place))
    second = move_at(add_adapters(base(place), other), place, "beta", seed=8).eval()
    expected = [logits(model, batch) for model in (first, second)]
    second.save_pretrained(tmp_path)
    first.load_adapter(tmp_path, "second")
    assert torch.equal(logits(first, batch), expected[0])
    first.set_adapter("second")
    assert torch.equal(logits(first, batch), expected[1])
    assert torch.equal(gamma_of(first, place, "second"), gamma_of(second, place))
    first.set_adapter("default")
    assert torch.equal(logits(first, batch), expected[0])
    first.delete_adapter("second")
    assert torch.equal(logits(first, batch), expected[0])
    assert not any("second" in name for name in first.state_dict())


@EACH
def test_disable_gives_the_base_model(place, offset, batch):
    model, expected = at(place, offset, gamma_p=1), logits(base(place), batch)
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), expected)
    assert relative(logits(model, batch), expected) > 1e-4


@pytest.mark.parametrize("safe", [False, True])
@EACH
def test_merge_and_unmerge(place, offset, safe, batch, tmp_path):
    model = at(place, offset, gamma_range=0.7, gamma_p=0.4, lora_alpha=11.0)
    expected = logits(model, batch)
    if place != "deltas":  # these have no merged state: they are the model's own, and come along as they are
        weight = layer_of(model, LINEARS[place]).base_layer.weight.clone()
        model.merge_adapter(safe_merge=safe)
        assert not torch.allclose(layer_of(model, LINEARS[place]).base_layer.weight, weight)
        assert relative(logits(model, batch), expected) < 1e-6
        model.unmerge_adapter()
        assert relative(layer_of(model, LINEARS[place]).base_layer.weight, weight) < 1e-6
    assert relative(logits(model, batch), expected) < 1e-6
    merged = model.merge_and_unload(safe_merge=safe)
    assert type(merged) is OmniMolForCausalLM
    assert not any("lora" in name for name in merged.state_dict())
    assert relative(logits(merged, batch), expected) < 1e-6
    merged.save_pretrained(tmp_path)
    loaded, info = OmniMolForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(logits(loaded, batch), logits(merged, batch))


def test_merging_tells_the_config_how_gamma_is_made():
    model = add_adapters(tiny.model(), settings(learn_p=True, gamma_range=0.7, gamma_p=1, lora_dropout=0.1))
    config = model.merge_and_unload().config
    assert (config.expert_alpha, config.gamma_p, config.gamma_range, config.learn_gamma_p) == (16, 1, 0.7, True)
    assert (config.expert_rank, config.expert_dropout) == (4, 0.1)
    config = add_adapters(tiny.model(), settings(gamma_p=1)).unload().config  # PEFT leaves the trained deltas there
    assert (config.gamma_p, config.gamma_range, config.learn_gamma_p) == (1, None, False)


@EACH
def test_dropout_only_in_training(place, offset, batch):
    model, plain = at(place, offset, lora_dropout=0.5), at(place, offset)
    assert torch.equal(logits(model, batch), logits(plain, batch))
    model.train()
    torch.manual_seed(1)
    first = logits(model, batch)
    assert not torch.equal(logits(model, batch), first)
    torch.manual_seed(1)
    assert torch.equal(logits(model, batch), first)


def near(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """Most of them: in bf16 some tokens go to other experts."""
    return ((logits.float() - expected).abs().median() < 0.01 * expected.abs().max()).item()


@EACH
def test_bf16_base(place, offset, batch):
    """The adapter is fp32 and its gradients too; results are near those of fp32."""
    model = at(place, offset, torch.bfloat16).train()
    model(**batch).loss.backward()
    gammas = [(name, parameter) for name, parameter in model.named_parameters() if f"gamma_{offset}" in name]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == parameter.grad.dtype == torch.float32, name
    trains = [parameter for _, parameter in gammas if parameter.requires_grad]
    assert trains
    assert sum(parameter.grad.abs().sum() for parameter in trains) > 0
    fp32 = logits(at(place, offset), batch)
    assert near(logits(model, batch), fp32)
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), logits(base(place, torch.bfloat16), batch))
    merged = model.eval().merge_and_unload()
    assert merged.model.language_model.layers[0].mlp.down_proj.weight.dtype == torch.bfloat16
    assert near(logits(merged, batch), fp32)


@pytest.mark.parametrize(
    "change", [{"gamma_p": 1}, {"lora_alpha": 5.0}, {"gamma_range": 0.01}, {"learn_p": True}], ids=str
)
def test_other_settings_of_gamma_leave_trained_experts_as_they_are(change, batch):
    """The model's own deltas were trained before; a new adapter's gamma begins at its own start all the same."""
    expected = logits(tiny.model(), batch)
    model = add_adapters(tiny.model(), settings(**change))
    assert relative(logits(model, batch), expected) < 1e-5
    start = change.get("lora_alpha", 16.0) / 4 ** change.get("gamma_p", 0.5)
    for deltas in adapted_deltas(model, "default"):
        assert torch.equal(deltas.gamma(), torch.full((3, 4), start))


def test_generates_as_its_merged_model():
    inputs = tiny.prompts(tiny.chat("What is it?", "CCO"))
    model = move_at(add_adapters(tiny.model(), settings(gamma_p=1)), "all", "beta").eval()
    answer = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert torch.equal(answer, model.merge_and_unload().generate(**inputs, max_new_tokens=5, do_sample=False))
