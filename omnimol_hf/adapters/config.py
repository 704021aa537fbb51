"""The settings of adaptive LoRA."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from peft import LoraConfig


class AdaptivePeftType(str, enum.Enum):  # noqa: UP042 (a str and Enum, as peft.PeftType, so that both look up alike)
    """The type that a saved adapter names in `adapter_config.json`."""

    ADAPTIVE_LORA = "ADAPTIVE_LORA"


@dataclass
class AdaptiveLoraConfig(LoraConfig):
    """LoRA whose scale is gamma = (alpha + a) / r**p + b with learnable a and b (and p) in each adapted layer.

    a and b are fp32 and start at 0: with p = 1 the start is LoRA's, with p = 0.5 rsLoRA's. What is left None of
    `target_modules` and `modules_to_save` is chosen to fit an Omni-Mol model. Its experts' deltas follow the same
    alpha, dropout, p and range, while their rank is the model's `expert_rank`.

    Args:
        r, lora_alpha, lora_dropout, task_type: as in `LoraConfig`, with the paper's values (Table 4) as defaults.
        gamma_p: p, or its start.
        learn_p: whether p is learnable too.
        gamma_range: keeps gamma within this share of its start on either side; None: free, as in the paper. The
            authors' code comes to about 0.07. Beyond the range no gradient moves gamma.

    Raises:
        ValueError: for values that are no scale, and for variants of LoRA that have a scale of their own.
    """

    r: int = field(default=64, metadata={"help": "Rank of the adapters."})
    lora_alpha: float = field(default=16, metadata={"help": "alpha in gamma = (alpha + a) / r**p + b."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout before A."})
    task_type: str | None = field(default="CAUSAL_LM", metadata={"help": "The type of task."})
    gamma_p: float = field(default=0.5, metadata={"help": "p in gamma: 1 starts as LoRA, 0.5 as rsLoRA."})
    learn_p: bool = field(default=False, metadata={"help": "Whether p is learnable too."})
    gamma_range: float | None = field(
        default=None, metadata={"help": "Share of its start by which gamma may move, such as 0.07; None: any."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = AdaptivePeftType.ADAPTIVE_LORA
        for alpha in (self.lora_alpha, *self.alpha_pattern.values()):
            if not (alpha > 0 and math.isfinite(alpha)):
                raise ValueError(f"lora_alpha is {alpha}; it must be a number above 0")
        if not (self.gamma_p >= 0 and math.isfinite(self.gamma_p)):
            raise ValueError(f"gamma_p is {self.gamma_p}; it must be a finite number that is not negative")
        if self.gamma_range is not None and not (self.gamma_range > 0 and math.isfinite(self.gamma_range)):
            raise ValueError(f"gamma_range is {self.gamma_range}; it must be a number above 0, or None for no limit")
        if self.use_rslora:
            raise ValueError("use_rslora=True: the scale is gamma here, and gamma_p=0.5 starts it as rsLoRA's")
        if self.init_lora_weights not in (True, False, "gaussian", "orthogonal"):
            raise ValueError(
                f"init_lora_weights is {self.init_lora_weights!r}, which counts on LoRA's own scale; allowed: True, "
                "False, 'gaussian', 'orthogonal'"
            )
        for key in ("lora_bias", "target_parameters", "layer_replication"):
            if getattr(self, key):
                raise ValueError(f"{key} is {getattr(self, key)!r}; adaptive LoRA has no such option")
