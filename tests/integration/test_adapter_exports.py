"""A trained adapter in all its forms, each loaded as its user would: in a process of its own, without this package."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from omnimol_hf import OmniMolForCausalLM
from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters
from omnimol_hf.adapters.__main__ import main
from omnimol_hf.adapters.export import export
from tests import tiny
from tests.conftest import ROOT

pytestmark = pytest.mark.integration

# `omnimol_hf` cannot be imported here: the modelling code comes from the checkpoint.
LOAD = """
import sys
sys.modules["omnimol_hf"] = None
{setup}
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
inputs = load_file({inputs!r})
for name, folder in {models!r}:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    {adapt}
    with torch.no_grad():
        save_file({{"logits": model.eval()(**inputs).logits}}, {out!r} + name)
"""


def python(code: str, tmp: Path, *args: str) -> subprocess.CompletedProcess:
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp / "hf"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, *(args or ("-c", code))]
    return subprocess.run(command, cwd=ROOT if args else tmp, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """base/ with its processor, adapter/ trained on it, inputs and the adapter's logits."""
    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    OmniMolForCausalLM(tiny.config()).save_pretrained(folder / "base")  # fp32 rounds the logits of tiny.model() more
    tiny.processor().save_pretrained(folder / "base")
    (folder / "base" / "LICENSE").write_text("to be passed on")
    patterns = {"rank_pattern": {"k_proj": 2}, "alpha_pattern": {"v_proj": 5}}
    gamma = {"lora_alpha": 12.0, "gamma_p": 0.6, "learn_p": True, "gamma_range": 0.3}  # none as in the base model
    config = AdaptiveLoraConfig(r=4, lora_dropout=0.1, **gamma, **patterns)
    # Some of the prompts' own tokens take the place of SELFIES tokens, whose embeddings train with the adapter.
    trained = tiny.tokenizer()("What is this", add_special_tokens=False)["input_ids"]
    model = OmniMolForCausalLM.from_pretrained(folder / "base")
    model = add_adapters(model, config, token_ids=sorted(set(trained))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder / "adapter")
    inputs = dict(tiny.prompts(tiny.chat("What is it?", "CCO"), tiny.chat("And this one here?", "c1ccccc1")))
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, folder / "inputs")
    with torch.no_grad():
        save_file({"logits": model(**inputs).logits}, folder / "expected")
    return folder


@pytest.fixture(scope="module")
def exports(trained) -> Path:
    for to in ("folded", "full-experts"):
        main(["export", "--adapter", str(trained / "adapter"), "--to", to, "--out", str(trained / to)])
    words = ["-m", "omnimol_hf.adapters", "export", "--adapter", str(trained / "adapter"), "--to", "merged"]
    done = python("", trained, *words, "--out", str(trained / "merged"))
    assert done.returncode == 0, done.stderr[-3000:]
    return trained


def difference(folder: Path, name: str) -> float:
    logits, expected = (load_file(folder / file)["logits"] for file in (f"logits-{name}", "expected"))
    return ((logits - expected).abs().max() / expected.abs().max()).item()


def test_whole_models_load_without_peft(exports):
    models = [(name, str(exports / name)) for name in ("merged", "full-experts")]
    code = LOAD.format(
        setup='sys.modules["peft"] = None', inputs=str(exports / "inputs"), models=models, adapt="",
        out=str(exports / "logits-"),
    )  # fmt: skip
    done = python(code, exports)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, _ in models:
        assert difference(exports, name) < 1e-6, name


def test_folded_adapter_in_stock_peft(exports):
    adapt = f"from peft import PeftModel; model = PeftModel.from_pretrained(model, {str(exports / 'folded')!r})"
    code = LOAD.format(
        setup="import warnings; warnings.simplefilter('error', UserWarning)", inputs=str(exports / "inputs"),
        models=[("folded", str(exports / "base"))], adapt=adapt, out=str(exports / "logits-"),
    )  # fmt: skip
    done = python(code, exports)
    assert done.returncode == 0, done.stderr[-3000:]
    assert difference(exports, "folded") < 1e-6


def test_stock_peft_refuses_the_unfolded_adapter(exports):
    adapt = f"from peft import PeftModel; model = PeftModel.from_pretrained(model, {str(exports / 'adapter')!r})"
    code = LOAD.format(
        setup="", inputs=str(exports / "inputs"), models=[("adapter", str(exports / "base"))], adapt=adapt,
        out=str(exports / "logits-"),
    )  # fmt: skip
    done = python(code, exports)
    assert done.returncode != 0
    assert "KeyError: 'ADAPTIVE_LORA'" in done.stderr
    assert not (exports / "logits-adapter").exists()


def test_what_is_in_the_folders(exports):
    folded = json.loads((exports / "folded" / "adapter_config.json").read_text())
    assert folded["peft_type"] == "LORA"
    assert not {key for key in folded if "gamma" in key or key == "learn_p"}
    assert set(folded["modules_to_save"]) == {"projector", "router", "experts"}
    assert not any("lora_gamma" in name for name in load_file(exports / "folded" / "adapter_model.safetensors"))
    merged, base = (load_file(exports / name / "model.safetensors") for name in ("merged", "base"))
    assert merged.keys() - base.keys() == {f"model.language_model.layers.{n}.mlp.experts.gamma_p" for n in (1, 2, 3)}
    assert not base.keys() - merged.keys()
    config = json.loads((exports / "merged" / "config.json").read_text())
    assert (config["expert_alpha"], config["gamma_p"]) == (12.0, 0.6)
    assert (config["gamma_range"], config["learn_gamma_p"]) == (0.3, True)
    full, info = OmniMolForCausalLM.from_pretrained(exports / "full-experts", output_loading_info=True)
    assert full.config.expert_training == "full"
    assert not any(info.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name in ("merged", "full-experts"):
        assert (exports / name / "processor_config.json").is_file()
        assert (exports / name / "LICENSE").is_file()
    for name in ("folded", "merged", "full-experts"):
        assert not [path for path in (exports / name).rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert not list(exports.glob("*unfinished*"))


def test_bf16_stays_bf16(trained, tmp_path):
    OmniMolForCausalLM.from_pretrained(trained / "base").to(torch.bfloat16).save_pretrained(tmp_path / "base")
    export(trained / "adapter", "merged", tmp_path / "merged", base=tmp_path / "base")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_folded_adapter_can_be_merged_too(exports, tmp_path):
    export(exports / "folded", "merged", tmp_path / "merged")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", exports / "merged"))
    for name, tensor in ours.items():
        if ".experts." not in name:  # there gamma is folded into B
            assert torch.allclose(tensor, theirs[name], rtol=1e-5, atol=1e-7), name
    model = OmniMolForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        logits = model(**load_file(exports / "inputs")).logits
    expected = load_file(exports / "expected")["logits"]
    assert ((logits - expected).abs().max() / expected.abs().max()).item() < 1e-6


@pytest.mark.parametrize("learn_p", [False, True])
def test_folding_for_a_base_with_its_own_gamma(learn_p, tmp_path):
    """A base model that was trained before, with a range and perhaps a learnable p: none of it bends the fold."""
    tiny.model(gamma_range=0.05, learn_gamma_p=learn_p, expert_alpha=8.0).save_pretrained(tmp_path / "base")
    model = OmniMolForCausalLM.from_pretrained(tmp_path / "base")
    model = add_adapters(model, AdaptiveLoraConfig(r=4, gamma_p=1, learn_p=not learn_p)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "adapter")
    export(tmp_path / "adapter", "folded", tmp_path / "folded")
    inputs = dict(tiny.prompts(tiny.chat("What is it?", "CCO")))
    base = OmniMolForCausalLM.from_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        stock = PeftModel.from_pretrained(base, tmp_path / "folded")
    assert type(stock.peft_config["default"]) is LoraConfig
    with torch.no_grad():
        logits, expected = stock(**inputs).logits, model(**inputs).logits
    assert ((logits - expected).abs().max() / expected.abs().max()).item() < 1e-5  # of tiny.model()'s large weights


def test_what_cannot_be_exported(exports, tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        export(exports / "adapter", "merged", exports / "merged")
    with pytest.raises(ValueError, match=r"has no adapter_config.json and no adapter_model.safetensors"):
        export(exports / "base", "merged", tmp_path / "out")
    with pytest.raises(ValueError, match="no gamma to fold"):
        export(exports / "folded", "folded", tmp_path / "out")
    with pytest.raises(ValueError, match="'onnx'"):
        export(exports / "adapter", "onnx", tmp_path / "out")
    with pytest.raises(SystemExit, match=r"error: .*is no folder and cannot be downloaded"):
        main(["export", "--adapter", str(exports / "adapter"), "--to", "merged", "--out", str(tmp_path / "out"),
              "--base", str(tmp_path / "nowhere")])  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_the_resumable_adapter_is_unchanged_by_exports(exports):
    model = PeftModel.from_pretrained(OmniMolForCausalLM.from_pretrained(exports / "base"), exports / "adapter")
    with torch.no_grad():
        logits = model(**load_file(exports / "inputs")).logits
    assert torch.equal(logits, load_file(exports / "expected")["logits"])
