"""Omni-Mol's processor: chats with molecules in, token ids and molecular graphs out."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging
from transformers.utils.chat_template_utils import render_jinja_template

from .chemistry_omnimol import (
    ATOM_CAP,
    MoleculeGraph,
    graph_components,
    joined_graph,
    mol_from_selfies,
    mol_from_smiles,
    molecule_graph,
    selfies_to_smiles,
    smiles_to_selfies,
)

logger = logging.get_logger(__name__)

GRAPH_TOKEN = "<|reserved_special_token_0|>"
SYSTEM_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# Llama-3's chat string with Omni-Mol's system prompt. A molecule becomes one placeholder, which the processor expands
# to one token an atom; a line break parts it from what follows.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- if messages[0]['role'] != 'system' -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n@SYSTEM@<|eot_id|>' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{%- for block in message['content'] -%}{{- block['text'] -}}{%- endfor -%}{{- '<|eot_id|>' -}}
{%- endgeneration -%}
{%- else -%}
{%- for block in message['content'] -%}
{%- if block['type'] == 'molecule' -%}{{- '@GRAPH@' + ('' if loop.last else '\\n') -}}
{%- else -%}{{- block['text'] -}}{%- endif -%}
{%- endfor -%}
{{- '<|eot_id|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""


def default_template(graph_token: str) -> str:
    """Omni-Mol's own chat template."""
    return CHAT_TEMPLATE.replace("@GRAPH@", graph_token).replace("@SYSTEM@", SYSTEM_PROMPT.replace("'", "\\'"))


ROLES = ("system", "user", "assistant")
_SELFIES_RUN = re.compile(r"((?:\[(?!START_SELFIES\]|END_SELFIES\])[^\[\]\s]+\])+)")


class OmniMolProcessor(ProcessorMixin):
    """Tokenizer, chat template and molecule featuriser in one.

    Args:
        tokenizer: a fast tokenizer with Llama-3's special tokens.
        graph_token: the placeholder token of one atom.
        graph_features: `"ogb9"` or `"omnimol2"`; has to be the model's.
        atom_cap: molecules with more atoms are refused.
        multi_graph: how dataset rows become chats: False, the paper: the row's graph first, once; True: every molecule
            of the input has its own graph tokens, before its SELFIES. Hand-written chats may hold any molecules.
        task_prompts: task name -> `{"prompt", "graph_rule", "instruction"}`: the prompts of training.
        chat_template: Jinja template; Omni-Mol's when None.

    A molecule in a chat is a content block `{"type": "molecule", "smiles": ...}`, or with `"selfies"`, or with
    `"data"`: an object that has `.smiles`, such as PyTorch Geometric's `from_smiles` makes.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        graph_token: str = GRAPH_TOKEN,
        graph_features: str = "ogb9",
        atom_cap: int = ATOM_CAP,
        multi_graph: bool = False,
        task_prompts: dict[str, dict[str, str]] | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.graph_token = graph_token
        self.graph_features = graph_features
        self.atom_cap = atom_cap
        self.multi_graph = multi_graph
        self.task_prompts = task_prompts or {}
        super().__init__(tokenizer, chat_template=chat_template or default_template(graph_token))
        self.graph_token_id = tokenizer.convert_tokens_to_ids(graph_token)
        if self.graph_token_id in (None, tokenizer.unk_token_id):
            raise ValueError(f"the tokenizer has no token {graph_token!r} for the atoms of molecules")
        control = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self.control_tokens = re.compile("|".join(sorted(map(re.escape, control | {graph_token}))))

    @property
    def model_input_names(self) -> list[str]:
        """The names of the tensors that the model takes."""
        return [*self.tokenizer.model_input_names, "atom_features", "bond_index", "bond_features"]

    # ---------------------------------------------------------------- chats

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]] | list[list[dict[str, Any]]],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_labels: bool = False,
        return_tensors: str | None = None,
        padding: bool | str | None = None,
        padding_side: str | None = None,
        **kwargs: Any,
    ) -> str | list[str] | list[list[int]] | BatchFeature:
        """Render one chat or a batch of them, and tokenise it with its molecules.

        Args:
            conversation: messages with `role` (`system`, `user`, `assistant`) and `content` (a string or blocks).
            add_generation_prompt: end with the assistant's header, for `generate`.
            tokenize: return ids (and graphs) and not the text, in which each molecule is one placeholder.
            return_dict: return all model inputs and not only the ids.
            return_labels: add `labels`: the assistant's answers and their `<|eot_id|>`; -100 elsewhere.
            padding: default: pad when there are several chats and tensors are asked for.
            padding_side: default: `"left"` when a generation prompt is added, for those rows are continued at their
                end; `"right"` otherwise, for training.

        Returns:
            Text, ids, or a `BatchFeature` with `input_ids`, `attention_mask`, `labels` on request, and, when there are
            molecules, `atom_features`, `bond_index`, `bond_features` (see `OmniMolModel.get_graph_features`).

        Raises:
            ValueError: for unreadable molecules, unknown roles or blocks, and control tokens inside the texts.
        """
        batched = bool(conversation) and not isinstance(conversation[0], dict)
        chats = [self._checked(chat) for chat in (conversation if batched else [conversation])]
        texts, answer_spans = render_jinja_template(
            conversations=[
                [{**m, "content": [_plain(block) for block in m["content"]]} for m in chat] for chat in chats
            ],
            chat_template=chat_template or self.chat_template,
            return_assistant_tokens_mask=return_labels,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **{**self.tokenizer.special_tokens_map, **kwargs.pop("template_kwargs", {})},
        )
        if not tokenize:
            return texts if batched else texts[0]
        molecules = [
            [block for message in chat for block in message["content"] if block["type"] == "molecule"]
            for chat in chats
        ]
        if padding is None:
            padding = batched and return_tensors is not None
        features = self(
            text=texts,
            molecules=molecules,
            answer_spans=answer_spans if return_labels else None,
            add_special_tokens=False,
            return_tensors=return_tensors,
            padding=padding,
            padding_side=padding_side or ("left" if add_generation_prompt else "right"),
            **kwargs.pop("processor_kwargs", {}),
            **kwargs,
        )
        if not batched and return_tensors is None:
            rows = (*self.tokenizer.model_input_names, "labels")
            features = BatchFeature({k: v[0] if k in rows else v for k, v in features.items()})
        return features if return_dict else features["input_ids"]

    def _checked(self, chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The chat with all contents as blocks, after refusing what would change the meaning of the chat string."""
        if not chat:
            raise ValueError("the conversation has no messages")
        messages = []
        for number, message in enumerate(chat):
            role, content = message.get("role"), message.get("content")
            if role not in ROLES:
                raise ValueError(f"message {number} has role {role!r}; expected one of {ROLES}")
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if not isinstance(blocks, list):
                raise ValueError(f"message {number} has content {content!r}; expected a string or a list of blocks")
            for block in blocks:
                kind = block.get("type") if isinstance(block, dict) else None
                if kind == "text" and not isinstance(block.get("text"), str):
                    raise ValueError(
                        f"message {number} ({role}) has a text block without a string in 'text': {block!r}"
                    )
                if kind != "text" and (kind != "molecule" or role != "user"):
                    raise ValueError(
                        f"message {number} ({role}) has the block {block!r}; only users' messages hold blocks of type "
                        "'molecule', and all others are of type 'text'"
                    )
            # As one text: blocks that follow one another could form a control token between them.
            joined = "".join(block["text"] if block["type"] == "text" else "\n" for block in blocks)
            self._refuse_control_tokens(joined, f"message {number} ({role})")
            messages.append({"role": role, "content": blocks})
        return messages

    def _refuse_control_tokens(self, text: str, where: str) -> None:
        if found := self.control_tokens.search(text):
            raise ValueError(
                f"the text of {where} contains the control token {found.group()!r} at character {found.start()}; "
                "it would be read as part of the chat's frame, so remove it or write it differently"
            )

    # ---------------------------------------------------------------- text and molecules

    def __call__(
        self,
        text: str | list[str] | None = None,
        molecules: list[Any] | list[list[Any]] | None = None,
        answer_spans: list[list[tuple[int, int]]] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        padding_side: str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Tokenise texts in which `graph_token` stands for one molecule each. Most users want `apply_chat_template`.

        Args:
            text: one text or a list of them.
            molecules: a list of molecules for each text (for one text: its list): blocks as in chats, or SMILES.
            answer_spans: for each text the character spans that become `labels`.
            max_length: longer texts are refused, never cut: what would be cut is the answer, or half a molecule.

        Returns:
            As `apply_chat_template` with `return_dict=True`.
        """
        if kwargs:
            raise TypeError(f"OmniMolProcessor got unknown arguments {sorted(kwargs)}")
        texts = [text] if isinstance(text, str) else text
        if molecules is None:
            molecules = [[]] * len(texts)
        elif isinstance(text, str):
            molecules = [molecules]
        graphs = [[self._graph(molecule) for molecule in row] for row in molecules]
        bos = self.tokenizer.bos_token
        encoded = self.tokenizer(
            texts,
            add_special_tokens=add_special_tokens and not (bos and texts[0].startswith(bos)),
            return_offsets_mapping=answer_spans is not None,
        )
        rows: dict[str, list[np.ndarray]] = {"input_ids": [], "attention_mask": []}
        for i, ids in enumerate(encoded["input_ids"]):
            ids = np.asarray(ids, dtype=np.int64)
            repeats = self._repeats(ids, graphs[i], i)
            if answer_spans is not None:
                labels = answer_labels(ids, np.asarray(encoded["offset_mapping"][i]), answer_spans[i])
                rows.setdefault("labels", []).append(np.repeat(labels, repeats))
            rows["input_ids"].append(np.repeat(ids, repeats))
            rows["attention_mask"].append(np.ones_like(rows["input_ids"][-1]))
            if max_length is not None and (length := len(rows["input_ids"][-1])) > max_length:
                raise ValueError(f"text {i} has {length} tokens with its molecules, more than max_length={max_length}")
        flat = [graph for row in graphs for graph in row]
        return BatchFeature(
            {**self._padded(rows, padding, padding_side, return_tensors), **_graph_inputs(flat, return_tensors)}
        )

    def _graph(self, molecule: Any) -> MoleculeGraph:
        """The graph of a content block, a SMILES string, or an object with `.smiles`."""
        block = (
            molecule if isinstance(molecule, dict) else {"smiles" if isinstance(molecule, str) else "data": molecule}
        )
        if len([key for key in ("smiles", "selfies", "data") if key in block]) != 1:
            raise ValueError(f"a molecule block needs exactly one of 'smiles', 'selfies' and 'data', got {block!r}")
        if "selfies" in block:
            mol = mol_from_selfies(block["selfies"])
        else:
            mol = mol_from_smiles(block["smiles"] if "smiles" in block else _smiles_of(block["data"]))
        return molecule_graph(mol, self.graph_features, self.atom_cap)

    def _repeats(self, ids: np.ndarray, graphs: list[MoleculeGraph], row: int) -> np.ndarray:
        """How often each token is written: a placeholder once an atom of its molecule, all others once."""
        places = np.flatnonzero(ids == self.graph_token_id)
        if len(places) != len(graphs):
            raise ValueError(
                f"text {row} has {len(places)} placeholders {self.graph_token!r} for {len(graphs)} molecules"
            )
        if len(graphs) > 1 and not self.multi_graph:
            logger.warning_once("several molecules in one chat, but this checkpoint was trained with one graph a chat")
        repeats = np.ones_like(ids)
        repeats[places] = [len(graph.atom_features) for graph in graphs]
        return repeats

    def _padded(
        self, rows: dict[str, list[np.ndarray]], padding: bool | str, side: str | None, return_tensors: str | None
    ) -> dict[str, Any]:
        if padding not in (True, False, "longest", "do_not_pad"):
            raise ValueError(f"padding is {padding!r}; expected True or 'longest', False or 'do_not_pad'")
        if padding in (True, "longest"):
            side = side or self.tokenizer.padding_side
            fill = {"input_ids": self.tokenizer.pad_token_id, "attention_mask": 0, "labels": -100}
            rows = {name: _pad(values, fill[name], side) for name, values in rows.items()}
        if return_tensors is None:
            return {name: [value.tolist() for value in values] for name, values in rows.items()}
        if len({len(value) for value in rows["input_ids"]}) > 1:
            raise ValueError("rows of different lengths make no tensor: use padding=True")
        return {name: _tensor(np.stack(values), return_tensors) for name, values in rows.items()}

    # ---------------------------------------------------------------- tasks

    def row_messages(self, row: dict[str, Any], with_answer: bool = True) -> list[dict[str, Any]]:
        """The chat of a dataset row: its graph, its task's prompt, and, unless `with_answer` is False, its answer."""
        if (prompt := self.task_prompts.get(row["task"])) is None:
            raise ValueError(f"unknown task {row['task']!r}; this processor knows {sorted(self.task_prompts)}")
        if self.multi_graph and prompt["graph_rule"] != "none" and "{input}" in prompt["prompt"]:
            content = _inline_molecules(prompt["prompt"], row["instruction"], row["input"])
        else:
            text = prompt["prompt"].format(instruction=row["instruction"], input=row["input"])
            content = [{"type": "molecule", "smiles": ".".join(row["graph_smiles"])}] if row["graph_smiles"] else []
            content.append({"type": "text", "text": text})
        messages = [{"role": "user", "content": content}]
        if with_answer:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": row["output"]}]})
        return messages

    def task_messages(
        self,
        task: str,
        molecule: str | None = None,
        *,
        selfies: str | None = None,
        text: str | None = None,
        instruction: str | None = None,
    ) -> list[dict[str, Any]]:
        """The chat with which the model was trained for a task, for a molecule or reaction of your own.

        Args:
            task: one of `task_prompts`, for example `"molecular_weight"`.
            molecule: SMILES; a reaction as `reactants>>product`, several molecules joined by `.`, main one first.
            selfies: the same in SELFIES, instead of `molecule`.
            text: the name or description, for a task that asks for the molecule that goes with it.
            instruction: the question; default: one of training. For `description_qa` and `homo_lumo` it says what is
                asked for.

        Returns:
            Messages for `apply_chat_template(..., add_generation_prompt=True)`.
        """
        if task not in self.task_prompts:
            raise ValueError(f"unknown task {task!r}; this processor knows {sorted(self.task_prompts)}")
        prompt = self.task_prompts[task]
        takes = ("text",) if prompt["graph_rule"] == "none" else ("molecule", "selfies")
        values = {"molecule": molecule, "selfies": selfies, "text": text}
        given = [name for name, value in values.items() if value is not None]
        if len(given) != 1 or given[0] not in takes:
            raise ValueError(
                f"give exactly one of molecule (SMILES), selfies and text; {task} takes {' or '.join(takes)}"
            )
        sequence = values[given[0]] if molecule is None else _selfies_of(molecule)
        row = {
            "task": task,
            "instruction": instruction or prompt["instruction"],
            "input": sequence,
            "graph_smiles": [selfies_to_smiles(part) for part in graph_components(sequence, prompt["graph_rule"])],
        }
        return self.row_messages(row, with_answer=False)


def _plain(block: dict[str, Any]) -> dict[str, Any]:
    """A block without its molecule: templates see texts and the places of molecules alone."""
    return block if block["type"] == "text" else {"type": "molecule"}


def _smiles_of(data: Any) -> str:
    """The SMILES of a `Data`-like object. Its own feature columns are coded otherwise than the model's: never used."""
    smiles = getattr(data, "smiles", None)
    if not isinstance(smiles, str):
        raise ValueError(f"a molecule object of type {type(data).__name__} needs its SMILES string in `.smiles`")
    return smiles


def _selfies_of(smiles: str) -> str:
    """A molecule or reaction in SELFIES, component by component: their order says which of them becomes the graph."""
    return ">>".join(".".join(map(smiles_to_selfies, side.split("."))) for side in smiles.split(">>"))


def _inline_molecules(prompt: str, instruction: str, sequence: str) -> list[dict[str, Any]]:
    """Content blocks in which each molecule of the input has its graph right before its SELFIES."""
    before, after = prompt.format(instruction=instruction, input="\0").split("\0")
    blocks: list[dict[str, Any]] = [{"type": "text", "text": before}]
    for piece in _SELFIES_RUN.split(sequence):
        if _SELFIES_RUN.fullmatch(piece):
            blocks.append({"type": "molecule", "selfies": piece})
        blocks.append({"type": "text", "text": piece})
    blocks.append({"type": "text", "text": after})
    return [block for block in blocks if block["type"] == "molecule" or block["text"]]


def answer_labels(ids: np.ndarray, offsets: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    """The ids of tokens that lie wholly inside a span of characters, -100 for all others."""
    inside = np.zeros(len(ids), dtype=bool)
    for start, end in spans:
        inside |= (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 0] < offsets[:, 1])
    return np.where(inside, ids, -100)


def _pad(values: list[np.ndarray], fill: int, side: str) -> list[np.ndarray]:
    if side not in ("left", "right"):
        raise ValueError(f"padding_side is {side!r}; expected 'left' or 'right'")
    longest = max(map(len, values))
    gaps = [longest - len(value) for value in values]
    return [
        np.pad(value, (gap, 0) if side == "left" else (0, gap), constant_values=fill)
        for value, gap in zip(values, gaps, strict=True)
    ]


def _graph_inputs(graphs: list[MoleculeGraph], return_tensors: str | None) -> dict[str, Any]:
    """All graphs as one, bonds counting atoms over the whole batch."""
    if not graphs:
        return {}
    graph = joined_graph(graphs)
    arrays = {name: getattr(graph, name) for name in ("atom_features", "bond_index", "bond_features")}
    return {name: _tensor(array, return_tensors) for name, array in arrays.items()} if return_tensors else arrays


def _tensor(array: np.ndarray, return_tensors: str) -> np.ndarray | torch.Tensor:
    if return_tensors not in ("pt", "np"):
        raise ValueError(f"return_tensors is {return_tensors!r}; expected 'pt' or 'np'")
    array = np.ascontiguousarray(array)  # a transposed view could be neither saved nor gathered
    return torch.from_numpy(array) if return_tensors == "pt" else array


__all__ = ["OmniMolProcessor"]
