"""The processor: the exact chat string, one token an atom, labels of answers only, nothing let through silently."""

import json
from types import SimpleNamespace

import pytest
import tiktoken
import torch
from rdkit import Chem
from tiktoken.load import load_tiktoken_bpe
from tokenizers import processors
from transformers import AutoProcessor, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from omnimol_hf import OmniMolProcessor
from omnimol_hf.chemistry_omnimol import canonical_smiles, mol_from_smiles, selfies_to_smiles, smiles_to_selfies
from omnimol_hf.tasks import ALL_TASKS, TASKS
from tests import tiny

GRAPH = "<|reserved_special_token_0|>"
HEAD = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nA chat between a curious user and an artificial "
    "intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions."
    "<|eot_id|>"
)
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def user(text: str) -> str:
    return f"<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>"


def assistant(text: str | None = None) -> str:
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    return header if text is None else f"{header}{text}<|eot_id|>"


def encode(processor: OmniMolProcessor, messages, **kwargs):
    return processor.apply_chat_template(messages, **({"tokenize": True, "return_dict": True} | kwargs))


def decode(processor: OmniMolProcessor, ids) -> str:
    return processor.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


# ---------------------------------------------------------------- the chat string

CHATS = {
    "one molecule": (tiny.chat("Q?", "CCO", answer="A."), HEAD + user(f"{GRAPH}\nQ?") + assistant("A.")),
    "no molecule": (tiny.chat("Q?", answer="A."), HEAD + user("Q?") + assistant("A.")),
    "plain strings": (
        [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}],
        HEAD + user("Q?") + assistant("A."),
    ),
    "two turns": (
        tiny.chat("Q?", "CCO", answer="A.") + tiny.chat("And this?", "CN", answer="B."),
        HEAD + user(f"{GRAPH}\nQ?") + assistant("A.") + user(f"{GRAPH}\nAnd this?") + assistant("B."),
    ),
    "two molecules": (tiny.chat("Q?", "CCO", "CN"), HEAD + user(f"{GRAPH}\n{GRAPH}\nQ?")),
    "molecule last": (
        [{"role": "user", "content": [{"type": "text", "text": "Q: "}, {"type": "molecule", "smiles": "C"}]}],
        HEAD + user(f"Q: {GRAPH}"),
    ),
    "spaces and line breaks stay": (
        tiny.chat(" Q? \n\n", "C", answer="\tA. "),
        HEAD + user(f"{GRAPH}\n Q? \n\n") + assistant("\tA. "),
    ),
    "own system prompt": (
        [{"role": "system", "content": "Be brief."}, *tiny.chat("Q?")],
        HEAD.split("A chat")[0] + "Be brief.<|eot_id|>" + user("Q?"),
    ),
}


@pytest.mark.parametrize(("messages", "text"), CHATS.values(), ids=CHATS)
def test_chat_string(messages, text):
    processor = tiny.processor()
    assert processor.apply_chat_template(messages) == text
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == text + assistant()


@pytest.mark.parametrize(("messages", "text"), CHATS.values(), ids=CHATS)
def test_ids_with_the_tiny_tokenizer(messages, text):
    processor = tiny.processor()
    sizes = [
        Chem.MolFromSmiles(block["smiles"]).GetNumAtoms()
        for message in messages
        for block in (message["content"] if isinstance(message["content"], list) else [])
        if block["type"] == "molecule"
    ]
    pieces = text.split(GRAPH)
    expanded = pieces[0] + "".join(GRAPH * n + piece for n, piece in zip(sizes, pieces[1:], strict=True))
    ids = encode(processor, messages)["input_ids"]
    assert ids == processor.tokenizer(expanded, add_special_tokens=False)["input_ids"]
    assert ids.count(processor.tokenizer.bos_token_id) == 1
    assert decode(processor, ids) == expanded


@pytest.fixture(scope="module")
def llama3(request):
    """Llama 3's tokenizer from its own file: as transformers has it, and as tiktoken reads it."""
    from tests.conftest import SHARED

    if SHARED is None or not (path := SHARED / "tokenizer" / "tokenizer.model").is_file():
        pytest.skip("no ../shared/tokenizer/tokenizer.model")
    named = {0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id"}
    named |= {7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag"}
    reserved = iter(range(256))
    specials = [
        f"<|{named[i]}|>" if i in named else f"<|reserved_special_token_{next(reserved)}|>" for i in range(256)
    ]
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    backend = TikTokenConverter(str(path), pattern=pattern, extra_special_tokens=specials).converted()
    bos = processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 128000)])
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        additional_special_tokens=specials,
        clean_up_tokenization_spaces=False,
    )
    by_hand = tiktoken.Encoding(
        "llama3",
        pat_str=pattern,
        mergeable_ranks=load_tiktoken_bpe(str(path)),
        special_tokens={token: 128000 + i for i, token in enumerate(specials)},
    )
    return OmniMolProcessor(fast), by_hand


@pytest.mark.parametrize(
    ("smiles", "question", "answer"),
    [
        (ASPIRIN, "What is the molecular weight? The molecule SELFIES sequence is: [C][C][=Branch1][C][=O]", "180.16"),
        ("[Na+].[Cl-]", "Describe it in 12345 words, naïve 你好 😀.", " A salt,\n\nwith 2 ions; -1.20 Å²"),
        (None, "No molecule here.  Two spaces.", "Yes"),
    ],
)
def test_ids_with_the_real_tokenizer(llama3, smiles, question, answer):
    processor, by_hand = llama3
    messages = tiny.chat(question, *filter(None, [smiles]), answer=answer)
    atoms = Chem.MolFromSmiles(smiles).GetNumAtoms() if smiles else 0
    prompt = HEAD + user((GRAPH * atoms + "\n" if atoms else "") + question) + assistant()
    prompt_ids = by_hand.encode(prompt, allowed_special="all")
    answer_ids = by_hand.encode(answer + "<|eot_id|>", allowed_special="all")
    features = encode(processor, messages, return_labels=True)
    assert features["input_ids"] == prompt_ids + answer_ids
    assert features["labels"] == [-100] * len(prompt_ids) + answer_ids
    assert prompt_ids[:2] == [128000, 128006]  # one BOS
    assert features["input_ids"].count(128002) == atoms
    assert encode(processor, messages[:1], add_generation_prompt=True)["input_ids"] == prompt_ids


def test_all_of_llamas_control_tokens_are_refused(llama3):
    for token in (
        "<|eot_id|>",
        GRAPH,
        "<|python_tag|>",
        "<|reserved_special_token_247|>",
        "<|finetune_right_pad_id|>",
    ):
        with pytest.raises(ValueError, match="control token"):
            encode(llama3[0], tiny.chat(f"a {token} b"))


# ---------------------------------------------------------------- labels


def test_labels_are_answers_and_their_ends():
    processor = tiny.processor()
    messages = tiny.chat("Q?", "CCO", answer="The é. ") + tiny.chat("assistant says user", "CN", answer=" B")
    features = encode(processor, messages, return_labels=True)
    ids, labels = features["input_ids"], features["labels"]
    assert len(ids) == len(labels)
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    assert decode(processor, [label for label in labels if label != -100]) == "The é. <|eot_id|> B<|eot_id|>"
    first = len(encode(processor, messages[:1], add_generation_prompt=True)["input_ids"])
    assert labels[:first] == [-100] * first
    assert labels[first] == ids[first]
    assert labels[-1] == processor.tokenizer.eos_token_id


def test_labels_of_a_padded_batch():
    batch = tiny.training_batch(tiny.chat("Q?", "CCO", answer="long answer"), tiny.chat("Q", answer="A"))
    lengths = batch["attention_mask"].sum(1)
    assert lengths[0] > lengths[1]
    assert (batch["labels"][1, lengths[1] :] == -100).all()
    assert (batch["input_ids"][1, lengths[1] :] == tiny.tokenizer().pad_token_id).all()
    kept = batch["labels"] != -100
    assert torch.equal(batch["labels"][kept], batch["input_ids"][kept])


# ---------------------------------------------------------------- molecules

MOLECULES = ["C", "CCO", "[Na+].[Cl-]", ASPIRIN, "F/C=C/F", "[2H]C", "O=C(O)[C@@H](N)C", "[Cu+2]"]


@pytest.mark.parametrize("smiles", MOLECULES)
def test_one_token_an_atom(smiles):
    processor = tiny.processor()
    atoms = Chem.MolFromSmiles(smiles).GetNumAtoms()
    bonds = Chem.MolFromSmiles(smiles).GetNumBonds()
    features = encode(processor, tiny.chat("Q?", smiles), return_tensors="pt")
    assert (features["input_ids"] == processor.graph_token_id).sum() == atoms
    assert features["atom_features"].shape == (atoms, 9)
    assert features["bond_index"].shape == (2, 2 * bonds)
    assert features["bond_features"].shape == (2 * bonds, 3)
    assert all(features[name].dtype == torch.int64 for name in features)


def test_smiles_selfies_and_data_objects_give_the_same():
    processor = tiny.processor()
    canonical = canonical_smiles(mol_from_smiles(ASPIRIN))
    blocks = [
        {"smiles": canonical},
        {"selfies": smiles_to_selfies(ASPIRIN)},
        {"data": SimpleNamespace(smiles=canonical, x=torch.zeros(13, 9))},
    ]
    given = [
        encode(processor, [{"role": "user", "content": [{"type": "molecule", **block}]}], return_tensors="pt")
        for block in blocks
    ]
    for other in given[1:]:
        assert set(other) == set(given[0])
        assert all(torch.equal(other[name], given[0][name]) for name in other)


@pytest.mark.parametrize("side", ["left", "right"])
def test_mixed_batch(side):
    processor = tiny.processor()
    chats = [tiny.chat("only text"), tiny.chat("one", "CCO"), tiny.chat("two of them", "CN", "c1ccccc1")]
    batch = encode(processor, chats, return_tensors="pt", padding_side=side)
    singles = [encode(processor, one, return_tensors="pt") for one in chats]
    for i, single in enumerate(singles):
        mask = batch["attention_mask"][i].bool()
        assert torch.equal(batch["input_ids"][i][mask], single["input_ids"][0])
        assert (batch["input_ids"][i][~mask] == processor.tokenizer.pad_token_id).all()
        assert mask[0 if side == "right" else -1]
    assert not batch["attention_mask"].bool().all()
    assert torch.equal(batch["atom_features"], torch.cat([one["atom_features"] for one in singles[1:]]))
    shifted = torch.cat([singles[1]["bond_index"], singles[2]["bond_index"] + 3], 1)
    assert torch.equal(batch["bond_index"], shifted)
    assert torch.equal(batch["bond_features"], torch.cat([one["bond_features"] for one in singles[1:]]))
    assert singles[2]["bond_index"][:, :2].tolist() == [[0, 1], [1, 0]]
    assert singles[2]["bond_index"][:, 2:].min() == 2  # the ring's atoms come after C and N


def test_padding_side_follows_the_purpose():
    processor = tiny.processor()
    chats = [tiny.chat("x", answer="y"), tiny.chat("a longer one", answer="z")]
    assert encode(processor, chats, return_tensors="pt")["attention_mask"][0, 0] == 1
    asked = [one[:1] for one in chats]
    assert encode(processor, asked, return_tensors="pt", add_generation_prompt=True)["attention_mask"][0, 0] == 0
    assert processor.tokenizer.padding_side == "right"  # never changed behind the user's back
    lists = encode(processor, chats)["input_ids"]
    assert len(lists[0]) < len(lists[1])  # no tensors asked for, no padding
    with pytest.raises(ValueError, match="rows of different lengths"):
        encode(processor, chats, return_tensors="pt", padding=False)


def test_the_two_column_features():
    features = encode(tiny.processor(graph_features="omnimol2"), tiny.chat("Q", "CC"), return_tensors="pt")
    assert features["atom_features"].shape == (2, 2)
    assert features["bond_features"].shape == (2, 2)


def test_called_with_text():
    processor = tiny.processor()
    both = processor(text=[f"a{GRAPH}b", "c"], molecules=[["CCO"], []], return_tensors="np", padding=True)
    assert (both["input_ids"][0] == processor.graph_token_id).sum() == 3
    assert both["atom_features"].shape == (3, 9)
    one = processor(text=f"a{GRAPH}b", molecules=[{"selfies": "[C][C][O]"}])
    assert one["input_ids"][0] == both["input_ids"][0].tolist()
    with pytest.raises(ValueError, match=r"1 placeholders .* for 2 molecules"):
        processor(text=f"a{GRAPH}b", molecules=["CCO", "C"])
    with pytest.raises(TypeError, match=r"unknown arguments .*images"):
        processor(text="a", images=[])


# ---------------------------------------------------------------- refusals


def blocks(*content) -> list[dict]:
    return [{"role": "user", "content": list(content)}]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            tiny.chat("hello <|eot_id|>"),
            r"message 0 \(user\) contains the control token '<\|eot_id\|>' at character 6",
        ),
        (tiny.chat(f"{GRAPH}"), r"control token '<\|reserved_special_token_0\|>' at character 0"),
        ([{"role": "user", "content": "x<|start_header_id|>"}], r"control token '<\|start_header_id\|>'"),
        (tiny.chat("Q", answer="A<|begin_of_text|>"), r"message 1 \(assistant\) contains the control token"),
        ([{"role": "system", "content": "<|eot_id|>"}], r"message 0 \(system\) contains the control token"),
        (blocks({"type": "text", "text": "<|eot_"}, {"type": "text", "text": "id|>"}), "contains the control token"),
        ([{"role": "tool", "content": "x"}], r"message 0 has role 'tool'; expected one of \('system', 'user'"),
        ([{"content": "x"}], "message 0 has role None"),
        ([{"role": "user", "content": None}], "message 0 has content None; expected a string or a list"),
        (blocks({"type": "image", "url": "x"}), "'image'.* only users' messages hold blocks of type 'molecule'"),
        (blocks("x"), "message 0 .* has the block 'x'"),
        (blocks({"type": "text"}), "a text block without a string in 'text'"),
        (blocks({"type": "text", "text": None}), "a text block without a string in 'text'"),
        ([{"role": "assistant", "content": [{"type": "molecule", "smiles": "C"}]}], "only users' messages"),
        ([], "no messages"),
        ([[]], "no messages"),
        (blocks({"type": "molecule"}), "needs exactly one of 'smiles', 'selfies' and 'data'"),
        (blocks({"type": "molecule", "smiles": "C", "selfies": "[C]"}), "needs exactly one of"),
        (blocks({"type": "molecule", "data": SimpleNamespace(x=1)}), "needs its SMILES string in `.smiles`"),
        (tiny.chat("Q", "C(("), r"SMILES 'C\(\('"),
        (tiny.chat("Q", ""), "SMILES ''"),
        (blocks({"type": "molecule", "selfies": "hello"}), "SELFIES 'hello'"),
        (tiny.chat("Q", "C" * 1025), "1025 atoms, more than atom_cap=1024"),
    ],
    ids=str,
)
def test_refusals(messages, said):
    with pytest.raises(ValueError, match=said):
        encode(tiny.processor(), messages)


def test_too_long_is_refused_not_cut():
    processor = tiny.processor()
    length = len(encode(processor, tiny.chat("Q", "CCO"))["input_ids"])
    assert len(encode(processor, tiny.chat("Q", "CCO"), max_length=length)["input_ids"]) == length
    with pytest.raises(
        ValueError, match=f"text 0 has {length} tokens with its molecules, more than max_length={length - 1}"
    ):
        encode(processor, tiny.chat("Q", "CCO"), max_length=length - 1)


def test_a_tokenizer_without_the_placeholder_is_refused():
    with pytest.raises(ValueError, match="no token '<graph>'"):
        OmniMolProcessor(tiny.tokenizer(), graph_token="<graph>")


# ---------------------------------------------------------------- saving, decoding


def test_saving_and_loading(tmp_path):
    processor = tiny.processor(graph_features="omnimol2", atom_cap=77, multi_graph=True)
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == processor.chat_template
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert "chat_template" not in saved
    assert saved["auto_map"]["AutoProcessor"] == "processing_omnimol.OmniMolProcessor"
    for loaded in (AutoProcessor.from_pretrained(tmp_path), OmniMolProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is OmniMolProcessor
        for name in ("graph_token", "graph_features", "atom_cap", "multi_graph", "task_prompts", "chat_template"):
            assert getattr(loaded, name) == getattr(processor, name)
        assert loaded.tokenizer.padding_side == "right"
        chats = [tiny.chat("Q?", "CCO", answer="A"), tiny.chat("Q", answer="B")]
        ours, theirs = (
            encode(one, chats, return_labels=True, return_tensors="pt", padding=True) for one in (processor, loaded)
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_own_chat_template_is_kept(tmp_path):
    OmniMolProcessor(tiny.tokenizer(), chat_template="{{ messages[0]['content'][0]['text'] }}!").save_pretrained(
        tmp_path
    )
    assert AutoProcessor.from_pretrained(tmp_path).apply_chat_template(tiny.chat("hi")) == "hi!"


def test_batch_decode():
    processor = tiny.processor()
    batch = encode(processor, [tiny.chat("x"), tiny.chat("longer")], return_tensors="pt")
    whole = processor.batch_decode(batch["input_ids"])
    assert whole[0].endswith("x<|eot_id|>" + "<|finetune_right_pad_id|>" * whole[0].count("<|finetune_right_pad_id|>"))
    clean = processor.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert clean[1].endswith("user\n\nlonger")
    assert "<|" not in clean[0]


def test_model_input_names():
    processor = tiny.processor()
    features = encode(processor, tiny.chat("Q", "C"))
    assert set(processor.model_input_names) == set(features)


# ---------------------------------------------------------------- tasks

PROCEDURE = (
    "Reactants:$1$: [START_SELFIES][C][C][O][END_SELFIES] $2$: [START_SELFIES][C][=O][END_SELFIES] "
    "Product:$-1$: [START_SELFIES][C][C][O][C][END_SELFIES] Solvents:$3$: [START_SELFIES][O][END_SELFIES]"
)
# What the user gives, the row's input, and the molecules of its graph. Ethanol is not the first in canonical order.
MOLECULE = ("OCC", "[C][C][O]", ["CCO"])
REACTION = ("CCO.CC(=O)O>>CCOC(C)=O", ["CCO", "CC(=O)O"])


def matching_row(task: str) -> tuple[dict, dict]:
    """A dataset row of the task, and what to give `task_messages` for the same question."""
    instruction = TASKS[task].instruction(3, "gap" if TASKS[task].properties else "")
    row = {"task": task, "instruction": instruction, "output": "?"}
    if task == "experiment_procedure":
        graphs = [selfies_to_smiles(part) for part in ("[C][C][O]", "[C][=O]", "[O]")]
        return row | {"input": PROCEDURE, "graph_smiles": graphs}, {"selfies": PROCEDURE}
    if TASKS[task].graph_rule == "reactants":
        smiles, graphs = REACTION
        left, right = (".".join(map(smiles_to_selfies, side.split("."))) for side in smiles.split(">>"))
        return row | {"input": f"{left}>>{right}", "graph_smiles": graphs}, {"molecule": smiles}
    if task == "forward_prediction":
        smiles = REACTION[0].split(">>")[0]
        selfies = ".".join(map(smiles_to_selfies, smiles.split(".")))
        return row | {"input": selfies, "graph_smiles": ["CCO"]}, {"molecule": smiles}
    return row | {"input": MOLECULE[1], "graph_smiles": MOLECULE[2]}, {"molecule": MOLECULE[0]}


@pytest.mark.parametrize("multi_graph", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_task_messages_are_those_of_training(task, multi_graph):
    processor = tiny.processor(multi_graph=multi_graph)
    row, given = matching_row(task)
    asked = processor.row_messages(row, with_answer=False)
    assert processor.task_messages(task, **given, instruction=row["instruction"]) == asked
    trained = processor.row_messages(row)
    assert trained[:1] == asked
    assert trained[1:] == [{"role": "assistant", "content": [{"type": "text", "text": "?"}]}]
    text = processor.apply_chat_template(asked)
    if multi_graph:
        text = text.replace(f"{GRAPH}\n", "")
        assert text == HEAD + user(TASKS[task].user_text(row["instruction"], row["input"]))
    else:
        assert text == HEAD + user(f"{GRAPH}\n" + TASKS[task].user_text(row["instruction"], row["input"]))
        atoms = sum(Chem.MolFromSmiles(smiles).GetNumAtoms() for smiles in row["graph_smiles"])
        assert encode(processor, asked)["input_ids"].count(processor.graph_token_id) == atoms


def test_task_messages_have_an_instruction_of_their_own():
    text = tiny.processor().apply_chat_template(tiny.processor().task_messages("molecular_weight", "OCC"))
    assert text.endswith(
        user(f"{GRAPH}\n{TASKS['molecular_weight'].user_text(TASKS['molecular_weight'].instructions[0], '[C][C][O]')}")
    )


def test_multi_graph_puts_each_graph_before_its_selfies():
    processor = tiny.processor(multi_graph=True)
    row, _ = matching_row("reagent_prediction")
    content = processor.row_messages(row)[0]["content"]
    molecules = [block["selfies"] for block in content if block["type"] == "molecule"]
    assert molecules == row["input"].replace(">>", ".").split(".")
    after = [content[i + 1] for i, block in enumerate(content) if block["type"] == "molecule"]
    assert [block["text"] for block in after] == molecules
    row, _ = matching_row("experiment_procedure")
    content = processor.row_messages(row)[0]["content"]
    molecules = [block["selfies"] for block in content if block["type"] == "molecule"]
    assert molecules == ["[C][C][O]", "[C][=O]", "[C][C][O][C]", "[O]"]


def test_task_mistakes_are_named():
    processor = tiny.processor()
    with pytest.raises(ValueError, match=r"unknown task 'weight'; this processor knows .*molecular_weight"):
        processor.task_messages("weight", "CCO")
    with pytest.raises(ValueError, match="unknown task 'weight'"):
        processor.row_messages({"task": "weight"})
    for task, given in (
        ("logp", {}),
        ("logp", {"molecule": "C", "selfies": "[C]"}),
        ("logp", {"text": "ethanol"}),
        ("iupac_to_selfies", {"molecule": "C"}),
    ):
        with pytest.raises(ValueError, match="exactly one of molecule"):
            processor.task_messages(task, **given)
    with pytest.raises(ValueError, match="is not a reaction"):
        processor.task_messages("reagent_prediction", "CCO")
    with pytest.raises(ValueError, match=r"SMILES 'CC\('"):
        processor.task_messages("logp", "CC(")


def test_task_messages_for_a_task_that_asks_about_words():
    processor = tiny.processor()
    (message,) = processor.task_messages("iupac_to_selfies", text="ethanol")
    first = ALL_TASKS["iupac_to_selfies"].instructions[0]
    assert processor.apply_chat_template([message]).endswith(user(f"{first} The IUPAC name is: ethanol"))
