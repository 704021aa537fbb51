"""Where tokens go: router scores of atoms and functional groups, and each expert's load by task (App. A, Figure 8).

A molecule reaches the model twice, as one graph token an atom and as SELFIES text. Both are traced back to the atoms
of the drawn molecule. Scores are the router's probabilities over the routed experts; the anchor takes every token and
has none.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import selfies as sf
import torch
from rdkit import Chem, RDConfig
from torch import Tensor

from omnimol_hf.chemistry_omnimol import canonical_pair, graph_components, mol_from_selfies, mol_from_smiles
from omnimol_hf.modeling_omnimol import OmniMolForCausalLM
from omnimol_hf.processing_omnimol import OmniMolProcessor
from omnimol_hf.tasks import ALL_TASKS

# Of RDKit's fragment descriptors, those that chemists call functional groups or common rings. They may overlap.
GROUPS = (
    "fr_COO fr_ester fr_amide fr_ketone fr_aldehyde fr_Al_OH fr_phenol fr_ether fr_epoxide fr_NH2 fr_aniline fr_Imine "
    "fr_nitrile fr_nitro fr_urea fr_halogen fr_sulfide fr_SH fr_sulfone fr_sulfonamd fr_benzene fr_pyridine "
    "fr_imidazole fr_furan fr_thiophene fr_thiazole fr_piperdine fr_piperzine fr_morpholine fr_term_acetylene"
)


# --- scores ----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def router_scores(model: OmniMolForCausalLM, inputs: Mapping[str, Tensor]) -> Tensor:
    """The router's probabilities `(MoE layers, batch, length, N)` in fp32 on the CPU.

    Raises:
        ValueError: if the model has no MoE layers.
    """
    if not model.config.moe_layer_indices:
        raise ValueError("the model has no MoE layers: there is no router to look at")
    outputs = model(**inputs, output_router_logits=True, use_cache=False, logits_to_keep=1)
    return torch.stack([logits.float().softmax(-1).cpu() for logits in outputs.router_logits])


def _encode(
    processor: OmniMolProcessor, rows: Sequence[Mapping[str, Any]], device: torch.device
) -> Mapping[str, Tensor]:
    return processor.apply_chat_template(
        [processor.row_messages(dict(row), with_answer=False) for row in rows],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(device)


def expert_load(
    model: OmniMolForCausalLM, processor: OmniMolProcessor, rows: Sequence[Mapping[str, Any]], batch_size: int = 16
) -> dict[str, np.ndarray]:
    """The share of each routed expert in the choices of all prompt tokens of a task; padding counts nowhere.

    Returns:
        task, in the order of the paper's tables -> `(MoE layers, N)`; each layer sums to 1, and 1/N everywhere is
        perfect balance.
    """
    top_k = model.config.num_experts_per_tok
    by_task = {task: [row for row in rows if row["task"] == task] for task in ALL_TASKS}
    load = {}
    for task, task_rows in by_task.items():
        if not task_rows:
            continue
        counts = torch.zeros(len(model.config.moe_layer_indices), model.config.num_experts)
        for start in range(0, len(task_rows), batch_size):
            inputs = _encode(processor, task_rows[start : start + batch_size], model.device)
            scores = router_scores(model, inputs)
            chosen = torch.zeros_like(scores).scatter(-1, scores.topk(top_k, dim=-1).indices, 1.0)
            counts += (chosen * inputs["attention_mask"].cpu()[:, :, None]).sum((1, 2))
        load[task] = (counts / counts.sum(-1, keepdim=True)).numpy()
    return load


# --- tokens and atoms ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoutedMolecule:
    """The router's scores of one row's molecule, by atom.

    Attributes:
        mol: the molecule that became the graph; atom i is its i-th graph token.
        graph: `(MoE layers, atoms, N)`, scores of the graph tokens.
        text: the same of the SELFIES tokens; an atom written by several tokens has their mean.
    """

    mol: Chem.Mol
    graph: np.ndarray
    text: np.ndarray


def selfies_atoms(selfies: str) -> list[tuple[int, int]]:
    """Which characters of a SELFIES string write each atom, `(start, end)`, atoms in the order of reading.

    Branch and ring symbols, and the symbols that count their lengths, write no atom.
    """
    symbols = list(sf.split_selfies(selfies))  # a dot between components is one of them, and counts as one below too
    ends = np.cumsum([len(symbol) for symbol in symbols])
    spans, last = [], None
    for piece in sf.decoder(selfies, attribute=True)[1]:
        if not piece.attribution:  # the bond that closes a ring
            continue
        # The decoder names the branches that an atom is in too; its own symbol comes last. A bond in front of an atom
        # is a piece of its own, with the same symbols.
        symbol = piece.attribution[-1].index
        if symbol != last:
            spans.append((int(ends[symbol]) - len(symbols[symbol]), int(ends[symbol])))
        last = symbol
    return spans


def _canonical_order(mol: Chem.Mol) -> tuple[str, list[int]]:
    """The canonical SMILES and the atoms in the order in which it writes them."""
    smiles = Chem.MolToSmiles(mol)
    return smiles, list(mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"])


def matching_atoms(graph: Chem.Mol, text: Chem.Mol) -> np.ndarray:
    """For each atom of the graph's molecule, the number of the same atom in the text's.

    Raises:
        ValueError: if they are not the same molecule.
    """
    (one, order), (other, other_order) = _canonical_order(graph), _canonical_order(text)
    if one != other:
        raise ValueError(f"the graph is {one}, but the SELFIES of the input say {other}")
    same = np.empty(len(order), dtype=np.int64)
    same[order] = other_order
    return same


def token_characters(processor: OmniMolProcessor, text: str, atoms: Sequence[int]) -> np.ndarray:
    """The characters `(tokens, 2)` of a chat's text that each token of the model's input stands for.

    Args:
        text: the chat with one placeholder a molecule.
        atoms: how many atoms each molecule has; all tokens of a molecule stand for its placeholder.
    """
    encoded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    repeats = np.ones(len(encoded["input_ids"]), dtype=np.int64)
    repeats[np.array(encoded["input_ids"]) == processor.graph_token_id] = atoms
    return np.array(encoded["offset_mapping"]).repeat(repeats, axis=0)


def _whole_molecule(selfies: str) -> re.Pattern[str]:
    """A molecule's SELFIES, but not where they are part of a longer molecule."""
    return re.compile(rf"(?:(?<=\[START_SELFIES\])|(?<!\])){re.escape(selfies)}(?=\[END_SELFIES\]|(?!\[))")


def atom_tokens(processor: OmniMolProcessor, row: Mapping[str, Any]) -> tuple[Chem.Mol, list[int], list[list[int]]]:
    """Which tokens of a row's prompt stand for which atoms.

    Returns:
        The molecule that became the graph; for each of its atoms the position of its graph token, and those of the
        tokens that write its SELFIES symbol (a token across two symbols counts for both).

    Raises:
        ValueError: if the row has no graph, or the graph is another molecule than the SELFIES of the input.
    """
    messages = processor.row_messages(dict(row), with_answer=False)
    blocks = [block for block in messages[0]["content"] if block["type"] == "molecule"]
    if not blocks:
        raise ValueError(f"a row of {row['task']} has no graph: there are no atoms to align its tokens to")
    mols = [mol_from_smiles(one["smiles"]) if "smiles" in one else mol_from_selfies(one["selfies"]) for one in blocks]
    mol = mols[0]
    for other in mols[1:]:
        mol = Chem.CombineMols(mol, other)
    if "selfies" in blocks[0]:  # multi_graph: every molecule of the input
        parts = [block["selfies"] for block in blocks]
    else:
        parts = graph_components(row["input"], ALL_TASKS[row["task"]].graph_rule)
    same = matching_atoms(mol, mol_from_selfies(".".join(parts)))

    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    characters = token_characters(processor, text, [each.GetNumAtoms() for each in mols])
    placeholder = np.array([text[a:b] == processor.graph_token for a, b in characters])
    place = text.rindex(row["input"]) if row["input"] in text else 0  # multi_graph parts the input by placeholders
    spans = []
    for part in parts:
        place = _whole_molecule(part).search(text, place).start()
        spans += [(place + start, place + end) for start, end in selfies_atoms(part)]
        place += len(part)
    if len(spans) != mol.GetNumAtoms():
        raise ValueError(
            f"{len(spans)} SELFIES symbols write the {mol.GetNumAtoms()} atoms of {Chem.MolToSmiles(mol)}"
        )
    written = [
        np.flatnonzero((characters[:, 0] < end) & (characters[:, 1] > start) & ~placeholder).tolist()
        for start, end in (spans[atom] for atom in same)
    ]
    return mol, np.flatnonzero(placeholder).tolist(), written


def molecule_row(processor: OmniMolProcessor, task: str, smiles: str) -> dict[str, Any]:
    """A row that asks a task's usual question about a molecule of one's own; raises as `smiles_to_selfies`."""
    canonical, sequence = canonical_pair(smiles)
    if (prompt := processor.task_prompts.get(task)) is None:
        raise ValueError(f"unknown task {task!r}; this processor knows {sorted(processor.task_prompts)}")
    return {"task": task, "instruction": prompt["instruction"], "input": sequence, "graph_smiles": [canonical]}


def route(model: OmniMolForCausalLM, processor: OmniMolProcessor, row: Mapping[str, Any]) -> RoutedMolecule:
    """The router's scores of the atoms of one dataset row; raises as `atom_tokens` and `router_scores`."""
    mol, graph, text = atom_tokens(processor, row)
    scores = router_scores(model, _encode(processor, [row], model.device))[:, 0].numpy()
    return RoutedMolecule(mol, scores[:, graph], np.stack([scores[:, tokens].mean(1) for tokens in text], axis=1))


# --- functional groups -----------------------------------------------------------------------------------------------


@lru_cache
def group_patterns() -> dict[str, Chem.Mol]:
    """RDKit's name of each functional group of `GROUPS` (spelt right) -> its SMARTS pattern."""
    with (Path(RDConfig.RDDataDir) / "FragmentDescriptors.csv").open(encoding="utf-8", newline="") as file:
        lines = {line[0]: line for line in csv.reader(file, delimiter="\t") if len(line) > 2}
    names = {code: lines[code][1].removeprefix("Number of ").capitalize() for code in GROUPS.split()}
    names |= {"fr_piperdine": "Piperidine rings", "fr_piperzine": "Piperazine rings"}
    return {name: Chem.MolFromSmarts(lines[code][2]) for code, name in names.items()}


def group_scores(molecules: Sequence[RoutedMolecule], tokens: str = "graph") -> dict[str, dict[str, Any]]:
    """The mean score of each functional group's atoms, most frequent groups first.

    Args:
        tokens: `"graph"` or `"text"`.

    Returns:
        name -> `count`, how often it occurs, and `scores` `(MoE layers, N)`, the mean over its atoms in all molecules.
        The name `All atoms` comes first, to compare with.
    """
    atoms = {"All atoms": [getattr(one, tokens) for one in molecules]}
    counts = {"All atoms": sum(one.mol.GetNumAtoms() for one in molecules)}
    for one in molecules:
        for name, pattern in group_patterns().items():
            matches = one.mol.GetSubstructMatches(pattern)
            if matches:
                counts[name] = counts.get(name, 0) + len(matches)
                atoms.setdefault(name, []).append(getattr(one, tokens)[:, sorted({i for m in matches for i in m})])
    order = sorted(counts, key=counts.__getitem__, reverse=True)
    return {name: {"count": counts[name], "scores": np.concatenate(atoms[name], 1).mean(1)} for name in order}
