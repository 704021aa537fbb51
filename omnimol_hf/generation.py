"""Answers in bulk: batches of similar length, left-padded, shared among processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from omnimol_hf.modeling_omnimol import OmniMolForCausalLM
from omnimol_hf.processing_omnimol import OmniMolProcessor


@torch.inference_mode()
def generate_answers(
    model: OmniMolForCausalLM,
    processor: OmniMolProcessor,
    rows: Sequence[dict[str, Any]],
    batch_size: int = 32,
    max_new_tokens: int = 256,
    **generate_kwargs: Any,
) -> list[dict[str, Any]]:
    """Answer dataset rows, greedily unless `generate_kwargs` say otherwise.

    Args:
        rows: rows of the dataset's schema; their `output` is not looked at.
        batch_size: rows a batch and process.
        max_new_tokens: longest answer, in tokens.

    Returns:
        For each row, in order, on every process: `answer`, the text without special tokens, and `ended`, whether the
        model closed it with `<|eot_id|>`.
    """
    state = PartialState()
    chats = [processor.row_messages(row, with_answer=False) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input"]) + len(rows[i]["instruction"]), reverse=True)
    mine = [order[i : i + batch_size] for i in range(0, len(order), batch_size)][
        state.process_index :: state.num_processes
    ]
    end = processor.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    answers: list[tuple[int, dict[str, Any]]] = []
    was_training = model.training
    model.eval()
    for batch in tqdm(mine, desc="Answering", disable=not state.is_main_process):
        inputs = processor.apply_chat_template(
            [chats[i] for i in batch],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding_side="left",
        ).to(model.device)
        ids = model.generate(**inputs, **({"do_sample": False, "max_new_tokens": max_new_tokens} | generate_kwargs))
        new = ids[:, inputs["input_ids"].shape[1] :]
        texts = processor.batch_decode(new, skip_special_tokens=True)
        ended = (new == end).any(1).tolist()
        answers += [
            (i, {"answer": text.strip(), "ended": done}) for i, text, done in zip(batch, texts, ended, strict=True)
        ]
    model.train(was_training)
    return [answer for _, answer in sorted(gather_object(answers), key=lambda item: item[0])]
