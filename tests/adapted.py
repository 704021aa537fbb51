"""Adapted tiny models for tests, as after training."""

import torch
from peft import PeftModel
from torch import nn

from omnimol_hf import OmniMolForCausalLM
from omnimol_hf.adapters import AdaptiveLinear, AdaptiveLoraConfig, add_adapters
from tests import tiny

Q = "model.language_model.layers.2.self_attn.q_proj"
DENSE_DOWN = "model.language_model.layers.0.mlp.down_proj"  # layer 0 has no experts
EXPERT_UP = "model.language_model.layers.3.mlp.experts.1.up_proj"
DELTAS = "model.language_model.layers.3.mlp.experts"
LINEARS = {"attention": Q, "dense": DENSE_DOWN, "expert": EXPERT_UP}
PLACES = (*LINEARS, "deltas")
OFFSETS = ("alpha", "beta", "p")


def settings(**kwargs) -> AdaptiveLoraConfig:
    return AdaptiveLoraConfig(**({"r": 4, "lora_dropout": 0.0} | kwargs))


def only(place: str) -> dict:
    """What an adapter's config says to have it at one place: an adapted linear layer, or the experts' deltas.

    PEFT wants some layer to adapt beside the deltas; `move` leaves that one as it is."""
    if place == "deltas":
        return {"target_modules": [Q], "modules_to_save": ["experts"]}
    return {"target_modules": [LINEARS[place]], "modules_to_save": []}


def base(place: str, dtype: torch.dtype = torch.float32) -> OmniMolForCausalLM:
    """A new model, whose logits fp32 rounds by 4e-7 (those of `tiny.model()` by 3e-6)."""
    torch.manual_seed(0)
    return OmniMolForCausalLM(tiny.config(expert_training="full" if place == "expert" else "lora")).to(dtype).eval()


def at(place: str, offset: str, dtype: torch.dtype = torch.float32, seed: int = 7, **kwargs) -> PeftModel:
    """A model adapted at one place, as after training in which of gamma's parameters only one moved."""
    config = settings(learn_p=True, **only(place), **kwargs)
    return move_at(add_adapters(base(place, dtype), config), place, offset, seed).eval()


def move_at(model: PeftModel, place: str, offset: str, seed: int = 7) -> PeftModel:
    """Move A, B and one of gamma's offsets of the adapter at a place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_moved = f"gamma_{offset}" in name or "gamma" not in name
            if parameter.requires_grad and is_moved and (place != "deltas" or "modules_to_save" in name):
                size = 0.5 if "gamma" in name else 0.05
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def move(model: nn.Module, seed: int = 7, std: float = 0.05) -> nn.Module:
    """As after training: every trainable parameter is somewhere else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_((std * torch.randn(parameter.shape, generator=generator)).to(parameter))
    return model


def trained(**kwargs) -> PeftModel:
    return move(add_adapters(tiny.model(), settings(**kwargs))).eval()


def logits(model: nn.Module, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(**{k: v for k, v in batch.items() if k != "labels"}).logits


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()


def layer_of(model: PeftModel, name: str) -> AdaptiveLinear:
    return model.get_base_model().get_submodule(name)
