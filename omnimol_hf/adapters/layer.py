"""The adapted linear layer: LoRA whose scale has learnable parameters."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear, LoraVariant
from torch import Tensor, nn

from omnimol_hf.adapters.config import AdaptiveLoraConfig
from omnimol_hf.dropout_omnimol import OmniMolDropout
from omnimol_hf.linear_omnimol import linear
from omnimol_hf.moe_omnimol import adaptive_gamma

# A layer's offsets to alpha, beta and, when it is learnable, p. Their shape is (1,), for FSDP shards no scalars.
ALPHA, BETA, P = "lora_gamma_alpha", "lora_gamma_beta", "lora_gamma_p"
GAMMA_PARAMETERS = (ALPHA, BETA, P)


class AdaptiveVariant(LoraVariant):
    """What PEFT's linear LoRA layer does differently when its scale is gamma."""

    @staticmethod
    def init(module: AdaptiveLinear, adapter_name: str, config: AdaptiveLoraConfig, **kwargs: Any) -> None:
        """Give an adapter of the layer its gamma."""
        if "gamma_p" not in vars(module):  # PEFT calls this for the first adapter before __init__ is through
            module.gamma_p, module.gamma_range = {}, {}
            for name in GAMMA_PARAMETERS:
                setattr(module, name, nn.ParameterDict())
        module.gamma_p[adapter_name], module.gamma_range[adapter_name] = config.gamma_p, config.gamma_range
        if config.lora_dropout:
            module.lora_dropout[adapter_name] = OmniMolDropout(config.lora_dropout)
        weight = module.lora_A[adapter_name].weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        for name in GAMMA_PARAMETERS if config.learn_p else (ALPHA, BETA):
            getattr(module, name)[adapter_name] = nn.Parameter(torch.zeros(1, dtype=dtype, device=weight.device))

    @staticmethod
    def forward(module: AdaptiveLinear, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """Add gamma B A x `(..., out_features)` to the base layer's result."""
        low = linear(module.lora_dropout[active_adapter](x), module.lora_A[active_adapter].weight)
        b = module.lora_B[active_adapter].weight
        # B is scaled, in fp32, and not an activation: that is small, and in bf16, where 8 and 8.01 are one number, a
        # gamma between them still rounds some elements of B the other way.
        return linear(low, (b * module.gamma(active_adapter)).to(b.dtype), base=result)

    @staticmethod
    @torch.no_grad()
    def merge_safe(module: AdaptiveLinear, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The weight with the adapter in it, as a new tensor."""
        return (orig_weight + module.get_delta_weight(active_adapter)).to(orig_weight.dtype)

    @staticmethod
    @torch.no_grad()
    def merge_unsafe(module: AdaptiveLinear, active_adapter: str, orig_weight: Tensor) -> None:
        """Add the adapter to the weight in place."""
        orig_weight.data = AdaptiveVariant.merge_safe(module, active_adapter, orig_weight.data)

    @staticmethod
    @torch.no_grad()
    def unmerge(module: AdaptiveLinear, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The weight without the adapter, as a new tensor."""
        return (orig_weight.data - module.get_delta_weight(active_adapter)).to(orig_weight.dtype)


class AdaptiveLinear(Linear):
    """`nn.Linear` with adapters y = W x + gamma B A x (Section 3.4); see `AdaptiveLoraConfig`.

    A, B and the offsets in gamma are fp32 (or wider) whatever the base layer's dtype.
    """

    adapter_layer_names = (*Linear.adapter_layer_names, *GAMMA_PARAMETERS)  # trained, saved, moved and deleted alike
    other_param_names = (*Linear.other_param_names, "gamma_p", "gamma_range")

    @property
    def lora_variants(self) -> dict[tuple[str, ...], type[LoraVariant]]:
        """All adapters of this layer are adaptive, and PEFT refuses other variants on top."""
        return {(): AdaptiveVariant}

    def gamma(self, adapter: str) -> Tensor:
        """gamma `(1,)` of an adapter."""
        alpha, rank, p = self.lora_alpha[adapter], self.r[adapter], self.gamma_p[adapter]
        offsets = [getattr(self, name)[adapter] for name in GAMMA_PARAMETERS if adapter in getattr(self, name)]
        gamma = adaptive_gamma(alpha, rank, p, *offsets, gamma_range=self.gamma_range[adapter])
        return gamma * (self.scaling[adapter] / (alpha / rank))  # 1, unless PEFT's set_scale or scale_layer was used

    def get_delta_weight(self, adapter: str) -> Tensor:
        """gamma B A `(out_features, in_features)`."""
        return (self.lora_B[adapter].weight @ self.lora_A[adapter].weight) * self.gamma(adapter)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        # What PEFT moves new and loaded adapters to; by way of bf16 they would lose digits.
        device, dtype = super()._get_base_layer_device_and_dtype(base_layer)
        return device, torch.promote_types(dtype, torch.float32)
