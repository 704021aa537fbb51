"""Omni-Mol: a Llama language model that reads molecules as one graph token an atom.

- `OmniMolForCausalLM` is what `AutoModel` and `AutoModelForCausalLM` give: it generates.
- Attention, positions, cache and masks are Llama's own; only the feed-forward blocks of the MoE layers differ.
- Logits and loss are computed at labelled positions only; while training the other logits never exist.
- The balance loss is right under padding, gradient accumulation and several processes.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from .configuration_omnimol import GRAPH_FEATURES, OmniMolConfig
from .graph_encoder_omnimol import OmniMolGraphEncoder
from .linear_omnimol import OmniMolLinear, use_fast_linear
from .moe_omnimol import AnchorReconcileMoE, LowRankExperts, OmniMolRouter, sequence_balance_loss
from .packing_omnimol import label_positions, next_labels, sequence_numbers

GRAPH_INPUTS = ("atom_features", "bond_index", "bond_features", "atom_index")


@dataclass
class OmniMolModelOutput(ModelOutput):
    """Output of `OmniMolModel`.

    Args:
        last_hidden_state: `(batch, length, hidden)`.
        past_key_values: the key-value cache, when it is used.
        hidden_states: per layer `(batch, length, hidden)`, when asked for.
        attentions: per layer `(batch, heads, length, length)`, when asked for.
        router_logits: per MoE layer `(batch, length, num_experts)` fp32, when asked for.
    """

    last_hidden_state: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    router_logits: tuple[Tensor, ...] | None = None


@dataclass
class OmniMolCausalLMOutput(ModelOutput):
    """Output of `OmniMolForCausalLM`.

    Args:
        loss: language-modelling loss plus `router_aux_loss_coef` times the balance loss, when labels are given.
        logits: `(batch, kept length, vocabulary)`; None in training with labels, where only the loss is needed.
        aux_loss: the balance loss before its coefficient, when labels are given.
        sequence_nll: `(batch,)` fp32, each sequence's negative log-likelihood in nats, summed over its labelled
            tokens, when labels are given. The loss is made from it, so it carries gradients.
        expert_load: `(MoE layers, batch, num_experts)` fp32, the share of each sequence's routed choices that each
            expert got, without gradients; when there is a balance loss.
        past_key_values, hidden_states, attentions, router_logits: as in `OmniMolModelOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    aux_loss: Tensor | None = None
    sequence_nll: Tensor | None = None
    expert_load: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    router_logits: tuple[Tensor, ...] | None = None


class OmniMolLastLayer(LlamaDecoderLayer):
    """Llama's layer, which spares its feed-forward block the positions that nobody asks for."""

    def forward(self, hidden_states: Tensor, kept: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Map `(batch, length, hidden)` to the same shape, or to `(n, hidden)` of the n positions `kept`."""
        if kept is None:
            return super().forward(hidden_states, **kwargs)
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        normed = self.post_attention_layernorm(hidden_states)
        residual = hidden_states.flatten(0, 1).index_select(0, kept)
        if isinstance(self.mlp, AnchorReconcileMoE):  # the balance loss is about all tokens
            return residual + self.mlp(normed, kept)
        return residual + self.mlp(normed.flatten(0, 1).index_select(0, kept))


class OmniMolTextModel(LlamaModel):
    """Llama's decoder with an anchor-and-reconcile MoE in the layers `config.moe_layer_indices`."""

    _can_record_outputs = {
        "hidden_states": LlamaDecoderLayer,
        "attentions": LlamaAttention,
        "router_logits": OutputRecorder(OmniMolRouter, index=0),
    }
    _keep_in_fp32_modules_strict = ["router", "gamma_alpha", "gamma_beta", "gamma_p"]

    def __init__(self, config: OmniMolConfig) -> None:
        super().__init__(config.text_config)
        for index in config.moe_layer_indices:
            self.layers[index].mlp = AnchorReconcileMoE(config)
        self.layers[-1].__class__ = OmniMolLastLayer
        use_fast_linear(self)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OmniMolRouter | LowRankExperts):
            module.reset_parameters()


class OmniMolPreTrainedModel(PreTrainedModel):
    """What transformers has to know of all Omni-Mol models."""

    config: OmniMolConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer", "OmniMolLastLayer", "OmniMolGraphEncoder"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["graph_encoder"]


def _cast_input(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0].to(next(module.parameters()).dtype),)


def build_projector(config: OmniMolConfig) -> nn.Module:
    """The map from atom vectors to the language model's embeddings: linear (paper) or Linear, SiLU, Linear."""
    graph_width, hidden = config.graph_config.hidden_size, config.text_config.hidden_size
    if config.projector == "linear":
        projector = nn.Linear(graph_width, hidden)
    else:
        projector = nn.Sequential(nn.Linear(graph_width, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
    # Atom vectors are fp32. Only the module itself knows its dtype: an adapter may put an fp32 copy in its place.
    projector.register_forward_pre_hook(_cast_input)
    return projector


class OmniMolModel(OmniMolPreTrainedModel):
    """Graph encoder, projector and language model, without the head."""

    def __init__(self, config: OmniMolConfig) -> None:
        config.validate()  # as a whole: keys may have been set one by one since it was made
        super().__init__(config)
        self.graph_encoder = OmniMolGraphEncoder(config.graph_config)
        self.projector = build_projector(config)
        self.language_model = OmniMolTextModel(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embeddings."""
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embeddings."""
        self.language_model.embed_tokens = value

    def get_graph_features(
        self, atom_features: Tensor, bond_index: Tensor, bond_features: Tensor, atom_index: Tensor | None = None
    ) -> Tensor:
        """Encode and project all molecules of a batch in one call.

        Args:
            atom_features: `(atoms, 9 or 2)` int64, all molecules one after the other.
            bond_index: `(2, bonds)` int64, atom numbers over the whole batch, each bond in both directions.
            bond_features: `(bonds, 3 or 2)` int64.
            atom_index: `(placeholders,)` int64, which atom each placeholder stands for; None: each one in turn.

        Returns:
            `(placeholders, hidden)` in the projector's dtype.
        """
        columns, _ = GRAPH_FEATURES[self.config.graph_features]
        if atom_features.shape[-1] != columns:
            raise ValueError(
                f"the model was built for graph_features={self.config.graph_features!r}, {columns} columns an atom, "
                f"but atom_features has {atom_features.shape[-1]}: give the processor the same graph_features"
            )
        atoms = self.graph_encoder(atom_features, bond_index, bond_features)
        projected = self.projector(atoms)
        return projected if atom_index is None else projected[atom_index]

    def embed(
        self,
        input_ids: Tensor,
        atom_features: Tensor | None,
        bond_index: Tensor | None,
        bond_features: Tensor | None,
        atom_index: Tensor | None,
    ) -> Tensor:
        """Token embeddings `(batch, length, hidden)` with the placeholders' replaced by graph tokens."""
        embeddings = self.get_input_embeddings()(input_ids)
        if atom_features is None:
            # One token at a time is decoding, which never feeds a placeholder: spare it the look.
            if not self.training and (input_ids.shape[1] == 1 or not (input_ids == self.config.graph_token_id).any()):
                return embeddings
            # A batch without molecules must still reach the projector, or ranks would wait for its gradient.
            atom_columns, bond_columns = GRAPH_FEATURES[self.config.graph_features]
            atom_features = input_ids.new_empty(0, atom_columns)
            bond_index, bond_features = input_ids.new_empty(2, 0), input_ids.new_empty(0, bond_columns)
        graph = self.get_graph_features(atom_features, bond_index, bond_features, atom_index)
        placeholders = input_ids == self.config.graph_token_id
        self._check_atoms(placeholders, graph.shape[0])
        return embeddings.masked_scatter(placeholders.unsqueeze(-1), graph.to(embeddings.dtype))

    def _check_atoms(self, placeholders: Tensor, atoms: int) -> None:
        wrong = "in the molecules; truncated or hand-made input? Let the processor build both"
        if self.training and not placeholders.is_cpu:  # nothing in a training step may wait for the device
            message = f"graph tokens and atoms do not match: not {atoms} placeholders in input_ids, but {atoms} atoms "
            torch._assert_async(placeholders.sum() == atoms, message + wrong)
        elif (count := int(placeholders.sum())) != atoms:
            raise ValueError(
                f"graph tokens and atoms do not match: {count} placeholders in input_ids, {atoms} atoms {wrong}"
            )

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        atom_features: Tensor | None = None,
        bond_index: Tensor | None = None,
        bond_features: Tensor | None = None,
        atom_index: Tensor | None = None,
        **kwargs: Any,
    ) -> OmniMolModelOutput:
        """Run the model without its head; the arguments are those of `OmniMolForCausalLM.forward`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids, atom_features, bond_index, bond_features, atom_index)
        elif atom_features is not None:
            raise ValueError("molecules need input_ids: inputs_embeds do not tell where the placeholders are")
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        return OmniMolModelOutput(**outputs)


class OmniMolForCausalLM(OmniMolPreTrainedModel, GenerationMixin):
    """Omni-Mol with its language-modelling head: trains, scores and generates."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: OmniMolConfig) -> None:
        super().__init__(config)
        self.model = OmniMolModel(config)
        self.lm_head = OmniMolLinear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        atom_features: Tensor | None = None,
        bond_index: Tensor | None = None,
        bond_features: Tensor | None = None,
        atom_index: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        output_router_logits: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        sequence_weights: Tensor | None = None,
        label_index: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        **kwargs: Any,
    ) -> OmniMolCausalLMOutput:
        """Logits, and the loss when labels are given.

        Args:
            input_ids: `(batch, length)` with one `graph_token_id` for each atom; or `inputs_embeds` without molecules.
            attention_mask: `(batch, length)`, 0 for padding on either side.
            labels: `(batch, length)`, -100 where nothing is to be learnt; shifted inside.
            atom_features, bond_index, bond_features, atom_index: see `OmniMolModel.get_graph_features`; atoms in the
                row-major order of their placeholders.
            logits_to_keep: how many last positions get logits (0: all), or their indices. Ignored when there are
                labels: then there are none in training and all in evaluation.
            output_router_logits: return the router's logits; None: as the config says.
            num_items_in_batch: what the loss is divided by: the labelled tokens (`loss_reduction="token_mean"`) or
                the sequences (`"sum_per_sample"`) of the whole optimiser step, over micro-batches and processes.
                None: those of this call.
            sequence_weights: `(batch,)` float, how much each sequence's negative log-likelihood counts in the loss;
                None: 1. The balance loss is not weighted by it.
            label_index: `(labelled,)` int64, the positions in `batch * length` that predict a label, where the caller
                has them on the host (`label_positions`); None: they are looked up, for which a GPU's queue runs empty.
            cu_seq_lens_q: `(sequences + 1,)` int32, where the sequences that are packed into one row begin and end,
                from 0 to `length`. Then `batch` is 1 and there is no `attention_mask`, `position_ids` begin anew with
                each sequence, and what comes back for each sequence does so for each of these. An attention
                implementation keeps them apart by the `position_ids`; "flash_attention_2" also wants
                `cu_seq_lens_k`, `max_length_q` and `max_length_k`, as `omnimol_hf.packing` makes them all.
        """
        if use_cache is None and labels is not None:
            use_cache = False
        if output_router_logits is None:
            output_router_logits = self.config.output_router_logits
        balance = labels is not None and self.config.router_aux_loss_coef > 0 and bool(self.config.moe_layer_indices)
        if labels is not None:
            if label_index is None:
                label_index = label_positions(labels, cu_seq_lens_q)
            if self.training and not kwargs.get("output_hidden_states", self.config.output_hidden_states):
                kwargs["kept"] = label_index
        if cu_seq_lens_q is not None:
            kwargs["cu_seq_lens_q"] = cu_seq_lens_q
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            atom_features=atom_features,
            bond_index=bond_index,
            bond_features=bond_features,
            atom_index=atom_index,
            output_router_logits=output_router_logits or balance,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        logits, losses = None, {}
        if labels is None:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_states[:, kept])
        else:
            if not self.training:
                logits = self.lm_head(hidden_states)
            if "kept" not in kwargs:
                hidden_states = hidden_states.flatten(0, 1).index_select(0, label_index)
            owner, count = label_index // labels.shape[1], len(labels)
            if cu_seq_lens_q is not None:
                owner, count = sequence_numbers(cu_seq_lens_q, labels.shape[1])[label_index], len(cu_seq_lens_q) - 1
            targets = next_labels(labels, cu_seq_lens_q).flatten()[label_index]
            balance_losses = None
            if balance:
                balance_losses = sequence_balance_loss(
                    outputs.router_logits, self.config.num_experts_per_tok, attention_mask, cu_seq_lens_q
                )
            nll = self._nll(hidden_states, targets)
            losses = self._losses(nll, owner, count, balance_losses, num_items_in_batch, sequence_weights)
        return OmniMolCausalLMOutput(
            **losses,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits if output_router_logits else None,
        )

    def _nll(self, hidden_states: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood in nats `(n,)`, in fp32 or wider, of targets `(n,)` after states `(n, hidden)`."""
        return F.cross_entropy(self.lm_head(hidden_states).float(), targets, reduction="none")

    def _losses(
        self,
        nll: Tensor,
        owner: Tensor,
        count: int,
        balance: tuple[Tensor, Tensor] | None,
        num_items: Tensor | int | None,
        sequence_weights: Tensor | None,
    ) -> dict[str, Tensor]:
        """`loss` and `aux_loss`, both divided by `num_items`, with the `sequence_nll` and `expert_load` behind them.

        Sequence i enters the balance loss with weight n_i: its labelled tokens, or 1 for `"sum_per_sample"`. So the
        sum over micro-batches and processes is exactly the loss of the whole batch.

        Args:
            nll, owner: of each label `(labelled,)`, and the number of its sequence.
            count: sequences.
            balance: what `sequence_balance_loss` gives.
        """
        sequence_nll = nll.new_zeros(count).index_add(0, owner, nll)
        weight = owner.new_ones(count)
        if self.config.loss_reduction == "token_mean":
            weight = owner.new_zeros(count).index_add(0, owner, torch.ones_like(owner))
        if num_items is None:
            num_items = weight.sum().clamp(min=1)
        total = sequence_nll if sequence_weights is None else sequence_nll * sequence_weights
        losses = {"loss": total.sum() / num_items, "sequence_nll": sequence_nll}
        if balance is None:
            return losses
        per_sequence, losses["expert_load"] = balance
        aux_loss = (weight.to(per_sequence.device) * per_sequence).sum().to(nll.device) / num_items
        return losses | {"loss": losses["loss"] + self.config.router_aux_loss_coef * aux_loss, "aux_loss": aux_loss}

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, is_first_iteration: bool | None = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Hand the molecules to the model once: with a cache they are in it after the first step."""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in GRAPH_INPUTS:
                inputs.pop(name, None)
        return inputs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Repeat each row for beams or several samples; molecules stay as they are, encoded once."""
        graphs = {name: kwargs.pop(name) for name in GRAPH_INPUTS if kwargs.get(name) is not None}
        if graphs and expand_size > 1:
            atoms = graphs.get("atom_index", torch.arange(len(graphs["atom_features"]), device=input_ids.device))
            rows = atoms.split((input_ids == self.config.graph_token_id).sum(1).tolist())
            graphs["atom_index"] = torch.cat([row for row in rows for _ in range(expand_size)])
        input_ids, kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **kwargs
        )
        return input_ids, {**kwargs, **graphs}


__all__ = ["OmniMolForCausalLM", "OmniMolModel", "OmniMolPreTrainedModel", "OmniMolTextModel"]
