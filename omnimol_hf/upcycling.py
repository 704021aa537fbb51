"""Turn a dense Llama checkpoint into an Omni-Mol one.

    python -m omnimol_hf.upcycling --backbone PATH_OR_ID --out DIR [--graph-encoder FILE] [--preset paper|released]

- Streams: tensors are read one by one and written shard by shard, so that the peak of memory is one output shard
  (`--max-shard-size`) and not the model.
- Every expert starts as the dense FFN: `base` and deltas that are zero, or (`--expert-training full`) whole copies.
  Router, deltas, projector and, without `--graph-encoder`, the graph encoder start as in a new model.
- The output is whole or not there: it is written aside and renamed.
- Llama's licence has duties for whoever passes a derived model on: see `omnimol_hf.llama_licence`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, logging

from omnimol_hf.configuration_omnimol import PRESETS, OmniMolConfig
from omnimol_hf.dense_llama import DenseLlama
from omnimol_hf.graph_encoder_omnimol import OmniMolGraphEncoder, load_moleculestm
from omnimol_hf.llama_licence import check_llama_name, copy_legal_files, llama_version
from omnimol_hf.modeling_omnimol import OmniMolForCausalLM, build_projector
from omnimol_hf.moe_omnimol import LowRankExperts, OmniMolRouter
from omnimol_hf.processing_omnimol import GRAPH_TOKEN, OmniMolProcessor
from omnimol_hf.stored_weights import checkpoint_folder
from omnimol_hf.tasks import task_prompts

logger = logging.get_logger(__name__)

MAX_NEW_TOKENS = 512  # the authors' evaluation; transformers' own 20 would cut every answer
_FROM_BACKBONE = ("text_config", "graph_token_id", "tie_word_embeddings")
_NEW_PART = re.compile(r"(model\.graph_encoder|model\.projector|.*\.mlp\.(?:router|experts))\.(.+)")


def upcycle(
    backbone: str | Path,
    out: str | Path,
    graph_encoder: str | Path | None = None,
    preset: str = "paper",
    dtype: str = "as-is",
    seed: int = 0,
    max_shard_size: str | int = "2GB",
    check_name: bool = True,
    **overrides: Any,
) -> OmniMolConfig:
    """Write an Omni-Mol checkpoint, with processor and code, that `AutoModel` loads.

    Args:
        backbone: folder or hub id of a Llama whose tokenizer has Llama-3.1's special tokens.
        out: the folder to make.
        graph_encoder: MoleculeSTM's `molecule_model.pth` or a file like it; None: random weights.
        preset: `"paper"` or `"released"`, see `PRESETS`.
        dtype: of all weights but router, gammas and graph encoder, which are fp32: `"bfloat16"`, `"float32"`, or
            `"as-is"`: that of the backbone's embeddings.
        seed: of the new weights, which do not depend on `max_shard_size`.
        max_shard_size: of the output's files.
        check_name: whether the folder's name is the model's, which a Llama's licence has a say in.
        overrides: keys of `OmniMolConfig` over the preset's, for example `expert_training="full"`.

    Returns:
        The model's config.

    Raises:
        ValueError: for anything that cannot become an Omni-Mol model; nothing is left behind then.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists already; give a new folder")
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}; expected one of {sorted(PRESETS)}")
    dense = DenseLlama(checkpoint_folder(backbone))
    llama = llama_version(dense.folder, str(backbone), dense.name)
    if check_name:
        check_llama_name(llama, out.name)
    dtypes = {"bfloat16": torch.bfloat16, "float32": torch.float32, "as-is": dense.dtype}
    if dtype not in dtypes:
        raise ValueError(f"dtype is {dtype!r}; expected one of {sorted(dtypes)}")
    tokenizer = dense.tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = "<|finetune_right_pad_id|>", "right"
    tokenizer.chat_template = None  # the processor's takes its place
    config = OmniMolConfig(
        text_config=dense.config,
        graph_token_id=tokenizer.convert_tokens_to_ids(GRAPH_TOKEN),
        architectures=[OmniMolForCausalLM.__name__],
        dtype=dtypes[dtype],
        **(PRESETS[preset] | overrides),
    )
    config.text_config.dtype = dtypes[dtype]
    features = {"graph_features": config.graph_features, "multi_graph": config.multi_graph}
    processor = OmniMolProcessor(tokenizer, task_prompts=task_prompts(), **features)
    weights = UpcycledWeights(config, dense, graph_encoder, seed)

    staging = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        weights.save(staging, max_shard_size)
        config.save_pretrained(staging)
        _generation_config(processor, dense.config).save_pretrained(staging)
        processor.save_pretrained(staging)
        custom_object_save(weights.skeleton, staging)
        copy_legal_files(dense.folder, staging, llama)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _report(out, config, weights)
    return config


class UpcycledWeights:
    """The tensors of the new model: `plan` has their names, shapes and dtypes, `read` makes one of them.

    Args:
        config: the new model's; its dtype is that of all weights but those that the model keeps in fp32.
        dense: what it is made of.
        graph_encoder: file for `load_moleculestm`, or None.
        seed: of the new parts.
    """

    def __init__(self, config: OmniMolConfig, dense: DenseLlama, graph_encoder: str | Path | None, seed: int) -> None:
        self.config, self.dense, self.seed = config, dense, seed
        self._graph_encoder = load_moleculestm(graph_encoder, config.graph_config) if graph_encoder else None
        if graph_encoder is None:
            logger.warning("NO --graph-encoder WAS GIVEN: the graph encoder is RANDOM, and nothing will train it.")
        with torch.device("meta"):
            self.skeleton = OmniMolForCausalLM(config)
        fp32 = self.skeleton._keep_in_fp32_modules_strict
        self.plan: dict[str, Tensor] = {}
        for name, tensor in self.skeleton.state_dict().items():
            if tensor.is_floating_point():
                tensor = tensor.to(torch.float32 if fp32 & set(name.split(".")) else config.dtype)
            self.plan[name] = tensor
        if config.tie_word_embeddings:
            del self.plan["lm_head.weight"]
        self._new_part = lru_cache(maxsize=1)(self._make_part)

    def read(self, name: str) -> Tensor:
        """One tensor of the new model, in its planned dtype."""
        source = re.sub(r"\.mlp\.(?:base|experts\.\d+)\.", ".mlp.", name.replace("model.language_model.", "model.", 1))
        if source in self.dense.tensors:
            tensor = self.dense.read(source)
        else:
            part, tensor_name = _NEW_PART.fullmatch(name).groups()
            tensor = self._new_part(part)[tensor_name]
        return tensor.to(self.plan[name].dtype)

    def _make_part(self, name: str) -> dict[str, Tensor]:
        """A new module's state as the model itself would start it; its seed is its own, whatever came before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
            if name == "model.graph_encoder":
                module = self._graph_encoder or OmniMolGraphEncoder(self.config.graph_config)
            elif name == "model.projector":
                module = build_projector(self.config)
                for layer in module.modules():
                    self.skeleton.model._init_weights(layer)
            else:
                module = OmniMolRouter(self.config) if name.endswith("router") else LowRankExperts(self.config)
                module.reset_parameters()
        return {key: tensor.detach() for key, tensor in module.state_dict().items()}

    def save(self, folder: Path, max_shard_size: str | int) -> None:
        """Write all tensors to files of at most `max_shard_size` (larger tensors alone), with an index if several."""
        split = split_torch_state_dict_into_shards(self.plan, max_shard_size=max_shard_size)
        with tqdm(total=len(self.plan), desc="Upcycling", unit="tensor") as bar:
            for file_name, names in split.filename_to_tensors.items():
                shard = {}
                for name in names:
                    shard[name] = self.read(name)
                    bar.update()
                save_file(shard, folder / file_name, metadata={"format": "pt"})
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")

    def count(self) -> tuple[int, int]:
        """All parameters, and those that one token meets: the routed experts that it is not sent to are left out."""
        sizes = {name: tensor.numel() for name, tensor in self.plan.items() if tensor.is_floating_point()}
        experts = sum(size for name, size in sizes.items() if ".mlp.experts." in name)
        idle = (self.config.num_experts - self.config.num_experts_per_tok) / self.config.experts_per_layer
        return sum(sizes.values()), sum(sizes.values()) - round(experts * idle)


def _generation_config(processor: OmniMolProcessor, text_config: LlamaConfig) -> GenerationConfig:
    """Greedy, as the scores are; ends at the backbone's and the chat's end tokens; never writes the atom token."""
    tokenizer, backbone_eos = processor.tokenizer, text_config.eos_token_id
    ends = set(backbone_eos if isinstance(backbone_eos, Sequence) else [backbone_eos])
    ends |= {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|eot_id|>")}
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(ends - {None}),
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[processor.graph_token_id],
        max_new_tokens=MAX_NEW_TOKENS,
    )


def _report(out: Path, config: OmniMolConfig, weights: UpcycledWeights) -> None:
    total, active = weights.count()
    print(
        f"{total:,} parameters, {active:,} active for a token; MoE layers {config.moe_layer_indices}; {config.dtype}\n"
        f"Written to {out}. To load it:\n\n"
        "from transformers import AutoModel, AutoProcessor\n"
        f'model = AutoModel.from_pretrained("{out}", trust_remote_code=True)\n'
        f'processor = AutoProcessor.from_pretrained("{out}", trust_remote_code=True)'
    )


def _value(text: str) -> Any:
    """A config value from the command line: JSON, or else a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omnimol_hf.upcycling", allow_abbrev=False, description=upcycle.__doc__.splitlines()[0]
    )
    parser.add_argument("--backbone", required=True, help="folder or hub id of a dense Llama in safetensors")
    parser.add_argument("--out", required=True, help="folder to make; starts with 'Llama' when the backbone is Llama")
    parser.add_argument("--graph-encoder", help="MoleculeSTM's molecule_model.pth; without it the encoder is random")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="paper")
    parser.add_argument("--dtype", choices=["as-is", "bfloat16", "float32"], default="as-is")
    parser.add_argument("--seed", type=int, default=0, help="of the new weights")
    parser.add_argument("--max-shard-size", default="2GB", help="of the output files; about the peak of memory")
    keys = parser.add_argument_group("keys of OmniMolConfig, over the preset's; lists and dicts in JSON")
    for key in OmniMolConfig.__annotations__:
        if key not in _FROM_BACKBONE:
            flags = dict.fromkeys((f"--{key.replace('_', '-')}", f"--{key}"))
            keys.add_argument(*flags, dest=key, type=_value, default=argparse.SUPPRESS, metavar="VALUE")
    try:
        upcycle(**vars(parser.parse_args(argv)))
    except (ValueError, OSError, StrictDataclassError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
