"""A small random Omni-Mol and a tokenizer of its own, for runs that start from no checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from omnimol_hf.configuration_omnimol import OmniMolConfig
from omnimol_hf.modeling_omnimol import OmniMolForCausalLM
from omnimol_hf.processing_omnimol import GRAPH_TOKEN, OmniMolProcessor
from omnimol_hf.tasks import task_prompts

# Llama-3's special tokens that its chats and this model use.
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    GRAPH_TOKEN,
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)


def train_tokenizer(texts: Iterable[str], vocab_size: int, selfies_units: bool = True) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that carries Llama-3's special tokens.

    Words, SELFIES symbols and single digits are its units: merges never cross them.

    Args:
        texts: what it is trained on.
        vocab_size: tokens in all, special ones and the 256 bytes included.
        selfies_units: False: SELFIES symbols are no units but brackets, words and digits, as to the tokenizers of
            published language models.
    """
    tokenizer = Tokenizer(models.BPE())
    symbol, other = (r"\[[^\[\]\s]+\]|\[|", r"\[") if selfies_units else ("", "")
    units = Regex(symbol + rf" ?\d| ?\p{{L}}+|\s*[\r\n]+| ?[^\s\p{{L}}\d{other}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(units, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=131072,
    )


def row_texts(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Everything that is written in a row, as the tokenizer will meet it."""
    prompts = task_prompts()
    for row in rows:
        yield prompts[row["task"]]["prompt"].format(instruction=row["instruction"], input=row["input"])
        yield row["output"]


def new_processor(
    rows: Iterable[dict[str, Any]], vocab_size: int, selfies_units: bool = True, **kwargs: Any
) -> OmniMolProcessor:
    """A processor whose tokenizer is trained on dataset rows and on the chat's fixed text; see `train_tokenizer`."""
    placeholder = OmniMolProcessor(train_tokenizer([], len(SPECIAL_TOKENS) + 256), task_prompts=task_prompts())
    frame = placeholder.apply_chat_template([{"role": "user", "content": ""}], add_generation_prompt=True)
    texts = list(row_texts(rows))
    tokenizer = train_tokenizer([frame] * len(texts) + texts, vocab_size, selfies_units)
    return OmniMolProcessor(tokenizer, task_prompts=task_prompts(), **kwargs)


def new_model(
    processor: OmniMolProcessor, text_config: dict[str, Any], seed: int = 0, **config: Any
) -> OmniMolForCausalLM:
    """A random model for a processor's tokenizer.

    Args:
        text_config: Llama's sizes; vocabulary and special tokens are the tokenizer's.
        config: keys of `OmniMolConfig`.
    """
    tokenizer = processor.tokenizer
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(seed)
    model = OmniMolForCausalLM(
        OmniMolConfig(
            text_config={"model_type": "llama", "tie_word_embeddings": True, "vocab_size": len(tokenizer), **ids}
            | text_config,
            graph_token_id=processor.graph_token_id,
            graph_features=processor.graph_features,
            multi_graph=processor.multi_graph,
            **config,
        )
    )
    # transformers' own limit of 20 tokens would cut most answers.
    model.generation_config.update(**ids, suppress_tokens=[processor.graph_token_id], max_new_tokens=512)
    return model
