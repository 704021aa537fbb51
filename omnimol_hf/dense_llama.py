"""A dense Llama checkpoint on disk, read one tensor at a time: what Omni-Mol checkpoints are made from.

    python -m omnimol_hf.dense_llama --model DIR --out DIR      # the Llama inside an Omni-Mol model without experts

That is for trying things out where no published Llama is at hand: a small model trained from scratch serves as one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from omnimol_hf.checkpoints import whole_folder
from omnimol_hf.configuration_omnimol import known_llama_keys
from omnimol_hf.from_scratch import SPECIAL_TOKENS
from omnimol_hf.modeling_omnimol import OmniMolForCausalLM
from omnimol_hf.stored_weights import stored_tensors


class DenseLlama:
    """A dense Llama checkpoint on disk, checked by its headers alone; its tensors are read one at a time.

    Args:
        folder: holds `config.json` and `model.safetensors`, or several shards with their index.

    Raises:
        ValueError: not a Llama, unreadable files, and missing, left-over or wrongly shaped tensors, all named.
    """

    def __init__(self, folder: Path) -> None:
        try:
            settings = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} is no checkpoint, for its config.json cannot be read: {error}") from error
        if settings.get("model_type") != "llama":
            raise ValueError(f"{folder} has model_type {settings.get('model_type')!r}; expected 'llama'")
        self.folder = folder
        self.name = settings.get("_name_or_path", "")
        # Tools leave notes of their own in the file, which mean nothing to Llama and would be refused later.
        self.config = LlamaConfig.from_dict({key: settings[key] for key in settings.keys() & known_llama_keys()})
        with torch.device("meta"):
            self.tensors = LlamaForCausalLM(self.config).state_dict()
        if self.config.tie_word_embeddings:
            del self.tensors["lm_head.weight"]
        self._files = self._checked_files()
        self.dtype = self.read("model.embed_tokens.weight").dtype

    def _checked_files(self) -> dict[str, Path]:
        """The file of each tensor, after comparing all names and shapes with what the config asks for."""
        stored = stored_tensors(self.folder)
        missing = sorted(self.tensors.keys() - stored.keys())
        # Old checkpoints store the rotary frequencies, and some tied ones their head: both follow from the others.
        redundant = {name for name in stored if name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight"}
        unexpected = sorted(stored.keys() - self.tensors.keys() - redundant)
        if missing or unexpected:
            raise ValueError(
                f"{self.folder} does not hold its config's Llama: missing {missing}, left over {unexpected}"
            )
        for name, tensor in self.tensors.items():
            found = stored[name]
            if found.shape != tuple(tensor.shape):
                raise ValueError(f"{found.path}: {name} is {found.shape}, its config asks for {tuple(tensor.shape)}")
        return {name: tensor.path for name, tensor in stored.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, mapped from its file."""
        with safe_open(self._files[name], "pt") as file:
            return file.get_tensor(name)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, which has to have the special tokens of Llama 3.1 or later.

        Raises:
            ValueError: no tokenizer, special tokens missing, or more tokens than embeddings.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder)
        except (OSError, ValueError) as error:
            raise ValueError(f"the tokenizer of {self.folder} cannot be read: {error}") from error
        vocabulary = tokenizer.get_vocab()
        if missing := [token for token in SPECIAL_TOKENS if token not in vocabulary]:
            raise ValueError(
                f"the tokenizer of {self.folder} has no {', '.join(missing)}: expected the special tokens of Llama "
                "3.1 or later"
            )
        if len(tokenizer) > self.config.vocab_size:
            raise ValueError(f"{self.folder}: {len(tokenizer)} tokens for a vocab_size of {self.config.vocab_size}")
        return tokenizer


def extract_llama(model: str | Path, out: str | Path) -> None:
    """Save the language model of an Omni-Mol checkpoint, with its tokenizer, as a plain Llama checkpoint.

    Raises:
        ValueError: if the checkpoint has experts, for Llama has none, or if `out` exists.
    """
    omnimol, out = OmniMolForCausalLM.from_pretrained(model), Path(out)
    if omnimol.config.moe_layer_indices:
        raise ValueError(f"{model} has experts in layers {omnimol.config.moe_layer_indices}: it is no plain Llama")
    if out.exists():
        raise ValueError(f"{out} exists already; give a new folder")
    llama = LlamaForCausalLM(omnimol.config.text_config)
    llama.model.load_state_dict(omnimol.model.language_model.state_dict())
    llama.lm_head.load_state_dict(omnimol.lm_head.state_dict())
    with whole_folder(out) as aside:
        llama.to(omnimol.dtype).save_pretrained(aside)
        AutoTokenizer.from_pretrained(model).save_pretrained(aside)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m omnimol_hf.dense_llama", allow_abbrev=False)
    parser.add_argument("--model", required=True, help="Omni-Mol checkpoint without experts (moe_layers: [])")
    parser.add_argument("--out", required=True, help="folder to make")
    try:
        extract_llama(**vars(parser.parse_args(argv)))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

__all__ = ["DenseLlama", "extract_llama"]
