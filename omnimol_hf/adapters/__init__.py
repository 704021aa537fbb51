"""Adaptive gradient stabilisation (the paper's Section 3.4) as a PEFT method.

    from omnimol_hf.adapters import AdaptiveLoraConfig, add_adapters, trainable_summary
    model = add_adapters(model, AdaptiveLoraConfig())        # or peft.get_peft_model
    model.save_pretrained(DIR)                               # to go on training from; peft.PeftModel loads it

    python -m omnimol_hf.adapters export --adapter DIR --to folded|merged|full-experts --out DIR

- Importing this package makes the method known to PEFT under the type `ADAPTIVE_LORA`. PEFT without it refuses such an
  adapter, for it would drop gamma and compute something else; what is published is the export `folded`, a stock LoRA.
- Attention and dense feed-forward networks carry adapters. The experts' deltas are the model's own parameters with the
  same gamma; they, the router and the projector train as they are and are saved with the adapter, in fp32.
"""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from omnimol_hf.adapters.config import AdaptiveLoraConfig, AdaptivePeftType
from omnimol_hf.adapters.layer import AdaptiveLinear
from omnimol_hf.adapters.model import TARGET_MODULES, AdaptiveLoraModel, add_adapters, trainable_summary

# The tables that peft.register_peft_method fills; itself it only takes names that PEFT's own enumeration has.
PEFT_TYPE_TO_CONFIG_MAPPING[AdaptivePeftType.ADAPTIVE_LORA] = AdaptiveLoraConfig
PEFT_TYPE_TO_TUNER_MAPPING[AdaptivePeftType.ADAPTIVE_LORA] = AdaptiveLoraModel
PEFT_TYPE_TO_PREFIX_MAPPING[AdaptivePeftType.ADAPTIVE_LORA] = AdaptiveLoraModel.prefix

__all__ = [
    "TARGET_MODULES",
    "AdaptiveLinear",
    "AdaptiveLoraConfig",
    "AdaptiveLoraModel",
    "add_adapters",
    "trainable_summary",
]
