"""Adapters on an Omni-Mol model: which layers get one, and what trains beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from omnimol_hf.adapters.config import AdaptiveLoraConfig
from omnimol_hf.adapters.layer import GAMMA_PARAMETERS, AdaptiveLinear
from omnimol_hf.adapters.tokens import make_rows_cheap, trained_rows
from omnimol_hf.linear_omnimol import OmniMolLinear
from omnimol_hf.moe_omnimol import LowRankExperts

# Attention and feed-forward layers of the language model; experts when each is a whole network. Not the head, the
# router, the graph encoder, nor the network that the experts' deltas share: its deltas are the adapters.
TARGET_MODULES = (
    r"(.*\.)?language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(experts\.\d+\.)?(gate|up|down)_proj)"
)
_TRAINED_WHOLE = ("projector", "router", "experts")
_DELTAS = ".mlp.experts"


class AdaptiveLoraModel(LoraModel):
    """PEFT's LoRA tuner with `AdaptiveLinear` layers."""

    target_module_mapping = {**LoraModel.target_module_mapping, "omnimol": TARGET_MODULES}

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        super()._prepare_model(peft_config, model)
        if peft_config.modules_to_save is None and self.get_model_config(model).get("model_type") == "omnimol":
            peft_config.modules_to_save = trained_modules(model)

    @staticmethod
    def _create_new_module(
        lora_config: AdaptiveLoraConfig, adapter_name: str, target: nn.Module, **kwargs: Any
    ) -> AdaptiveLinear:
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if type(base) not in (nn.Linear, OmniMolLinear):  # quantised layers derive from it and could not be merged
            raise ValueError(
                f"adaptive LoRA adapts nn.Linear only, but {kwargs['target_name']} is {type(base).__name__}; leave it "
                "out of target_modules"
            )
        return AdaptiveLinear(target, adapter_name, config=lora_config, **kwargs)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        # PEFT calls this for each new adapter before its weights are loaded, which bf16 copies would round.
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        _keep_in_fp32(self.model, adapter_name)
        make_rows_cheap(self.model, adapter_name)
        config = self.peft_config[adapter_name]
        for deltas in adapted_deltas(self.model, adapter_name):
            deltas.dropout.p = config.lora_dropout
            gamma = {"alpha": config.lora_alpha, "p": config.gamma_p, "gamma_range": config.gamma_range}
            if deltas.gamma_settings != gamma | {"learn_p": config.learn_p}:
                deltas.restart_gamma(**gamma, learn_p=config.learn_p)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        for name, module in model.named_modules():
            if name.endswith(_DELTAS) and not isinstance(module, nn.ModuleList):
                gamma = module.gamma_settings
                model.config.expert_alpha, model.config.gamma_p = gamma["alpha"], gamma["p"]
                model.config.gamma_range, model.config.learn_gamma_p = gamma["gamma_range"], gamma["learn_p"]
                model.config.expert_dropout = module.dropout.p
        return model

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: PEFT would weigh the adapters by LoRA's scale and forget gamma."""
        raise ValueError("adaptive adapters cannot be combined as they are; export them as 'folded' and combine those")


def trained_modules(model: nn.Module) -> list[str]:
    """What an Omni-Mol model trains beside adapters: its projector, routers and stacked deltas, as far as it has them.

    Only these names, and never the block around them: a copy of the block would hold the frozen network too.
    """
    names = {
        name.rsplit(".", 1)[-1] for name, module in model.named_modules() if not isinstance(module, nn.ModuleList)
    }
    return [name for name in _TRAINED_WHOLE if name in names]


def _keep_in_fp32(model: nn.Module, adapter_name: str) -> None:
    """Cast the copies of `modules_to_save` that an adapter trains: in bf16 small steps would change nothing."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save:
            for parameter in module.modules_to_save[adapter_name].parameters():
                parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def adapted_deltas(model: nn.Module, adapter_name: str) -> Iterator[LowRankExperts]:
    """The stacked deltas that an adapter trains, layer by layer."""
    for name, module in model.named_modules():
        wrapped = name.endswith(_DELTAS) and isinstance(module, ModulesToSaveWrapper)
        if wrapped and adapter_name in module.modules_to_save:
            yield module.modules_to_save[adapter_name]


def add_adapters(
    model: PreTrainedModel, config: LoraConfig, adapter_name: str = "default", token_ids: Sequence[int] = ()
) -> PeftModel:
    """Make an Omni-Mol model ready for stage 2: adapters, experts' deltas, routers and projector train, in fp32.

    The settings of gamma (and the dropout) hold for the deltas too: their alpha, p, range and learnable p become the
    adapter's, while their rank stays the model's. Where that changes a gamma its matrix B takes up the difference, so
    that the model computes what it did. `merge_and_unload` writes the settings into the model's config.

    Args:
        model: an `OmniMolForCausalLM`; it is changed.
        config: an `AdaptiveLoraConfig`, or for an ablation a plain `LoraConfig`: then the gammas of the experts are
            frozen too, at LoRA's or rsLoRA's scale. Its `target_modules` and `modules_to_save` are filled in where
            they are None.
        adapter_name: the adapter's.
        token_ids: tokens whose embeddings, and rows of a head that is not tied to them, train and are saved with the
            adapter.

    Returns:
        The model in PEFT's wrapper. All else is frozen.

    Raises:
        ValueError: for a model of another type, and for a plain `LoraConfig` on a model with a `gamma_range`.
    """
    if model.config.model_type != "omnimol":
        raise ValueError(f"the model's type is {model.config.model_type!r}; expected 'omnimol'")
    plain = not isinstance(config, AdaptiveLoraConfig)
    if plain and model.config.gamma_range is not None:
        raise ValueError(
            f"the model's gamma_range is {model.config.gamma_range}; plain LoRA needs a model without one (None)"
        )
    if config.target_modules is None:
        config.target_modules = TARGET_MODULES
    if config.modules_to_save is None:
        config.modules_to_save = trained_modules(model)
    if token_ids:
        config.trainable_token_indices = trained_rows(model, token_ids)
    adapted = get_peft_model(model, config, adapter_name)
    _keep_in_fp32(adapted, adapter_name)
    make_rows_cheap(adapted, adapter_name)
    if plain:
        for deltas in adapted_deltas(adapted, adapter_name):
            deltas.dropout.p = config.lora_dropout
            # By way of beta: stock PEFT loads that, and the model's own alpha and p stay as its config says.
            scale = config.lora_alpha / deltas.rank ** (0.5 if config.use_rslora else 1)
            deltas.restart_gamma(**deltas.gamma_settings, gamma=scale)
            deltas.freeze_gamma()
    return adapted


def trainable_summary(model: PeftModel) -> dict[str, int]:
    """What trains: the part and its number of parameters, with `"frozen"` as the last entry."""
    counts: Counter[str] = Counter()
    frozen = 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[_part(name.split("."))] += parameter.numel()
        else:
            frozen += parameter.numel()
    return {**dict(sorted(counts.items())), "frozen": frozen}


def _part(path: list[str]) -> str:
    """The part of the model that a trained parameter belongs to."""
    if "modules_to_save" in path:
        return path[path.index("modules_to_save") - 1]
    if "token_adapter" in path:
        return "rows of " + path[path.index("token_adapter") - 1]
    if not any(piece.startswith("lora_") for piece in path):
        return path[-1]
    where = "attention" if "self_attn" in path else "expert" if "experts" in path else "feed-forward"
    return f"{where} {'gammas' if set(GAMMA_PARAMETERS) & set(path) else 'adapters'}"
