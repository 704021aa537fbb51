"""Configuration of Omni-Mol: a Llama language model, a molecular graph encoder, and anchor-and-reconcile experts."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


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


__all__ = ["OmniMolGraphConfig"]
