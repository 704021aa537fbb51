"""Encoded rows and their batches: equal to what the processor makes of the same rows, and no row lost unsaid."""

import pytest
import torch
from datasets import Dataset

from omnimol_hf.collation import ENCODED, TrainingCollator, encode_row, encode_rows
from tests import tiny


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
    assert set(batch) == set(expected)
    for name, tensor in batch.items():
        assert tensor.dtype == torch.int64, name
        assert torch.equal(tensor, expected[name]), name
    assert [int(length) for length in encoded["length"]] == expected["attention_mask"].sum(1).tolist()


def test_a_batch_without_molecules_has_no_graph():
    processor = tiny.processor()
    collate = TrainingCollator(processor.tokenizer.pad_token_id)
    batch = collate([encode_row(ROWS[3], processor)])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
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


def test_bad_rows_are_left_out_and_counted():
    bad = {
        "unreadable molecule": row("logp", "[C]", "1", ["C(("]),
        "unknown task": row("logd", "[C]", "1", ["C"]),
        "control token": row("logp", "[C]", "1<|eot_id|>", ["C"]),
        "no answer": row("logp", "[C]", None, ["C"]),
        "too many atoms": row("logp", "[C]", "1", ["C" * 1025]),
        "too long": row("tpsa", "[C]" * 200, "1", ["C"]),
    }
    mixed = [ROWS[0], *bad.values(), ROWS[1], ROWS[3]]
    processor = tiny.processor()
    encoded, left_out = encode_rows(Dataset.from_list(mixed), processor, max_length=400)
    assert list(encoded["task"]) == ["molecular_weight", "logp", "description_qa"]
    good, _ = encode_rows(Dataset.from_list([ROWS[0], ROWS[1], ROWS[3]]), processor)
    for ours, theirs in zip(encoded, good, strict=True):
        for name in ENCODED:
            assert ours[name] == theirs[name] if isinstance(ours[name], str) else (ours[name] == theirs[name]).all()
    assert sum(left_out.values()) == len(bad)
    reasons = " | ".join(left_out)
    for part in ("SMILES 'C(('", "unknown task 'logd'", "control token", "'text'", "1025 atoms", "max_length=400"):
        assert part in reasons
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
    assert alone.with_format(None)[:] == shared.with_format(None)[:]
