"""Omni-Mol for the Hugging Face stack.

Importing this package registers the model, its configuration and its processor with the `Auto` classes, so that
checkpoints load without `trust_remote_code=True`; saving puts the modelling code beside the weights, so that they load
with it where this package is not installed.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

from omnimol_hf.configuration_omnimol import PRESETS, OmniMolConfig, OmniMolGraphConfig
from omnimol_hf.graph_encoder_omnimol import OmniMolGraphEncoder
from omnimol_hf.modeling_omnimol import OmniMolForCausalLM, OmniMolModel
from omnimol_hf.processing_omnimol import OmniMolProcessor

AutoConfig.register("omnimol", OmniMolConfig)
AutoModel.register(OmniMolConfig, OmniMolForCausalLM)
AutoModelForCausalLM.register(OmniMolConfig, OmniMolForCausalLM)
AutoProcessor.register(OmniMolConfig, OmniMolProcessor)

# What makes save_pretrained copy the files of these classes into the checkpoint.
OmniMolConfig.register_for_auto_class()
OmniMolForCausalLM.register_for_auto_class("AutoModelForCausalLM")
OmniMolProcessor.register_for_auto_class()

__version__ = "0.1.0"
__all__ = [
    "PRESETS",
    "OmniMolConfig",
    "OmniMolForCausalLM",
    "OmniMolGraphConfig",
    "OmniMolGraphEncoder",
    "OmniMolModel",
    "OmniMolProcessor",
]
