"""The `paper` protocol: each known behaviour of the authors' evaluation, one test each."""

import numpy as np
import pytest
import selfies
from nltk.translate.bleu_score import corpus_bleu
from nltk.translate.meteor_score import single_meteor_score
from rapidfuzz.distance import Levenshtein
from rdkit import Chem, DataStructs
from rdkit.Chem import QED, MACCSkeys
from rdkit.Chem.rdMolDescriptors import GetMorganFingerprint, GetMorganFingerprintAsBitVect
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import mean_absolute_error, r2_score

from omnimol_hf.chemistry_omnimol import smiles_to_selfies
from omnimol_hf.metrics import protocol_differences, score_task
from omnimol_hf.metrics.molecules import read_molecule, read_molecule_as_paper
from omnimol_hf.tasks import ALL_TASKS

TRUTHS = [smiles_to_selfies(smiles) for smiles in ("C[C@@H](N)C(=O)O", "OCC(O)c1ccccc1", "CC(=O)Nc1ccc(O)cc1", "CCCN")]
ANSWERS = [
    smiles_to_selfies("C[C@H](N)C(=O)O"),
    smiles_to_selfies("OCC(N)c1ccccc1"),
    "[C][O",
    smiles_to_selfies("CCC"),
]
VALID = [0, 1, 3]


def paper(name, answers, truths, **kwargs):
    return score_task(ALL_TASKS[name], answers, truths, **kwargs)["paper"]


def flat(text):
    mol = Chem.MolFromSmiles(selfies.decoder(text))
    return Chem.MolFromSmiles(Chem.MolToSmiles(mol, isomericSmiles=False))


# --- molecules -------------------------------------------------------------------------------------------------------


def test_stereochemistry_is_dropped():
    result = paper("forward_prediction", ANSWERS[:1], TRUTHS[:1])
    assert result["exact_match"]["value"] == 1
    assert result["levenshtein"]["value"] == 0


def test_exact_match_is_equality_of_inchi():
    amide, imidic_acid = smiles_to_selfies("CC(N)=O"), smiles_to_selfies("CC(=N)O")
    assert Chem.MolToInchi(flat(amide)) == Chem.MolToInchi(flat(imidic_acid))
    result = paper("forward_prediction", [imidic_acid], [amide])
    assert result["exact_match"]["value"] == 1
    assert result["levenshtein"]["value"] == 2


def test_molecule_scores_are_means_over_valid_answers_only():
    result = paper("forward_prediction", ANSWERS, TRUTHS)
    pairs = [(flat(ANSWERS[i]), flat(TRUTHS[i])) for i in VALID]
    smiles = [(Chem.MolToSmiles(a), Chem.MolToSmiles(b)) for a, b in pairs]
    fingerprints = {
        "rdk": Chem.RDKFingerprint,  # 2048 bits, paths up to 7 bonds
        "maccs": MACCSkeys.GenMACCSKeys,
        "morgan": lambda mol: GetMorganFingerprint(mol, 2),  # counts, not folded
    }
    for name, of in fingerprints.items():
        direct = np.mean([DataStructs.TanimotoSimilarity(of(a), of(b)) for a, b in pairs])
        assert result[name]["value"] == pytest.approx(direct), name
    assert result["levenshtein"]["value"] == pytest.approx(np.mean([Levenshtein.distance(*pair) for pair in smiles]))
    assert result["exact_match"]["value"] == pytest.approx(1 / 3)
    assert {name: fields["n"] for name, fields in result.items()} == dict.fromkeys(result, 3) | {"validity": 4}
    assert result["exact_match"]["misses"] == {"left out": 1}
    assert result["validity"]["value"] == 0.75


def test_bleu_runs_over_the_characters_of_the_selfies_of_valid_answers():
    result = paper("forward_prediction", ANSWERS, TRUTHS)
    direct = corpus_bleu([[list(TRUTHS[i])] for i in VALID], [list(ANSWERS[i]) for i in VALID])
    assert result["bleu"]["value"] == pytest.approx(direct)


@pytest.mark.parametrize("answer", ["", "hello world", "[Branch1][Ring1]"])
def test_text_that_decodes_to_nothing_is_a_valid_molecule(answer):
    assert selfies.decoder(answer) == ""
    assert paper("forward_prediction", [answer], TRUTHS[:1])["validity"]["value"] == 1


@pytest.mark.parametrize("answer", ["[C][O", "[C][Foo]"])
def test_hanging_bracket_and_unknown_symbol_are_invalid(answer):
    assert paper("forward_prediction", [answer], TRUTHS[:1])["validity"]["value"] == 0


def test_components_are_decoded_together():
    # [Ring1] with the index [Branch2], 4, points back beyond its component, to the one before
    text = "[C][C][C].[C][C][C][Ring1][Branch2]"
    alone = [selfies.decoder(component) for component in text.split(".")]
    together = Chem.MolToSmiles(Chem.MolFromSmiles(selfies.decoder(text)))
    assert together != Chem.MolToSmiles(Chem.MolFromSmiles(".".join(alone)))
    assert read_molecule_as_paper(text).smiles == together
    assert read_molecule(text).smiles == Chem.MolToSmiles(Chem.MolFromSmiles(".".join(alone)))


# --- text ------------------------------------------------------------------------------------------------------------

CAPTIONS = ["the molecule is an organic acid", "a salt of sodium"]
CAPTION_ANSWERS = ["the molecule is an acid", "sodium salt"]


def test_tokens_are_pieces_of_the_models_tokenizer():
    result = paper("molecular_captioning", CAPTION_ANSWERS, CAPTIONS, tokenize=list, tokenizer_name="letters")
    truths, answers = [[list(text)] for text in CAPTIONS], [list(text) for text in CAPTION_ANSWERS]
    assert result["bleu-2"]["value"] == pytest.approx(corpus_bleu(truths, answers, (0.5, 0.5)))
    assert result["bleu-4"]["value"] == pytest.approx(corpus_bleu(truths, answers))
    assert result["bleu-4"]["variant"] == "pieces of letters"


def test_texts_are_cut_at_512_pieces():
    truth = "a b " * 256
    result = paper("description_qa", [truth + "c d e f " * 50], [truth], tokenize=str.split)
    assert result["bleu-4"]["value"] == pytest.approx(1)
    assert result["rouge-1"]["value"] < 0.9  # ROUGE sees all of it


def test_meteor_runs_over_the_pieces():
    class NoSynonyms:
        def synsets(self, word):
            return []

    pieces = str.split
    result = paper("description_qa", CAPTION_ANSWERS, CAPTIONS, tokenize=pieces)
    direct = [
        single_meteor_score(pieces(truth), pieces(answer), wordnet=NoSynonyms())
        for truth, answer in zip(CAPTIONS, CAPTION_ANSWERS, strict=True)
    ]
    assert result["meteor"]["value"] == pytest.approx(np.mean(direct))


def test_end_token_counts_as_words_in_rouge_alone():
    left_in = [f"{text}<|eot_id|>" for text in CAPTIONS]
    result = paper("molecular_captioning", left_in, CAPTIONS, tokenize=str.split)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for metric, key in {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL"}.items():
        direct = np.mean([scorer.score(*pair)[key].fmeasure for pair in zip(CAPTIONS, left_in, strict=True)])
        assert result[metric]["value"] == pytest.approx(direct)
        assert direct < 1
    assert result["bleu-4"]["value"] == pytest.approx(1)


def test_empty_texts_are_averaged_like_all_others():
    result = paper("molecular_captioning", ["", CAPTIONS[1]], CAPTIONS, tokenize=str.split)
    assert result["rouge-l"]["value"] == 0.5
    assert result["rouge-l"]["n"] == 2
    assert result["rouge-l"]["misses"] == {}


def test_no_procedure_is_valid_and_accuracies_are_not_given():
    steps = "ADD $1$ ; STIR ; YIELD $-1$"
    result = paper("experiment_procedure", [steps], [steps], tokenize=str.split)
    assert result["validity"]["value"] == 0
    assert set(result) == {"validity", "bleu-2", "bleu-4", "rouge-1", "rouge-2", "rouge-l"}


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["logp", "tpsa", "complexity", "molecular_weight"])
def test_minus_sign_is_lost_in_answer_and_reference(task):
    result = paper(task, ["-1.20", "3.0"], ["It is 1.50.", "It is -3.00."])
    assert result["mae"]["value"] == pytest.approx(0.15)


def test_scf_energy_keeps_sign_and_exponent():
    assert paper("scf_energy", ["-1.5e2 Hartree"], ["-150.5"])["mae"]["value"] == pytest.approx(0.5)


@pytest.mark.parametrize("task", ["homo_lumo", "yield_regression"])
def test_only_a_bare_number_is_read(task):
    result = paper(task, ["0.25", "It is 0.25", "0.25 Hartree", "25 %"], ["0.20"] * 4)
    assert result["mae"]["value"] == pytest.approx(0.05)
    assert (result["mae"]["n"], result["mae"]["misses"]) == (1, {"no number": 3})
    assert result["valid_answer_rate"]["value"] == 0.25


def test_orbital_energies_are_averaged_by_property_and_pooled():
    answers, truths = ["-0.20", "0.10", "0.30", "?"], ["-0.30", "0.10", "0.35", "0.50"]
    result = paper("homo_lumo", answers, truths, subsets=["HOMO", "LUMO", "gap", "gap"])
    means = [result[f"mae/{name}"]["value"] for name in ("HOMO", "LUMO", "gap")]
    assert means == pytest.approx([0.1, 0, 0.05])
    assert result["mae"]["value"] == pytest.approx(0.05)
    assert result["mae/gap"]["misses"] == {"no number": 1}


def test_yield_sets_have_an_r2_each_over_what_is_read():
    rng = np.random.default_rng(0)
    truths = rng.random(40).round(4)
    answers = (truths + rng.normal(0, 0.1, 40)).round(4)
    texts = [str(x) for x in answers]
    texts[3] = "unknown"
    subsets = ["B-H"] * 20 + ["S-M"] * 20
    result = paper("yield_regression", texts, [str(x) for x in truths], subsets=subsets)
    read = np.arange(40) != 3
    for name, rows in {"B-H": read[:20].nonzero()[0], "S-M": np.arange(20, 40)}.items():
        assert result[f"r2/{name}"]["value"] == pytest.approx(r2_score(truths[rows], answers[rows]))
        assert result[f"mae/{name}"]["value"] == pytest.approx(mean_absolute_error(truths[rows], answers[rows]))
    assert result["r2"]["value"] == pytest.approx(r2_score(truths[read], answers[read]))


# --- molecule editing ------------------------------------------------------------------------------------------------


def test_edits_succeed_by_drug_likeness_and_by_similarity_to_the_reference():
    smiles = ["CC(=O)Nc1ccc(O)cc1", "CCCCCCCCCCCC", "c1ccccc1CC(N)C(=O)O"]
    truths = ["CC(=O)Nc1ccc(OC)cc1", "CCCCCCCCCCCO", "CCO"]
    mols = [[Chem.MolFromSmiles(one) for one in pair] for pair in zip(smiles, truths, strict=True)]
    bits = [[GetMorganFingerprintAsBitVect(mol, 2, 2048) for mol in pair] for pair in mols]
    drug_like = [QED.qed(answer) >= 0.6 for answer, _ in mols]
    similar = [DataStructs.TanimotoSimilarity(*pair) >= 0.4 for pair in bits]
    assert 0 < sum(drug_like) < 3
    assert 0 < sum(similar) < 3
    answers = [*map(smiles_to_selfies, smiles), "[Foo]"]
    both = score_task(ALL_TASKS["molecule_editing"], answers, [*map(smiles_to_selfies, truths), TRUTHS[0]])
    assert both["paper"]["success_qed"]["value"] == pytest.approx(np.mean(drug_like))
    assert both["paper"]["success_similarity"]["value"] == pytest.approx(np.mean(similar))
    assert both["strict"]["success_qed"]["value"] == pytest.approx(sum(drug_like) / 4)
    assert both["strict"]["success_qed"]["misses"] == {"unreadable": 1}


# --- how far apart the protocols are ---------------------------------------------------------------------------------


def test_differences_of_the_protocols():
    results = {
        "logp": score_task(ALL_TASKS["logp"], ["1.2", "?"], ["-1.2", "3"], ["3", "3"]),
        "scf_energy": score_task(ALL_TASKS["scf_energy"], ["?"], ["1"]),
        "molecular_captioning": score_task(ALL_TASKS["molecular_captioning"], CAPTIONS, CAPTIONS),
    }
    differences = protocol_differences(results)
    assert differences["logp"]["mae"] == {"strict": 1.2, "paper": 0.0, "difference": -1.2}
    assert differences["scf_energy"]["mae"]["paper"] is None
    assert differences["scf_energy"]["mae"]["difference"] is None
    assert set(differences["molecular_captioning"]) == {"rouge-1", "rouge-2", "rouge-l"}  # the others lack a tokenizer
