"""Answers in bulk: batches of one task and similar length, shared among processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BatchFeature

from omnimol_hf.collation import prompt_batch
from omnimol_hf.decoding import can_decode, decode
from omnimol_hf.modeling_omnimol import OmniMolForCausalLM
from omnimol_hf.processing_omnimol import OmniMolProcessor
from omnimol_hf.row_encoding import RowEncoder

END = "<|eot_id|>"
_LOGITS_AT_ONCE = 1 << 24  # numbers of the vocabulary's logits held together when answers are rated: 64 MiB in fp32


@dataclass(frozen=True)
class GenerationSettings:
    """How an answer is searched for; greedily by default.

    Args:
        max_new_tokens: longest answer, in tokens.
        num_beams: beams of a beam search; 1: none.
        do_sample: draw tokens instead of taking the likeliest.
        temperature, top_p, top_k: what is drawn from; they need `do_sample`.
        candidates: answers a row, the first of them being the answer that counts.
        seed: of the draws.
        use_cache: keep the keys and values of earlier tokens. It is said outright, for training with activation
            checkpointing turns it off in the model's own settings.

    Raises:
        ValueError: for values that do not go together.
    """

    max_new_tokens: int = 256
    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 50
    candidates: int = 1
    seed: int = 0
    use_cache: bool = True

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number from 1")
        if not self.do_sample and (self.temperature, self.top_p, self.top_k) != (1.0, 1.0, 50):
            raise ValueError("temperature, top_p and top_k say how answers are drawn: give do_sample too")
        if self.do_sample and not (self.temperature > 0 and 0 < self.top_p <= 1 and self.top_k >= 0):
            raise ValueError(
                f"temperature={self.temperature}, top_p={self.top_p}, top_k={self.top_k}: expected a temperature "
                "above 0, a top_p above 0 and up to 1, and a top_k from 0 (all tokens)"
            )
        if self.candidates > 1 and not self.do_sample and self.candidates > self.num_beams:
            raise ValueError(
                f"{self.candidates} candidates need do_sample or at least as many beams, and num_beams is "
                f"{self.num_beams}: greedy search finds one answer"
            )

    @property
    def is_greedy(self) -> bool:
        """Whether each token is simply the likeliest."""
        return not self.do_sample and self.num_beams == 1

    def arguments(self) -> dict[str, Any]:
        """What `generate` is given."""
        chosen = asdict(self)
        chosen["num_return_sequences"] = chosen.pop("candidates")
        del chosen["seed"]
        if not self.do_sample:
            for name in ("temperature", "top_p", "top_k"):
                chosen[name] = None
        return chosen


def length_batches(rows: Sequence[dict[str, Any]], batch_size: int) -> list[list[int]]:
    """The numbers of the rows in batches of the same task and similar length, the longest row first.

    Answers to the same task end at about the same time, so that few rows wait for others. The batches depend on
    nothing but the rows: any number of processes answers the same ones.
    """
    lengths = [len(row["input"]) + len(row["instruction"]) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["task"], -lengths[i]))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return sorted(batches, key=lambda batch: max(lengths[i] for i in batch), reverse=True)


@torch.inference_mode()
def answer_batches(
    model: OmniMolForCausalLM,
    processor: OmniMolProcessor,
    rows: Sequence[dict[str, Any]],
    batches: Sequence[Sequence[int]],
    settings: GenerationSettings,
    rate: bool = True,
) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Answer this process's share of the batches, and rate each answer.

    Args:
        rows: rows of the dataset's schema; their `output` is not looked at.
        batches: numbers of rows; process r of n answers the batches r, r + n, r + 2n ...
        rate: whether to work out `logprob`. Greedy search does so in passing, all other searches with one more pass
            over each batch.

    Yields:
        For each batch `(number of the row, answer)` with
        - `answer`: the text without special tokens;
        - `ended`: whether the model closed it with `<|eot_id|>`;
        - `tokens`: its length, the closing token included;
        - `logprob`: the natural logarithm of its probability under the model, tokens summed, without temperature;
        - `candidates`, if there are several: the same four of each, in the order of the search, or likeliest first
          where they were drawn;
        - `problem`, for a row that cannot be encoded: why. Its answer is empty.
    """
    state = PartialState()
    was_training = model.training
    model.eval()
    encoder = RowEncoder(processor)
    try:
        mine = batches[state.process_index :: state.num_processes]
        for batch in tqdm(mine, desc="Answering", disable=not state.is_main_process):
            if settings.do_sample:
                torch.manual_seed(settings.seed * 1_000_003 + batch[0])
            yield _answer_batch(model, encoder, rows, batch, settings, rate)
    finally:
        model.train(was_training)


def _answer_batch(
    model: OmniMolForCausalLM,
    encoder: RowEncoder,
    rows: Sequence[dict[str, Any]],
    batch: Sequence[int],
    settings: GenerationSettings,
    rate: bool = True,
) -> list[tuple[int, dict[str, Any]]]:
    processor, prompts = encoder.processor, encoder.encode([rows[i] for i in batch], with_answers=False)
    nothing = {"answer": "", "ended": False, "tokens": 0} | ({"logprob": None} if rate else {})
    answers = {
        i: nothing | {"problem": one["problem"]} for i, one in zip(batch, prompts, strict=True) if one["problem"]
    }
    readable = [i for i in batch if i not in answers]
    if readable:
        readable_prompts = [prompt for prompt in prompts if not prompt["problem"]]
        inputs = prompt_batch(readable_prompts, processor.tokenizer.pad_token_id, processor.graph_features)
        inputs = inputs.to(model.device)
        if settings.is_greedy and settings.use_cache and can_decode(model):
            new, values = decode(model, inputs, settings.max_new_tokens, rate)
        else:
            new = model.generate(**inputs, **settings.arguments())[:, inputs["input_ids"].shape[1] :]
            values = _all_logprobs(model, inputs, new, _kept(processor, new)) if rate else None
        found = _described(processor, new)
        if values is not None:
            for one, value in zip(found, values.tolist(), strict=True):
                one["logprob"] = round(value, 4)
        for place, i in enumerate(readable):
            several = found[place * settings.candidates : (place + 1) * settings.candidates]
            if settings.do_sample and rate:
                several.sort(key=lambda one: one["logprob"], reverse=True)
            answers[i] = dict(several[0]) | ({"candidates": several} if settings.candidates > 1 else {})
    return [(i, answers[i]) for i in batch]


def _kept(processor: OmniMolProcessor, new: Tensor) -> Tensor:
    """Which new tokens `(rows, length)` belong to an answer: all up to its end, and no padding behind it."""
    is_end = new == processor.tokenizer.convert_tokens_to_ids(END)
    return (is_end.cumsum(1) - is_end.long() == 0) & (new != processor.tokenizer.pad_token_id)


def _described(processor: OmniMolProcessor, new: Tensor) -> list[dict[str, Any]]:
    ended = (new == processor.tokenizer.convert_tokens_to_ids(END)).any(1).tolist()
    texts = processor.batch_decode(new, skip_special_tokens=True)
    sizes = _kept(processor, new).sum(1).tolist()
    return [
        {"answer": text.strip(), "ended": done, "tokens": size}
        for text, done, size in zip(texts, ended, sizes, strict=True)
    ]


def _all_logprobs(model: OmniMolForCausalLM, inputs: BatchFeature, new: Tensor, kept: Tensor) -> Tensor:
    """`answer_logprobs` where each prompt has the same number of answers, one after the other."""
    candidates = len(new) // len(inputs["input_ids"])
    values = [answer_logprobs(model, inputs, new[k::candidates], kept[k::candidates]) for k in range(candidates)]
    return torch.stack(values, dim=1).flatten()


@torch.inference_mode()
def answer_logprobs(model: OmniMolForCausalLM, inputs: BatchFeature, new: Tensor, kept: Tensor) -> Tensor:
    """log p(answer | prompt) = sum_t log p(y_t | y_<t, prompt), in one pass over prompts and answers together.

    Args:
        inputs: the left-padded prompts that the answers continue.
        new: `(rows, length)` token ids.
        kept: `(rows, length)`, whether a token belongs to the answer.

    Returns:
        `(rows,)` in float64, natural logarithms.
    """
    mask = torch.cat([inputs["attention_mask"], kept.to(inputs["attention_mask"].dtype)], dim=1)
    graph = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    hidden = model.model(
        input_ids=torch.cat([inputs["input_ids"], new], dim=1),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        **graph,
    ).last_hidden_state[:, inputs["input_ids"].shape[1] - 1 : -1]
    row, place = kept.nonzero(as_tuple=True)
    total = torch.zeros(len(new), dtype=torch.float64, device=hidden.device)
    step = max(1, _LOGITS_AT_ONCE // model.config.text_config.vocab_size)
    for start in range(0, len(row), step):
        rows, places = row[start : start + step], place[start : start + step]
        logits = model.lm_head(hidden[rows, places]).float()
        # The graph token is suppressed in generation and has no probability there.
        logits[:, model.config.graph_token_id] = -torch.inf
        values = logits.log_softmax(-1).gather(-1, new[rows, places][:, None])[:, 0]
        total.index_add_(0, rows, values.double())
    return total


def generate_answers(
    model: OmniMolForCausalLM,
    processor: OmniMolProcessor,
    rows: Sequence[dict[str, Any]],
    batch_size: int = 32,
    max_new_tokens: int = 256,
    use_cache: bool = True,
) -> list[dict[str, Any]]:
    """Answer dataset rows greedily, without rating the answers.

    Args:
        rows: rows of the dataset's schema; their `output` is not looked at.
        batch_size: rows a batch and process.
        max_new_tokens, use_cache: see `GenerationSettings`.

    Returns:
        For each row, in order, on every process: `answer`, `ended`, `tokens` and perhaps `problem`; see
        `answer_batches`.
    """
    settings = GenerationSettings(max_new_tokens=max_new_tokens, use_cache=use_cache)
    found = answer_batches(model, processor, rows, length_batches(rows, batch_size), settings, rate=False)
    mine = [one for batch in found for one in batch]
    return [answer for _, answer in sorted(gather_object(mine), key=lambda item: item[0])]
