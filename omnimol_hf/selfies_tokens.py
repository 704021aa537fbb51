"""SELFIES symbols as tokens: each is one token, where a byte-pair vocabulary takes two or three for it.

    symbols = selfies_symbols(rows)
    add_selfies_tokens(model, processor, symbols)      # then train, and save model and processor as ever
    add_adapters(model, config, token_ids=selfies_token_ids(processor.tokenizer))

- A token stands for the characters of its symbol, so every text is encoded without loss as before. Symbols without a
  token are spelt in the old vocabulary's pieces, and so are `[START_SELFIES]`, `[1]` and other brackets in prose. A
  symbol in prose ("[Na]") becomes its token too: it is the same text either way.
- A checkpoint's tokenizer carries the tokens. Whoever loads it needs to know nothing of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import selfies
import torch
from datasets import Dataset
from tokenizers import AddedToken
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from omnimol_hf.processing_omnimol import OmniMolProcessor

MIN_COUNT = 10  # of a rarer symbol the embedding would stay about where it started
_MULTIPLE = 8  # matrix products on GPUs are slow where the size of the vocabulary is no multiple of it
_SYMBOL = re.compile(r"\[[^\[\]\s]+\]")


def selfies_symbols(rows: Dataset, min_count: int = MIN_COUNT) -> list[str]:
    """The SELFIES symbols in the inputs and answers of dataset rows, the most frequent first.

    Args:
        rows: with the columns `input` and `output`.
        min_count: how often a symbol has to occur. As many rarer ones follow as there are to make their number a
            multiple of 8.
    """
    counts: Counter[str] = Counter()
    for batch in rows.select_columns(["input", "output"]).iter(1000):
        for text in (*batch["input"], *batch["output"]):
            counts.update(_SYMBOL.findall(text))
    symbols = [(symbol, count) for symbol, count in counts.most_common() if is_symbol(symbol)]
    frequent = sum(count >= min_count for _, count in symbols)
    return [symbol for symbol, _ in symbols[: -(-frequent // _MULTIPLE) * _MULTIPLE]]


def is_symbol(text: str) -> bool:
    """Whether a text is one symbol that the library `selfies` reads: an atom, a branch or a ring."""
    if not _SYMBOL.fullmatch(text):
        return False
    try:
        selfies.decoder(text)
    except selfies.DecoderError:
        return False
    return True


def add_symbols(tokenizer: PreTrainedTokenizerBase, symbols: Sequence[str]) -> dict[int, list[int]]:
    """Make symbols tokens of a tokenizer. New ids follow those that are there; a symbol that has one keeps it.

    Returns:
        Each symbol's id, and the ids of the pieces that the tokenizer took for it before.

    Raises:
        ValueError: for what is no SELFIES symbol.
    """
    if wrong := [symbol for symbol in symbols if not is_symbol(symbol)]:
        raise ValueError(f"{wrong[0]!r} is no SELFIES symbol; expected one such as '[C]' or '[=Branch1]'")
    pieces = [tokenizer(symbol, add_special_tokens=False)["input_ids"] for symbol in symbols]
    tokenizer.add_tokens([AddedToken(symbol, normalized=False) for symbol in symbols])
    return dict(zip(tokenizer.convert_tokens_to_ids(list(symbols)), pieces, strict=True))


@torch.no_grad()
def add_selfies_tokens(model: PreTrainedModel, processor: OmniMolProcessor, symbols: Sequence[str]) -> None:
    """Make symbols tokens of a model and its processor.

    A symbol's row of the embeddings, and of the head where that is not tied to them, starts as the mean of the rows of
    the pieces that were written for it. The other rows stay as they are.

    Raises:
        ValueError: for what is no SELFIES symbol.
    """
    pieces = add_symbols(processor.tokenizer, symbols)
    if len(processor.tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        # With tied weights the second time changes nothing: `pieces` are old rows.
        means = {row: layer.weight[old].double().mean(0).to(layer.weight) for row, old in pieces.items()}
        for row, mean in means.items():
            layer.weight[row] = mean


def selfies_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the SELFIES symbols that `add_symbols` made tokens."""
    added = tokenizer.added_tokens_decoder.items()
    return sorted(number for number, token in added if not token.special and is_symbol(token.content))


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Refuse a tokenizer that has tokens for which the model has no embeddings.

    Args:
        source: where both are from.

    Raises:
        ValueError: naming both sizes.
    """
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens, of which {len(selfies_token_ids(tokenizer))} are "
            f"SELFIES symbols, but the model has embeddings for {rows}: they belong to different checkpoints"
        )


__all__ = [
    "add_selfies_tokens",
    "add_symbols",
    "check_vocabulary",
    "selfies_symbols",
    "selfies_token_ids",
]
