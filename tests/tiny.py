"""Small random models, tokenizers and processors: everything that the tests need and no hub."""

from functools import lru_cache

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BatchFeature, PreTrainedTokenizerFast

from omnimol_hf import OmniMolConfig, OmniMolForCausalLM, OmniMolProcessor
from omnimol_hf.tasks import task_prompts

SPECIALS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]


@lru_cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Llama-3's special tokens (those that chats use) and almost no merges."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["The molecule is [C][C][O][=Branch1][Ring1]", "assistant user system"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=SPECIALS[0],
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def processor(**kwargs) -> OmniMolProcessor:
    return OmniMolProcessor(tokenizer(), task_prompts=task_prompts(), **kwargs)


def config(text: dict | None = None, **kwargs) -> OmniMolConfig:
    """Four layers, width 32; deltas without dropout, so that results are deterministic in training too."""
    tok = tokenizer()
    text_config = {
        "model_type": "llama",
        "vocab_size": len(tok),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        "pad_token_id": tok.pad_token_id,
        "tie_word_embeddings": True,
    } | (text or {})
    settings = {
        "graph_config": {"hidden_size": 12, "num_layers": 2},
        "graph_token_id": tok.convert_tokens_to_ids("<|reserved_special_token_0|>"),
        "expert_rank": 4,
        "expert_dropout": 0.0,
    }
    return OmniMolConfig(text_config=text_config, **(settings | kwargs))


def model(seed: int = 0, **kwargs) -> OmniMolForCausalLM:
    """A random model in eval mode whose experts differ: every parameter that starts at zero is moved."""
    torch.manual_seed(seed)
    made = OmniMolForCausalLM(config(**kwargs)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.rsplit(".", 1)[-1] in ("gate_B", "up_B", "down_B", "gamma_alpha", "gamma_beta"):
                parameter.normal_(std=0.3)
            elif parameter.ndim > 1 and "graph_encoder" not in name:
                parameter.mul_(4)  # the default start is so small that all tokens would look alike
    return made


def chat(text: str, *smiles: str, answer: str | None = None) -> list[dict]:
    """A chat of one question about any number of molecules, with its answer if there is one."""
    blocks = [{"type": "molecule", "smiles": one} for one in smiles]
    messages = [{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def prompts(*chats: list[dict], **kwargs) -> BatchFeature:
    """A left-padded batch for `generate`."""
    settings = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    return processor().apply_chat_template(list(chats), **(settings | kwargs))


def training_batch(*chats: list[dict], **kwargs) -> BatchFeature:
    """A right-padded batch with labels."""
    return prompts(*chats, add_generation_prompt=False, return_labels=True, **kwargs)
