"""Configuration of Omni-Mol: a Llama language model, a molecular graph encoder, and anchor-and-reconcile experts."""

# No `from __future__ import annotations` here: it would turn the fields' types into strings, which are never checked.
import math
from difflib import get_close_matches
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, LlamaConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

# What transformers itself may hand to a config besides its declared fields, or sets on one that is saved later
# (`Trainer` sets use_cache, quantizers set quantization_config, users copy the tokenizer's special tokens).
_TRANSFORMERS_KEYS = {
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "eos_token_id",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "pad_token_id",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}

_AUTO_MAP = {
    "AutoConfig": "configuration_omnimol.OmniMolConfig",
    "AutoModel": "modeling_omnimol.OmniMolForCausalLM",
    "AutoModelForCausalLM": "modeling_omnimol.OmniMolForCausalLM",
    "AutoProcessor": "processing_omnimol.OmniMolProcessor",
}

# Columns of a molecular graph: (atom, bond).
GRAPH_FEATURES = {"ogb9": (9, 3), "omnimol2": (2, 2)}

# The paper's text (Eq. 7, Section 4.1), and what the authors' released training script does.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"moe_layers": "from_quarter", "num_experts": 3, "num_experts_per_tok": 2},
    "released": {"moe_layers": "last_quarter", "num_experts": 5, "num_experts_per_tok": 2},
}

_LLAMA_3_2_1B = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    },
}


# What Llama configs on the hub say beside LlamaConfig's fields: transformers turns these into `rope_parameters`.
_OLD_ROPE_KEYS = {"rope_scaling", "rope_theta"}


def known_llama_keys() -> set[str]:
    """All keys that a Llama configuration may have; transformers keeps others, without effect."""
    return set(LlamaConfig.__dataclass_fields__) | _OLD_ROPE_KEYS | _TRANSFORMERS_KEYS


def _refuse_unknown_keys(name: str, given: dict[str, Any], known: set[str]) -> None:
    """Raise for a misspelt key: transformers alone would keep it as an attribute and say nothing."""
    for key in sorted(set(given) - known - _TRANSFORMERS_KEYS):
        near = get_close_matches(key, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; its keys are {sorted(known)}"
        raise ValueError(f"{name} has no key {key!r} (given as {given[key]!r}){hint}")


@strict
class OmniMolGraphConfig(PreTrainedConfig):
    """The graph isomorphism network (GIN) that turns a molecule into one vector an atom.

    Args:
        hidden_size: width of the atom vectors; MoleculeSTM's is 300.
        num_layers: message-passing layers; MoleculeSTM's is 5.
    """

    model_type = "omnimol_gin"
    base_config_key = "graph_config"

    hidden_size: int = 300
    num_layers: int = 5

    def __post_init__(self, **kwargs: Any) -> None:
        _refuse_unknown_keys("OmniMolGraphConfig", kwargs, set(self.__dataclass_fields__))
        super().__post_init__(**kwargs)

    def validate_graph_size(self) -> None:
        """Refuse widths and depths that are no network."""
        for key in ("hidden_size", "num_layers"):
            if getattr(self, key) < 1:
                raise ValueError(f"graph_config.{key} is {getattr(self, key)}; it must be at least 1")


@strict
class OmniMolConfig(PreTrainedConfig):
    """Everything that defines an Omni-Mol model. The defaults are the paper's, on Llama-3.2-1B.

    Args:
        text_config: any Llama configuration (or its dict); Llama-3.2-1B's geometry by default.
        graph_config: the graph encoder's.
        graph_token_id: the placeholder that stands for one atom; Llama-3's `<|reserved_special_token_0|>` is 128002.
        graph_features: columns of the molecular graphs: `"ogb9"` (9 atom, 3 bond; what MoleculeSTM was trained on)
            or `"omnimol2"` (2 and 2; what the authors' code feeds).
        graph_width: width of the atom vectors that the projector takes; None means the graph encoder's. Anything
            else than the graph encoder's width is refused.
        projector: `"linear"` (paper) or `"mlp"` (Linear, SiLU, Linear).
        multi_graph: whether the training data gave every molecule of a row its own graph tokens (paper: only one).
        moe_layers: which decoder layers hold experts: `"from_quarter"` = range(L // 4, L), as Eq. 7 is written;
            `"last_quarter"` = range(L - L // 4, L), as the authors' code does; or a list of 0-based indices.
        num_experts: N, the routed (reconcile) experts of a layer.
        num_experts_per_tok: how many of them a token goes to.
        anchor_expert: whether one more expert sees every token (Eq. 8's last term).
        norm_topk_prob: divide the chosen router probabilities by their sum.
        preserve_at_init: divide Eq. 8's output by 1 + the chosen probabilities' sum, so that experts which are all
            equal give exactly the dense FFN. Eq. 8 itself (False) is 1.5-1.8 times the dense FFN at the start.
        expert_training: `"lora"`: experts are low-rank deltas on one shared FFN; `"full"`: each expert is a whole FFN.
        expert_rank, expert_alpha, expert_dropout, gamma_p: of the deltas; gamma = alpha / rank**p + beta (3.4).
        gamma_range: keeps each gamma within this share of its start on either side; None: free.
        learn_gamma_p: whether p has a learnable offset too, as alpha and beta have.
        router_aux_loss_coef: lambda, the weight of the sequence-level balance loss (Section 3.5).
        output_router_logits: return the router logits of all MoE layers by default.
        loss_reduction: `"token_mean"`, or `"sum_per_sample"`: Eq. 4/9, the sum over tokens averaged over samples.
        tie_word_embeddings: whether the head is the token embeddings; None: as text_config says.

    Raises:
        ValueError (wrapped by `huggingface_hub`'s strict dataclass errors): for unknown keys, wrong types and
            impossible combinations; the message has the key, its value and what is allowed.
    """

    model_type = "omnimol"
    keys_to_ignore_at_inference = ["past_key_values", "router_logits", "aux_loss", "sequence_nll", "expert_load"]
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama", init_kwargs=_LLAMA_3_2_1B),
        "graph_config": SubConfigSpec(config_class=OmniMolGraphConfig),
    }

    text_config: dict | PreTrainedConfig | None = None
    graph_config: dict | PreTrainedConfig | None = None
    graph_token_id: int = 128002
    graph_features: Literal["ogb9", "omnimol2"] = "ogb9"
    graph_width: int | None = None
    projector: Literal["linear", "mlp"] = "linear"
    multi_graph: bool = False
    moe_layers: str | list[int] = "from_quarter"
    num_experts: int = 3
    num_experts_per_tok: int = 2
    anchor_expert: bool = True
    norm_topk_prob: bool = False
    preserve_at_init: bool = False
    expert_training: Literal["lora", "full"] = "lora"
    expert_rank: int = 64
    expert_alpha: float | int = 16.0
    expert_dropout: float | int = 0.05
    gamma_p: float | int = 0.5
    gamma_range: float | int | None = None
    learn_gamma_p: bool = False
    router_aux_loss_coef: float | int = 0.01
    output_router_logits: bool = False
    loss_reduction: Literal["token_mean", "sum_per_sample"] = "token_mean"
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        _refuse_unknown_keys("OmniMolConfig", kwargs, set(self.__dataclass_fields__))
        text = self.text_config.to_dict() if isinstance(self.text_config, PreTrainedConfig) else self.text_config
        if isinstance(text, dict) and text.get("model_type", "llama") == "llama":  # else the validation refuses it
            _refuse_unknown_keys("text_config", text, known_llama_keys())
        kwargs.setdefault("auto_map", dict(_AUTO_MAP))
        super().__post_init__(**kwargs)
        # Tying is read from the config of the class that owns the head, so it has to stand in both.
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = self.text_config.tie_word_embeddings
        self.text_config.tie_word_embeddings = self.tie_word_embeddings

    @property
    def moe_layer_indices(self) -> list[int]:
        """The 0-based decoder layers that hold experts, sorted."""
        layers = self.text_config.num_hidden_layers
        if isinstance(self.moe_layers, list):
            return sorted(self.moe_layers)
        return list(
            {"from_quarter": range(layers // 4, layers), "last_quarter": range(layers - layers // 4, layers)}[
                self.moe_layers
            ]
        )

    @property
    def experts_per_layer(self) -> int:
        """All experts of a MoE layer: the routed ones, and after them the anchor."""
        return self.num_experts + self.anchor_expert

    def validate_text_model(self) -> None:
        """The language model is Llama's architecture."""
        if self.text_config.model_type != "llama":
            raise ValueError(f"text_config.model_type is {self.text_config.model_type!r}; only 'llama' is supported")
        if not 0 <= self.graph_token_id < self.text_config.vocab_size:
            raise ValueError(
                f"graph_token_id is {self.graph_token_id}; it must be a token of the vocabulary, "
                f"0 to {self.text_config.vocab_size - 1}"
            )

    def validate_moe(self) -> None:
        """Placement, number and choice of experts fit one another."""
        layers = self.text_config.num_hidden_layers
        if isinstance(self.moe_layers, str):
            if self.moe_layers not in ("from_quarter", "last_quarter"):
                raise ValueError(
                    f"moe_layers is {self.moe_layers!r}; allowed: 'from_quarter', 'last_quarter' or a list of layers"
                )
        elif out := [layer for layer in self.moe_layers if not 0 <= layer < layers]:
            raise ValueError(f"moe_layers has {out}; the model's layers are 0 to {layers - 1}")
        elif len(set(self.moe_layers)) != len(self.moe_layers):
            raise ValueError(f"moe_layers names a layer twice: {self.moe_layers}")
        if self.num_experts < 1:
            raise ValueError(
                f"num_experts is {self.num_experts}; it must be at least 1 (moe_layers=[] is a dense model)"
            )
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok is {self.num_experts_per_tok}; it must be 1 to num_experts = {self.num_experts}"
            )

    def validate_deltas(self) -> None:
        """Rank, dropout and coefficients are numbers that make sense."""
        if self.expert_rank < 1:
            raise ValueError(f"expert_rank is {self.expert_rank}; it must be at least 1")
        if not 0 <= self.expert_dropout < 1:
            raise ValueError(f"expert_dropout is {self.expert_dropout}; it must be in [0, 1)")
        for key in ("gamma_p", "router_aux_loss_coef"):
            value = getattr(self, key)
            if value < 0 or not math.isfinite(value):
                raise ValueError(f"{key} is {value}; it must be a finite number that is not negative")
        for key in ("expert_alpha", "gamma_range"):
            value = getattr(self, key)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{key} is {value}; it must be a finite number above 0")

    def validate_projector(self) -> None:
        """The projector takes vectors as wide as the graph encoder gives."""
        if self.graph_width not in (None, self.graph_config.hidden_size):
            raise ValueError(
                f"graph_width is {self.graph_width}, but the graph encoder gives vectors of "
                f"graph_config.hidden_size = {self.graph_config.hidden_size}"
            )


__all__ = ["GRAPH_FEATURES", "PRESETS", "OmniMolConfig", "OmniMolGraphConfig", "known_llama_keys"]
