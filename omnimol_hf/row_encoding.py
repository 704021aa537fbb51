"""Dataset rows -> token ids, labels and graphs, many at a time; equal to what the processor makes of each chat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import rdkit
import tokenizers
from rdkit import Chem

from omnimol_hf.chemistry_omnimol import (
    FEATURES_VERSION,
    MoleculeGraph,
    joined_graph,
    mol_from_selfies,
    mol_from_smiles,
    molecule_graphs,
)
from omnimol_hf.encoded_rows import ARRAYS, ENCODED, encoded_table
from omnimol_hf.processing_omnimol import OmniMolProcessor, default_template

ENCODING_VERSION = 1
"""Part of the key of kept rows; to be raised when a row is encoded otherwise than before."""

KEPT_MOLECULES = 16_384
"""Graphs that an encoder keeps, those used last: at 20 atoms about 20 MB, and never more than 600 MB."""

_NOTHING = np.zeros(0, dtype=np.int64)


class KeptGraphs:
    """The graphs of the molecules that rows are made of, each worked out once while it is kept.

    A molecule is `("smiles" | "selfies", text)`. At most `KEPT_MOLECULES` are kept from one `load` to the next.
    """

    def __init__(self, processor: OmniMolProcessor) -> None:
        self.features, self.atom_cap = processor.graph_features, processor.atom_cap
        self._kept: dict[tuple[str, str], MoleculeGraph] = {}  # the one used last at the end

    def load(self, molecules: Iterable[tuple[str, str]]) -> None:
        """Have these graphs ready, those that are readable and not too large."""
        wanted = dict.fromkeys(molecules)
        new = []

        def readable() -> Iterator[Chem.Mol]:
            for kind, text in wanted.keys() - self._kept.keys():
                try:
                    mol = mol_from_smiles(text) if kind == "smiles" else mol_from_selfies(text)
                except ValueError:
                    continue
                if mol.GetNumAtoms() <= self.atom_cap:
                    new.append((kind, text))
                    yield mol

        graphs = molecule_graphs(readable(), self.features, self.atom_cap)
        used = {molecule: self._kept.pop(molecule) for molecule in wanted if molecule in self._kept}
        for molecule in list(self._kept)[: max(0, len(self._kept) + len(wanted) - KEPT_MOLECULES)]:
            del self._kept[molecule]
        self._kept |= used
        self._kept |= zip(new, map(_small, graphs), strict=True)

    def whole(self, molecules: Sequence[tuple[str, str]]) -> MoleculeGraph | None:
        """The graph of what these make together, loaded before; None if one is not readable or all are too large."""
        graphs = [self._kept.get(molecule) for molecule in molecules]
        if any(graph is None for graph in graphs):
            return None
        return joined_graph(graphs) if sum(len(graph.atom_features) for graph in graphs) <= self.atom_cap else None


class _Frame(NamedTuple):
    """What all chats of rows have in common: the ids around the two texts, and what each text begins and ends with."""

    before: np.ndarray
    user_start: str
    between: np.ndarray
    answer_start: str
    answer_start_ids: list[int]
    answer_end: str


class _Draft(NamedTuple):
    """A row's texts as they are tokenised, and the molecules of its placeholders, each in its components."""

    user: str
    answer: str
    molecules: list[list[tuple[str, str]]]


class RowEncoder:
    """Encodes dataset rows in batches.

    A row that is in order is written without rendering a template: the frame around its texts is tokenised once, the
    texts of all rows together. Any other row goes through the processor's `apply_chat_template`, whose word counts:
    on what the row means, or on why it cannot be read. So do all rows when the chat template is not Omni-Mol's own,
    or the tokenizer does not treat the texts between its control tokens each by itself.

    Args:
        processor: of the model.
        max_length: longer rows are left out; in tokens, atoms included.
    """

    def __init__(self, processor: OmniMolProcessor, max_length: int | None = None) -> None:
        self.processor = processor
        self.max_length = max_length
        self._graphs = KeptGraphs(processor)
        self._tokenizer = processor.tokenizer.backend_tokenizer
        self._frame = self._common_frame()

    def encode(self, rows: Sequence[dict[str, Any]], with_answers: bool = True) -> list[dict[str, Any]]:
        """Rows with the keys of `ENCODED`; one that cannot be encoded has empty arrays and the reason in `problem`.

        Args:
            with_answers: False: prompts that the model is to go on from; they have no labels.
        """
        drafts = [self._draft(row, with_answers) for row in rows]
        written = iter(self._written([draft for draft in drafts if draft is not None]))
        encoded = []
        for row, draft in zip(rows, drafts, strict=True):
            arrays = draft and next(written)
            problem = ""
            if arrays is None:
                arrays, problem = self._rendered(row, with_answers)
            length = len(arrays["input_ids"])
            if self.max_length is not None and length > self.max_length:
                length, arrays, problem = 0, _empty(), f"longer than max_length={self.max_length}"
            encoded.append({"task": row["task"], "length": length, "problem": problem, **arrays})
        return encoded

    def encode_columns(self, batch: Mapping[str, list[Any]]) -> pa.Table:
        """The same for a batch in columns, as `Dataset.map` has it."""
        names = list(batch)
        rows = [dict(zip(names, values, strict=True)) for values in zip(*(batch[name] for name in names), strict=True)]
        return encoded_table(self.encode(rows))

    def fingerprint(self, rows: str) -> str:
        """The key of the encoded rows: it changes with all that they depend on.

        Args:
            rows: the fingerprint of the rows.
        """
        processor = self.processor
        self._plain_tokenizer()
        versions = [ENCODING_VERSION, FEATURES_VERSION, rdkit.__version__, tokenizers.__version__]
        settings = [processor.graph_token, processor.graph_features, processor.atom_cap, processor.multi_graph]
        texts = [processor.task_prompts, processor.chat_template, processor.tokenizer.special_tokens_map]
        key = json.dumps([rows, versions, settings, texts, self.max_length, self._tokenizer.to_str()])
        return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()

    # ---------------------------------------------------------------- rows that are in order

    def _common_frame(self) -> _Frame | None:
        """None for a template or a tokenizer with which each chat has to be rendered and tokenised as a whole."""
        processor = self.processor
        if processor.chat_template != default_template(processor.graph_token):
            return None
        before, between, after = _chat(processor, "\0", "\0").split("\0")
        (before, user_start), (between, answer_start) = map(self._cut, (before, between))
        start_ids = self._ids(answer_start).tolist()
        frame = _Frame(self._ids(before), user_start, self._ids(between), answer_start, start_ids, after)
        user, answer = f"{processor.graph_token}\nWhat? [C][=O]", " 1.5\n[C]"
        texts = user_start + user, answer_start + answer + after
        parts = [frame.before, self._ids(texts[0]), frame.between, self._ids(texts[1])]
        whole = before + texts[0] + between + texts[1]
        if not np.array_equal(np.concatenate(parts), self._ids(whole)):
            return None
        prompt = processor.apply_chat_template([{"role": "user", "content": "\0"}], add_generation_prompt=True)
        return frame if prompt.split("\0") == [before + user_start, between + answer_start] else None

    def _cut(self, text: str) -> tuple[str, str]:
        """The text up to and with its last control token, and what follows."""
        *_, last = self.processor.control_tokens.finditer(text)
        return text[: last.end()], text[last.end() :]

    def _plain_tokenizer(self) -> None:
        """Undo what calls of the processor have set on the tokenizer; they set anew what they need."""
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def _ids(self, text: str) -> np.ndarray:
        self._plain_tokenizer()
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _draft(self, row: dict[str, Any], with_answer: bool) -> _Draft | None:
        """The row's texts, or None if something about it looks wrong."""
        if self._frame is None:
            return None
        processor, output = self.processor, row["output"] if with_answer else ""
        try:
            blocks = processor.row_messages(row, with_answer=False)[0]["content"]
            # As one text: blocks that follow one another could form a control token between them.
            plain = "".join(block["text"] if block["type"] == "text" else "\n" for block in blocks)
            if processor.control_tokens.search(plain) or processor.control_tokens.search(output):
                return None
        except (TypeError, ValueError):
            return None
        texts, molecules = [self._frame.user_start], []
        for block in blocks:
            if block["type"] == "text":
                texts.append(block["text"])
            else:
                texts.append(processor.graph_token if block is blocks[-1] else processor.graph_token + "\n")
                kind = "smiles" if "smiles" in block else "selfies"
                if block[kind].split() != [block[kind]]:
                    return None
                molecules.append([(kind, part) for part in block[kind].split(".")])
        answer = self._frame.answer_start + (output + self._frame.answer_end if with_answer else "")
        return _Draft("".join(texts), answer, molecules)

    def _written(self, drafts: list[_Draft]) -> list[dict[str, np.ndarray] | None]:
        """The arrays of each draft; None if `_arrays` cannot tell."""
        self._graphs.load(part for draft in drafts for molecule in draft.molecules for part in molecule)
        self._plain_tokenizer()
        users = self._tokenizer.encode_batch_fast([draft.user for draft in drafts], add_special_tokens=False)
        answers = self._tokenizer.encode_batch_fast([draft.answer for draft in drafts], add_special_tokens=False)
        return [self._arrays(*parts) for parts in zip(drafts, users, answers, strict=True)]

    def _arrays(
        self, draft: _Draft, user: tokenizers.Encoding, answer: tokenizers.Encoding
    ) -> dict[str, np.ndarray] | None:
        """None if a molecule is not readable or too large, or if a token lies across the start of the answer."""
        graphs = [self._graphs.whole(molecule) for molecule in draft.molecules]
        if any(graph is None for graph in graphs):
            return None
        answer_ids, start_ids = answer.ids, self._frame.answer_start_ids
        if answer_ids[: len(start_ids)] != start_ids:
            return None
        ids = np.concatenate([self._frame.before, user.ids, self._frame.between, answer_ids])
        labels = ids.copy()
        labels[: len(ids) - len(answer_ids) + len(start_ids)] = -100
        if not graphs:
            return _empty() | {"input_ids": ids, "labels": labels}
        repeats = np.ones(len(ids), dtype=np.int64)
        repeats[ids == self.processor.graph_token_id] = [len(graph.atom_features) for graph in graphs]
        graph = joined_graph(graphs)
        arrays = {name: getattr(graph, name).ravel() for name in ("atom_features", "bond_index", "bond_features")}
        return {"input_ids": ids.repeat(repeats), "labels": labels.repeat(repeats), **arrays}

    # ---------------------------------------------------------------- all other rows

    def _rendered(self, row: dict[str, Any], with_answer: bool) -> tuple[dict[str, np.ndarray], str]:
        """The arrays of a row by way of its chat, or empty ones and the reason."""
        try:
            features = self.processor.apply_chat_template(
                self.processor.row_messages(row, with_answer),
                add_generation_prompt=not with_answer,
                tokenize=True,
                return_dict=True,
                return_labels=True,
            )
        except ValueError as error:
            return _empty(), f"unreadable: {error}"
        return {name: np.ravel(features.get(name, _NOTHING)) for name in ARRAYS}, ""


def _chat(processor: OmniMolProcessor, user: str, answer: str) -> str:
    return processor.apply_chat_template([{"role": "user", "content": user}, {"role": "assistant", "content": answer}])


def _empty() -> dict[str, np.ndarray]:
    return dict.fromkeys(ARRAYS, _NOTHING)


def _small(graph: MoleculeGraph) -> MoleculeGraph:
    """A copy in the types in which rows are kept."""
    types = {name: ENCODED[name].feature.dtype for name in ("atom_features", "bond_index", "bond_features")}
    return MoleculeGraph(**{name: getattr(graph, name).astype(dtype) for name, dtype in types.items()})
