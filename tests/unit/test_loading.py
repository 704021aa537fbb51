"""Which models load, in which form, and what is told of those that do not."""

import json

import pytest
import torch

from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters
from omnimol_hf.adapters.export import export
from omnimol_hf.loading import load_model
from tests import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.model(seed=1).save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    adapted = add_adapters(tiny.model(seed=1), AdaptiveLoraConfig(r=2))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "gamma" in name:
                parameter.normal_(std=0.3)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    return folder


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**tiny.prompts(tiny.chat("What is the weight?", "CCO"))).logits


def test_adapter_gives_what_its_merged_export_gives(base, adapter, tmp_path):
    export(adapter, "merged", tmp_path / "merged")
    loaded, merged, plain = (load_model(str(folder)) for folder in (adapter, tmp_path / "merged", base))
    assert torch.allclose(logits(loaded.model), logits(merged.model), atol=1e-5)
    assert not torch.allclose(logits(loaded.model), logits(plain.model), atol=1e-2)
    assert loaded.about["base"] == str(base)
    assert loaded.about["base_weights"] == plain.about["weights"]
    assert len({one.about["weights"] for one in (loaded, merged, plain)}) == 3


def test_the_same_bits_wherever_the_weights_lay(base):
    # "cpu" leaves the weights in the mapped file, at places that suit no vector; "cpu:0" (a process among several) not
    mapped, copied = (load_model(str(base), device=device).model for device in ("cpu", "cpu:0"))
    for tensor in (*mapped.parameters(), *mapped.buffers()):
        assert tensor.data_ptr() % 64 == 0
    one_atom = tiny.prompts(tiny.chat("What is the weight?", "C"))
    with torch.no_grad():
        assert torch.equal(mapped(**one_atom).logits, copied(**one_atom).logits)


def test_precision(base):
    loaded = load_model(str(base), "bfloat16").model
    assert loaded.lm_head.weight.dtype == torch.bfloat16
    assert loaded.model.graph_encoder.state_dict()["batch_norms.0.weight"].dtype == torch.float32
    with pytest.raises(ValueError, match="dtype is 'half'; expected one of auto"):
        load_model(str(base), "half")


def test_adapter_of_another_base(adapter, tmp_path):
    others = {"wider": {"text": {"hidden_size": 40}}, "deeper": {"text": {"num_hidden_layers": 5}},
              "shallower": {"moe_layers": [2, 3]}}  # fmt: skip
    for name, sizes in others.items():
        tiny.model(**sizes).save_pretrained(tmp_path / name)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    for base, message in (
        *((str(tmp_path / name), f"{adapter.name} is for another base than .*{name}") for name in others),
        (str(tmp_path / "gone"), "belongs to the model .*gone, which cannot be read"),
        (None, "does not name its base model"),
    ):
        moved = tmp_path / adapter.name
        moved.mkdir(exist_ok=True)
        (moved / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
        (moved / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))
        with pytest.raises(ValueError, match=message):
            load_model(str(moved))


def test_what_is_no_model(base, tmp_path):
    with pytest.raises(ValueError, match="is no folder and cannot be downloaded"):
        load_model(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no safetensors file in it"):
        load_model(str(tmp_path / "empty"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_quantisation_needs_a_gpu(base, adapter):
    with pytest.raises(ValueError, match="quantise=8bit needs a GPU"):
        load_model(str(base), quantise="8bit")
    with pytest.raises(ValueError, match="quantise is '3bit'"):
        load_model(str(base), quantise="3bit")
    with pytest.raises(ValueError, match=r"merge it first: python -m omnimol_hf\.adapters export"):
        load_model(str(adapter), quantise="4bit")
