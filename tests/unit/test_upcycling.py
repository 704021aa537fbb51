"""Upcycling: a dense Llama in, an Omni-Mol checkpoint out whose functions are the ones they should be."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, LlamaConfig, LlamaForCausalLM

from omnimol_hf import OmniMolForCausalLM, OmniMolGraphConfig, OmniMolGraphEncoder
from omnimol_hf.llama_licence import llama_version
from omnimol_hf.upcycling import main, upcycle
from tests import tiny

GRAPH = {"hidden_size": 12, "num_layers": 2}
SMALL = {"graph_config": GRAPH, "expert_rank": 4}
IDS = torch.arange(40, 60).view(2, 10)


def dense_llama(folder: Path, tied: bool = True, max_shard_size: str = "1GB", dtype=torch.float32) -> LlamaForCausalLM:
    """A random Llama of six layers, saved with the tests' tokenizer."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tiny.tokenizer()) + 3,  # as Llama's own: more embeddings than tokens
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=[1],
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # the default start is so small that all tokens would look alike
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    tiny.tokenizer().save_pretrained(folder)
    return model


def load(folder: Path, **kwargs) -> OmniMolForCausalLM:
    """Through AutoModel, and with no weight too many or too few."""
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True, **kwargs)
    assert type(model) is OmniMolForCausalLM
    assert not any(info.values()), info
    return model.eval()


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tied")
    return folder, dense_llama(folder)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("shard_size", ["30KB", "1GB"])
def test_without_experts_logits_are_the_dense_models(tmp_path, is_tied, shard_size):
    dense = dense_llama(tmp_path / "dense", tied=is_tied, max_shard_size=shard_size)
    assert len(list((tmp_path / "dense").glob("*.safetensors"))) > 5 or shard_size == "1GB"
    upcycle(tmp_path / "dense", tmp_path / "out", moe_layers=[], max_shard_size=shard_size, **SMALL)
    model = load(tmp_path / "out")
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == is_tied
    torch.testing.assert_close(model(IDS).logits, dense(IDS).logits, rtol=0, atol=0)


def test_a_moe_block_starts_as_the_dense_ffn_times_its_weights(tied, tmp_path):
    backbone, dense = tied
    upcycle(backbone, tmp_path / "plain", **SMALL)
    upcycle(backbone, tmp_path / "kept", preserve_at_init=True, **SMALL)
    plain, kept = load(tmp_path / "plain"), load(tmp_path / "kept")
    x = torch.randn(2, 5, 32)
    for layer in plain.config.moe_layer_indices:
        ffn = dense.model.layers[layer].mlp(x)
        block = plain.model.language_model.layers[layer].mlp
        for name in ("gate_proj", "up_proj", "down_proj"):
            assert torch.equal(getattr(block.base, name).weight, getattr(dense.model.layers[layer].mlp, name).weight)
        assert not block.experts.delta("up", 0).any()
        _, weights, _ = block.router(x)
        torch.testing.assert_close(block(x), (1 + weights.sum(-1, keepdim=True)) * ffn, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(kept.model.language_model.layers[layer].mlp(x), ffn, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(kept(IDS).logits, dense(IDS).logits, rtol=1e-4, atol=1e-4)


def test_full_experts_are_copies_and_give_the_logits_of_deltas(tied, tmp_path):
    backbone, dense = tied
    upcycle(backbone, tmp_path / "lora", **SMALL)
    upcycle(backbone, tmp_path / "full", expert_training="full", **SMALL)
    lora, full = load(tmp_path / "lora"), load(tmp_path / "full")
    for expert in full.model.language_model.layers[2].mlp.experts:
        assert torch.equal(expert.up_proj.weight, dense.model.layers[2].mlp.up_proj.weight)
    torch.testing.assert_close(lora(IDS).logits, full(IDS).logits, rtol=1e-5, atol=1e-5)


def test_presets_and_overrides(tied, tmp_path):
    paper = upcycle(tied[0], tmp_path / "paper", **SMALL)
    released = upcycle(tied[0], tmp_path / "released", preset="released", **SMALL)
    own = upcycle(tied[0], tmp_path / "own", preset="released", moe_layers=[0], num_experts=2, **SMALL)
    assert (paper.moe_layer_indices, paper.num_experts) == ([1, 2, 3, 4, 5], 3)
    assert (released.moe_layer_indices, released.num_experts) == ([5], 5)
    assert (own.moe_layer_indices, own.num_experts, own.num_experts_per_tok) == ([0], 2, 2)
    assert [load(tmp_path / name).config.num_experts for name in ("paper", "released", "own")] == [3, 5, 2]


def test_new_weights_follow_the_seed_and_not_the_sharding(tied, tmp_path):
    for name, options in {"a": {}, "b": {"max_shard_size": "9KB"}, "c": {"seed": 1}}.items():
        upcycle(tied[0], tmp_path / name, **options, **SMALL)
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 5
    a, b, c = (load(tmp_path / name).state_dict() for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    differ = {name for name in a if not torch.equal(a[name], c[name])}
    layer = "model.language_model.layers.3.mlp."
    assert {f"{layer}router.weight", f"{layer}experts.up_A", "model.projector.weight"} <= differ
    assert not any("base" in name or "self_attn" in name for name in differ)
    assert not torch.equal(a[f"{layer}router.weight"], a["model.language_model.layers.4.mlp.router.weight"])


def test_new_weights_start_as_in_a_new_model(tied, tmp_path):
    config = upcycle(tied[0], tmp_path / "out", **SMALL)
    upcycled, new = load(tmp_path / "out").state_dict(), OmniMolForCausalLM(config).state_dict()
    parts = [name for name in new if "router" in name or ".experts." in name or "projector" in name]
    assert len(parts) == 5 * (1 + 8) + 2
    for name in parts:
        torch.testing.assert_close(upcycled[name].std(), new[name].std(), rtol=0.5, atol=1e-8, msg=name)


def test_dtypes(tmp_path):
    dense = dense_llama(tmp_path / "dense", dtype=torch.bfloat16)
    for dtype, expected in {"as-is": torch.bfloat16, "float32": torch.float32}.items():
        config = upcycle(tmp_path / "dense", tmp_path / dtype, dtype=dtype, learn_gamma_p=True, **SMALL)
        assert config.dtype == expected
        stored = load_file(tmp_path / dtype / "model.safetensors")
        loaded = load(tmp_path / dtype).state_dict()  # no dtype given: the config's
        for name, tensor in stored.items():
            if name.endswith("num_batches_tracked"):
                assert tensor.dtype == torch.int64
                continue
            fp32 = any(part in name for part in ("router", "gamma", "graph_encoder"))
            assert tensor.dtype == loaded[name].dtype == (torch.float32 if fp32 else expected), name
        down = "layers.3.mlp.down_proj.weight"
        copied = stored["model.language_model." + down.replace("mlp", "mlp.base")]
        assert torch.equal(copied, dense.state_dict()["model." + down].to(expected))


def test_processor_generation_config_and_code_come_along(tied, tmp_path):
    upcycle(tied[0], tmp_path / "out", graph_features="omnimol2", **SMALL)
    processor, model = AutoProcessor.from_pretrained(tmp_path / "out"), load(tmp_path / "out")
    assert processor.graph_features == "omnimol2"
    assert processor.chat_template == tiny.processor().chat_template
    tokenizer = tiny.tokenizer()
    generation = model.generation_config
    assert generation.suppress_tokens == [model.config.graph_token_id] == [processor.graph_token_id]
    assert generation.eos_token_id == [1, tokenizer.convert_tokens_to_ids("<|eot_id|>")]
    assert (generation.pad_token_id, generation.bos_token_id) == (tokenizer.pad_token_id, tokenizer.bos_token_id)
    chat = processor.task_messages("molecular_weight", molecule="CCO")
    expected = tiny.processor(graph_features="omnimol2").apply_chat_template(chat, tokenize=True)
    assert processor.apply_chat_template(chat, tokenize=True) == expected
    inputs = processor.apply_chat_template(
        chat, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    written = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    assert 0 < len(written) <= 8
    assert model.config.graph_token_id not in written
    assert {"modeling_omnimol.py", "moe_omnimol.py", "processing_omnimol.py", "chemistry_omnimol.py"} <= set(
        left_in(tmp_path / "out")
    )
    assert str(tied[0]) not in (tmp_path / "out" / "config.json").read_text()


def test_rope_and_dtype_of_old_configs_are_kept(tmp_path):
    """And what other tools noted in the file is left out."""
    dense_llama(tmp_path / "dense")
    config = json.loads((tmp_path / "dense" / "config.json").read_text())
    del config["rope_parameters"], config["dtype"]
    scaling = {"rope_type": "llama3", "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0}
    config |= {"rope_theta": 500000.0, "rope_scaling": scaling | {"original_max_position_embeddings": 64}}
    config |= {"torch_dtype": "float32", "made_by_some_tool": 3}
    (tmp_path / "dense" / "config.json").write_text(json.dumps(config))
    upcycle(tmp_path / "dense", tmp_path / "out", moe_layers=[], **SMALL)
    model, dense = load(tmp_path / "out"), LlamaForCausalLM.from_pretrained(tmp_path / "dense")
    rope = model.config.text_config.rope_parameters
    assert "made_by_some_tool" not in (tmp_path / "out" / "config.json").read_text()
    assert (rope["rope_theta"], rope["rope_type"], rope["factor"]) == (500000.0, "llama3", 32.0)
    assert torch.equal(model(IDS).logits, dense(IDS).logits)


def test_graph_encoder_of_moleculestm(tied, tmp_path, caplog):
    encoder = OmniMolGraphEncoder(OmniMolGraphConfig(**GRAPH))
    published = {f"molecule_node_model.{name}": tensor for name, tensor in encoder.state_dict().items()}
    published |= {"graph_pred_linear.weight": torch.ones(1, 12), "graph_pred_linear.bias": torch.ones(1)}
    torch.save(published, tmp_path / "molecule_model.pth")
    upcycle(tied[0], tmp_path / "out", graph_encoder=tmp_path / "molecule_model.pth", dtype="bfloat16", **SMALL)
    assert "RANDOM" not in caplog.text
    loaded = load(tmp_path / "out").model.graph_encoder.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in encoder.state_dict().items())
    upcycle(tied[0], tmp_path / "random", **SMALL)
    assert "graph encoder is RANDOM" in caplog.text


def test_redundant_tensors_of_old_checkpoints_are_ignored(tmp_path):
    dense_llama(tmp_path / "dense")
    tensors = load_file(tmp_path / "dense" / "model.safetensors")
    tensors |= {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    tensors |= {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(tensors, tmp_path / "dense" / "model.safetensors", metadata={"format": "pt"})
    upcycle(tmp_path / "dense", tmp_path / "out", **SMALL)
    load(tmp_path / "out")


def _without_norm(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["extra.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors")


def _with_config(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def _without_pad_token(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("<|finetune_right_pad_id|>", "<|other|>"))


BROKEN = {
    "tensors": (_without_norm, r"missing \['model.norm.weight'\], left over \['extra.weight'\]"),
    "type": (_with_config(model_type="mistral"), "model_type 'mistral'; expected 'llama'"),
    "shape": (
        _with_config(intermediate_size=50),
        r"layers.0.mlp.gate_proj.weight is \(48, 32\), its config asks for \(50, 32\)",
    ),
    "untied": (_with_config(tie_word_embeddings=False), "missing .*lm_head.weight"),
    "config": (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
    "weights": (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read as safetensors"),
    "torn": (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "cannot be read as safetensors"),
    "pad token": (_without_pad_token, r"has no <\|finetune_right_pad_id\|>"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_backbone_is_named_and_nothing_is_left(tied, tmp_path, name):
    breaking, message = BROKEN[name]
    shutil.copytree(tied[0], tmp_path / "dense")
    breaking(tmp_path / "dense")
    with pytest.raises(ValueError, match=message):
        upcycle(tmp_path / "dense", tmp_path / "out", **SMALL)
    assert left_in(tmp_path) == ["dense"]


def test_bad_arguments(tied, tmp_path):
    with pytest.raises(ValueError, match="is no folder and cannot be downloaded"):
        upcycle(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="preset is 'mine'; expected one of"):
        upcycle(tied[0], tmp_path / "out", preset="mine")
    with pytest.raises(ValueError, match="dtype is 'int8'; expected one of"):
        upcycle(tied[0], tmp_path / "out", dtype="int8")
    with pytest.raises(StrictDataclassError, match="num_experts_per_tok is 4; it must be 1 to num_experts = 3"):
        upcycle(tied[0], tmp_path / "out", num_experts_per_tok=4)
    (tmp_path / "full").mkdir()
    with pytest.raises(ValueError, match="full exists already"):
        upcycle(tied[0], tmp_path / "full")
    assert left_in(tmp_path) == ["full"]


def test_a_failure_while_writing_leaves_nothing(tied, tmp_path, monkeypatch):
    def disk_is_full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("omnimol_hf.upcycling.copy_legal_files", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        upcycle(tied[0], tmp_path / "out", **SMALL)
    assert left_in(tmp_path) == []


def test_llamas_licence(tied, tmp_path):
    shutil.copytree(tied[0], tmp_path / "dense")
    (tmp_path / "dense" / "LICENSE.txt").write_text("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\nLlama 3.2 Version ...")
    (tmp_path / "dense" / "USE_POLICY.md").write_text("Use it well.")
    with pytest.raises(ValueError, match=r"made from Meta's Llama 3.2, .*start with 'Llama'.*not 'omni-mol'"):
        upcycle(tmp_path / "dense", tmp_path / "omni-mol", **SMALL)
    upcycle(tmp_path / "dense", tmp_path / "Llama-3.2-omni-mol", **SMALL)
    assert {"LICENSE.txt", "USE_POLICY.md", "NOTICE"} <= set(left_in(tmp_path / "Llama-3.2-omni-mol"))
    notice = (tmp_path / "Llama-3.2-omni-mol" / "NOTICE").read_text()
    assert notice.startswith("Built with Llama\n")
    assert "Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright © Meta Platforms, Inc." in notice
    assert llama_version(tmp_path / "Llama-3.2-omni-mol") == "3.2"  # and so is what is made from it


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", "3.2"),
        ("/models/Meta-Llama-3.1-8B", "3.1"),
        ("/cache/models--meta-llama--Llama-3.2-1B/snapshots/0123", "3.2"),
        ("TinyLlama/TinyLlama-1.1B", None),
        ("JackFram/llama-160m", None),
        ("/data/mine", None),
    ],
)
def test_llamas_are_known_by_name(tmp_path, name, version):
    assert llama_version(tmp_path, name) == version


def test_llamas_are_known_by_their_card(tmp_path):
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: llama3.1\n---\n# A model")
    assert llama_version(tmp_path) == "3.1"
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\nTrained like Llama 3.1.")
    assert llama_version(tmp_path) is None


def test_command_line(tied, tmp_path, capsys):
    base = ["--backbone", str(tied[0]), "--graph-config", json.dumps(GRAPH)]
    out = tmp_path / "out"
    main([*base, "--out", str(out), "--preset", "released", "--expert-training", "full", "--num_experts=2"])
    model = load(out)
    assert (model.config.expert_training, model.config.moe_layers) == ("full", "last_quarter")
    printed = capsys.readouterr().out
    total = sum(
        p.numel() for p in [*model.parameters(), *model.model.graph_encoder.buffers()] if p.is_floating_point()
    )
    assert f"{total:,} parameters, {total:,} active" in printed
    assert f'AutoModel.from_pretrained("{out}", trust_remote_code=True)' in printed
    main([*base, "--out", str(tmp_path / "two"), "--preset", "released", "--expert-training", "full"])
    six = total + 3 * 3 * 32 * 48 + 3 * 32  # three more experts and their router rows
    assert f"{six:,} parameters, {six - 3 * 3 * 32 * 48:,} active" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"error: .* exists already"):
        main([*base, "--out", str(out)])
    with pytest.raises(SystemExit):
        main([*base, "--out", str(tmp_path / "three"), "--num_expert", "2"])
