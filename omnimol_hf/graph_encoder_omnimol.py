"""The frozen molecular graph encoder: MoleculeSTM's graph isomorphism network (GIN) in plain torch.

- One call encodes all molecules of a batch, as one graph of separate components; there is one vector an atom. On a CPU
  atoms that no network of this kind can tell apart are encoded once.
- Nothing in it is trained: its weights are buffers, so no optimizer, gradient or weight-decay rule ever sees them,
  and DeepSpeed, which casts parameters only, leaves them alone.
- It stays in fp32 and in eval mode whatever the surrounding model is told, so BatchNorm's statistics never move.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_omnimol import GRAPH_FEATURES, OmniMolGraphConfig

ATOM_VOCABULARY = (119, 4, 12, 12, 10, 6, 6, 2, 2)
BOND_VOCABULARY = (5, 6, 2)
"""Sizes of OGB 1.2.0's atom and bond features, column by column."""


class OmniMolAtomEncoder(nn.Module):
    """Sum of one embedding an atom feature; fewer columns use the first tables."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.atom_embedding_list = nn.ModuleList(nn.Embedding(size, width) for size in ATOM_VOCABULARY)

    def forward(self, features: Tensor) -> Tensor:
        return _embedding_sum(self.atom_embedding_list, features)


class OmniMolBondEncoder(nn.Module):
    """Sum of one embedding a bond feature; fewer columns use the first tables."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bond_embedding_list = nn.ModuleList(nn.Embedding(size, width) for size in BOND_VOCABULARY)

    def forward(self, features: Tensor) -> Tensor:
        return _embedding_sum(self.bond_embedding_list, features)


class OmniMolGINLayer(nn.Module):
    """One message-passing layer: `mlp((1 + eps) x_i + sum_j relu(x_j + e_ji))` over the bonds j -> i."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.BatchNorm1d(2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width)
        )
        self.bond_encoder = OmniMolBondEncoder(width)

    def forward(self, atoms: Tensor, bond_index: Tensor, bond_features: Tensor) -> Tensor:
        source, target = bond_index
        # In place, for there are no gradients here and fresh memory takes longer than the sums.
        messages = self.bond_encoder(bond_features).add_(atoms.index_select(0, source)).relu_()  # (E, width)
        return self.mlp(((1 + self.eps) * atoms).index_add_(0, target, messages))


class OmniMolGraphEncoder(PreTrainedModel):
    """The GIN of MoleculeSTM, up to its atom vectors (no pooling); see the module's text for what keeps it frozen.

    The names in its state dict are those of MoleculeSTM's published weights (`load_moleculestm`).
    """

    config_class = OmniMolGraphConfig
    main_input_name = "atom_features"
    _no_split_modules = ["OmniMolGINLayer"]
    # It has no attention, so whichever the surrounding model is set to does not concern it.
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: OmniMolGraphConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.atom_encoder = OmniMolAtomEncoder(width)
        self.gnns = nn.ModuleList(OmniMolGINLayer(width) for _ in range(config.num_layers))
        self.batch_norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(config.num_layers))
        for module in self.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
        self.float()  # the default dtype, in which the layers were made, is the surrounding model's
        self.post_init()
        self.eval()

    # transformers reads these off the parameters, of which there are none.
    @property
    def device(self) -> torch.device:
        return self.gnns[0].eps.device

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @torch.no_grad()
    def forward(self, atom_features: Tensor, bond_index: Tensor, bond_features: Tensor) -> Tensor:
        """Encodes N atoms and E directed bonds of any number of molecules (also none).

        On a CPU, atoms that are alike, of equal molecules or within one, are encoded once.

        Args:
            atom_features: `(N, 9 | 2)` int64, as `molecule_graph` gives them.
            bond_index: `(2, E)` int64, source and target of each directed bond, counted over the whole batch.
            bond_features: `(E, 3 | 2)` int64.

        Returns:
            `(N, hidden_size)` float32.

        Raises:
            ValueError: a tensor of another shape or dtype; on a CPU also a bond to an atom that is not there.
        """
        _check_inputs(atom_features, bond_index, bond_features)
        if atom_features.device.type != "cpu":
            return self.message_passing(atom_features, bond_index, bond_features)
        # On a GPU what follows would take longer than it saves, and would have to wait for the host.
        if bond_index.numel() and not 0 <= bond_index.min() <= bond_index.max() < len(atom_features):
            raise ValueError(
                f"bond_index names atoms {bond_index.min()} to {bond_index.max()}; there are {len(atom_features)}"
            )
        distinct, of_atom = distinct_atoms(*(part.numpy() for part in (atom_features, bond_index, bond_features)))
        bonds = torch.isin(bond_index[1], distinct)
        atoms = self.message_passing(atom_features[distinct], of_atom[bond_index[:, bonds]], bond_features[bonds])
        return atoms.index_select(0, of_atom)

    @torch.no_grad()
    def message_passing(self, atom_features: Tensor, bond_index: Tensor, bond_features: Tensor) -> Tensor:
        """The same, without looking for atoms that are alike."""
        with torch.autocast(atom_features.device.type, enabled=False):
            atoms = self.atom_encoder(atom_features)
            last = len(self.gnns) - 1
            for depth, (gnn, norm) in enumerate(zip(self.gnns, self.batch_norms, strict=True)):
                atoms = norm(gnn(atoms, bond_index, bond_features))
                if depth < last:
                    atoms = atoms.relu_()
        return atoms

    def train(self, mode: bool = True) -> OmniMolGraphEncoder:
        """Stays in eval mode: batch statistics must not replace or move the stored ones."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OmniMolGraphEncoder:
        """Follows `.to(...)` to another device but not to another float dtype."""

        def keep_fp32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if not moved.is_floating_point() or moved.dtype == torch.float32:
                return moved
            return tensor.to(moved.device, torch.float32)  # not moved.float(), which has lost bits already

        return super()._apply(keep_fp32, recurse)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Random weights that leave atom vectors informative and of unit scale, for training without MoleculeSTM."""
        if isinstance(module, nn.Embedding):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Linear):
            # Rows that sum to zero: otherwise the mean of the ReLUs before grows from layer to layer until all atoms
            # look alike. 1.1 keeps the output's scale near 1 for drug-like molecules.
            init.normal_(module.weight, std=1.1 / module.in_features**0.5)
            init.copy_(module.weight, module.weight - module.weight.mean(1, keepdim=True))
            init.zeros_(module.bias)
        elif isinstance(module, OmniMolGINLayer):
            init.zeros_(module.eps)
        else:
            super()._init_weights(module)  # BatchNorm's


def load_moleculestm(path: str | Path, config: OmniMolGraphConfig | None = None) -> OmniMolGraphEncoder:
    """Loads the graph encoder from MoleculeSTM's published `molecule_model.pth`, or a file of the same layout.

    The prefix `molecule_node_model.` is optional; `graph_pred_linear.*`, which only the pooled output needs, is
    ignored. The file is read with `weights_only=True`: a pickle that holds code is refused, not run.

    Raises:
        ValueError: not a file of tensors, tensors missing or left over, or of another width or depth than `config`.
    """
    encoder = OmniMolGraphEncoder(OmniMolGraphConfig() if config is None else config)
    try:
        published = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, IndexError) as error:
        raise ValueError(f"{path} is not a PyTorch file of plain tensors: {error}") from error
    if not isinstance(published, dict) or not all(isinstance(value, Tensor) for value in published.values()):
        raise ValueError(f"{path} is not a state dict: expected names and tensors, as MoleculeSTM publishes them")
    state = {
        name.removeprefix("molecule_node_model."): value
        for name, value in published.items()
        if not name.startswith("graph_pred_linear.")
    }
    expected = encoder.state_dict()
    _check_size(state, encoder.config, path)
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unexpected:
        raise ValueError(f"{path} is not MoleculeSTM's graph encoder: missing {missing}, unexpected {unexpected}")
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise ValueError(f"{path}: {name} is {tuple(value.shape)}, expected {tuple(expected[name].shape)}")
    encoder.load_state_dict(state)
    return encoder


def _check_size(state: dict[str, Tensor], config: OmniMolGraphConfig, path: str | Path) -> None:
    """Width and depth first: they say in one line what a list of keys and shapes would hide."""
    table = state.get("atom_encoder.atom_embedding_list.0.weight")
    if table is not None and table.shape[-1] != config.hidden_size:
        raise ValueError(f"{path} has width {table.shape[-1]}, but the config's hidden_size is {config.hidden_size}")
    depth = len({name.split(".")[1] for name in state if name.startswith("gnns.")})
    if depth and depth != config.num_layers:
        raise ValueError(f"{path} has {depth} layers, but the config's num_layers is {config.num_layers}")


def distinct_atoms(
    atom_features: np.ndarray, bond_index: np.ndarray, bond_features: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Atoms with other surroundings, in whatever molecules they are: all others are encoded as one of these.

    Colour refinement (Weisfeiler and Leman): atoms of one colour stay so as long as they have the same features and
    bonds of the same kinds to atoms of the same colours; as soon as no colour is split any more, all atoms of one
    colour have the same vectors after any number of message-passing layers. Colours are 64-bit hashes.

    Args:
        atom_features, bond_index, bond_features: see `OmniMolGraphEncoder.forward`.

    Returns:
        The first atom of each colour, `(colours,)`; and for each atom which of those it is like, `(N,)`; both int64.
    """
    source, target = bond_index
    colours, kinds = _hashed(atom_features), _hashed(bond_features)
    count = -1
    while True:
        _, first, of_atom = np.unique(colours, return_index=True, return_inverse=True)
        if len(first) == count:
            return torch.from_numpy(first), torch.from_numpy(of_atom)
        count = len(first)
        around = np.zeros_like(colours)
        np.add.at(around, target, _mixed(colours[source] + kinds))
        colours = _mixed(colours * _ODD + around)


_ODD = np.uint64(0x9E3779B97F4A7C15)


def _hashed(features: np.ndarray) -> np.ndarray:
    """A number `(N,)` uint64 for each row, of whatever numbers: those that no table has are refused later."""
    factors = _ODD ** np.arange(1, features.shape[1] + 1, dtype=np.uint64)
    return _mixed(features.astype(np.uint64) @ factors)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Numbers whose bits all depend on all bits (the finaliser of SplitMix64); overflow is meant."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _embedding_sum(tables: nn.ModuleList, features: Tensor) -> Tensor:
    total, *others = (table(column) for table, column in zip(tables, features.unbind(1), strict=False))
    for vectors in others:
        total += vectors
    return total


def _check_inputs(atom_features: Tensor, bond_index: Tensor, bond_features: Tensor) -> None:
    expected = "expected (N, 9), (2, E), (E, 3) or (N, 2), (2, E), (E, 2)"
    shapes = [tuple(tensor.shape) for tensor in (atom_features, bond_index, bond_features)]
    if any(len(shape) != 2 for shape in shapes):
        raise ValueError(f"atom_features, bond_index and bond_features have shapes {shapes}; {expected}")
    columns = (atom_features.shape[1], bond_features.shape[1])
    if columns not in GRAPH_FEATURES.values() or bond_index.shape != (2, len(bond_features)):
        raise ValueError(f"atom_features, bond_index and bond_features have shapes {shapes}; {expected}")
    dtypes = {tensor.dtype for tensor in (atom_features, bond_index, bond_features)}
    if dtypes != {torch.int64}:
        raise ValueError(f"graph tensors must be int64, got {', '.join(sorted(map(str, dtypes)))}")


__all__ = ["OmniMolGraphEncoder", "load_moleculestm"]
