"""Encoded rows and their batches: equal to what the processor makes of the same rows, and no row lost unsaid."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from omnimol_hf import OmniMolProcessor
from omnimol_hf.collation import TrainingCollator, encode_row, encode_rows, prompt_batch
from omnimol_hf.row_encoding import RowEncoder
from omnimol_hf.tasks import ALL_TASKS, task_prompts
from tests import tiny


def assert_same(ours, theirs) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_equal(one, other)


def row(task: str, input: str, output: str, graph_smiles: list[str], **more) -> dict:
    return {
        "id": f"{task}-{input}",
        "task": task,
        "instruction": "What?",
        "input": input,
        "output": output,
        "graph_smiles": graph_smiles,
    } | more


ROWS = [
    row("molecular_weight", "[C][C][O]", "46.07", ["CCO"]),
    row("logp", "[C]", "The LogP for the input molecule is 0.64.", ["C"]),  # one atom, no bond
    row("reagent_prediction", "[C][C][O].[C][=O]>>[C][C]", "[Na+1].[Cl-1]", ["CCO", "C=O"]),
    row("description_qa", "[C][N]", "A text with an é.", []),  # no molecule
]


@pytest.mark.parametrize("features", ["ogb9", "omnimol2"])
def test_a_collated_batch_is_the_processors(features):
    processor = tiny.processor(graph_features=features)
    encoded, left_out = encode_rows(Dataset.from_list(ROWS), processor)
    assert not left_out
    assert list(encoded["task"]) == [one["task"] for one in ROWS]
    batch = TrainingCollator(processor.tokenizer.pad_token_id, features)(encoded[i] for i in range(4))
    expected = processor.apply_chat_template(
        [processor.row_messages(one) for one in ROWS],
        tokenize=True,
        return_dict=True,
        return_labels=True,
        return_tensors="pt",
    )
    assert batch.pop("task_ids").tolist() == [list(ALL_TASKS).index(one["task"]) for one in ROWS]
    before_labels = (expected["labels"][:, 1:] != -100).nonzero()
    assert batch.pop("label_index").tolist() == [
        row * batch["labels"].shape[1] + i for row, i in before_labels.tolist()
    ]
    assert set(batch) == set(expected)
    for name, tensor in batch.items():
        assert tensor.dtype == torch.int64, name
        assert torch.equal(tensor, expected[name]), name
    assert [int(length) for length in encoded["length"]] == expected["attention_mask"].sum(1).tolist()


@pytest.mark.parametrize("kwargs", [{}, {"multi_graph": True}, {"chat_template": "own"}])
def test_prompts_are_the_processors(kwargs):
    """Also where rows have no answer, or a template of one's own has each prompt rendered."""
    if "chat_template" in kwargs:
        kwargs = {"chat_template": tiny.processor().chat_template + " "}
    processor = tiny.processor(**kwargs)
    rows = [{name: value for name, value in one.items() if name != "output"} for one in ROWS]
    encoded = RowEncoder(processor).encode(rows, with_answers=False)
    assert not any(one["problem"] for one in encoded)
    batch = prompt_batch(encoded, processor.tokenizer.pad_token_id, processor.graph_features)
    expected = processor.apply_chat_template(
        [processor.row_messages(one, with_answer=False) for one in rows],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert set(batch) == set(expected)
    for name, tensor in batch.items():
        assert torch.equal(tensor, expected[name]), name


def test_answers_that_begin_inside_a_token():
    """A tokenizer may join an answer's first letters with the line breaks of the chat before it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    newline = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("\n")[0][0]
    merges = [(newline, "A"), (newline, newline), (newline * 2, newline)]  # the first one before all others
    words = [*tiny.SPECIALS, *alphabet, *map("".join, merges)]
    backend = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin_of_text|>", pad_token="<|finetune_right_pad_id|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": tiny.SPECIALS})
    processor = OmniMolProcessor(tokenizer, task_prompts=task_prompts())
    pieces = [tokenizer.tokenize(text) for text in ("\n\n", "\n\nA", "\n\n\n", "\n\nB")]
    assert list(map(len, pieces)) == [1, 2, 1, 2]
    rows = [row("description_qa", "[C][N]", text, []) for text in ("A", "B", "\nB", "\nA", "A\n", " A", "é")]
    for one, encoded in zip(rows, RowEncoder(processor).encode(rows), strict=True):
        expected = processor.apply_chat_template(
            processor.row_messages(one), tokenize=True, return_dict=True, return_labels=True
        )
        for name in ("input_ids", "labels"):
            np.testing.assert_array_equal(encoded[name], np.ravel(expected[name]), err_msg=one["output"])


def test_a_batch_without_molecules_has_no_graph():
    processor = tiny.processor()
    collate = TrainingCollator(processor.tokenizer.pad_token_id)
    batch = collate([encode_row(ROWS[3], processor)])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "label_index", "task_ids"}
    first_has_none = collate([encode_row(ROWS[3], processor), encode_row(ROWS[0], processor)])
    assert first_has_none["atom_features"].shape == (3, 9)
    assert first_has_none["bond_index"].tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]


def test_the_largest_codes_and_molecules_fit():
    """The columns are stored as small integers."""
    smiles = "C" * 1021 + "[Og]"
    encoded, left_out = encode_rows(Dataset.from_list([row("logp", "[C]", "1", [smiles])]), tiny.processor())
    assert not left_out
    batch = TrainingCollator(0)([encoded[0]])
    assert batch["bond_index"].max() == 1021
    assert batch["atom_features"][-1, 0] == 117  # atomic number - 1


BAD = {
    "unreadable: SMILES 'C(('": row("logp", "[C]", "1", ["C(("]),
    "unreadable: unknown task 'logd'": row("logd", "[C]", "1", ["C"]),
    "unreadable: the text of message 1 (assistant) contains the control token": row(
        "logp", "[C]", "1<|eot_id|>", ["C"]
    ),
    "unreadable: message 1 (assistant) has a text block without a string": row("logp", "[C]", None, ["C"]),
    "unreadable: the molecule has 1025 atoms": row("logp", "[C]", "1", ["C" * 1025]),
    "longer than max_length=400": row("tpsa", "[C]" * 200, "1", ["C"]),
}


@pytest.mark.parametrize("problem", BAD)
def test_what_is_wrong_with_a_row(problem):
    encoded = encode_row(BAD[problem], tiny.processor(), max_length=400)
    assert encoded["problem"].startswith(problem)
    assert len(encoded["input_ids"]) == encoded["length"] == 0


def test_bad_rows_are_left_out_and_counted():
    processor = tiny.processor()
    good_rows = [ROWS[0], ROWS[1], ROWS[3]]
    mixed = [good_rows[0], *BAD.values(), *good_rows[1:]]
    encoded, left_out = encode_rows(Dataset.from_list(mixed), processor, max_length=400)
    good, none = encode_rows(Dataset.from_list(good_rows), processor)
    assert len(encoded) == len(good_rows)
    assert_same(encoded, good)
    assert not none
    by_task = {
        task: sum(count for reason, count in left_out.items() if reason.startswith(f"{task}: "))
        for task in ("logp", "logd", "tpsa")
    }
    assert by_task == {"logp": 4, "logd": 1, "tpsa": 1}
    assert left_out["tpsa: longer than max_length=400"] == 1


def test_a_row_of_just_the_longest_length_stays():
    processor = tiny.processor()
    length = encode_row(ROWS[0], processor)["length"]
    assert encode_row(ROWS[0], processor, max_length=length)["problem"] == ""
    assert encode_row(ROWS[0], processor, max_length=length - 1)["problem"] == f"longer than max_length={length - 1}"


def test_several_processes_encode_the_same():
    rows = Dataset.from_list([*ROWS, row("logp", "[C]", "1", ["C(("])])
    alone, left_out_alone = encode_rows(rows, tiny.processor())
    shared, left_out_shared = encode_rows(rows, tiny.processor(), num_proc=2)
    assert left_out_alone == left_out_shared
    assert_same(alone, shared)
