"""Scores against the libraries used directly and values worked out by hand, and the traps of both protocols."""

import math
import random

import numpy as np
import pytest
import sacrebleu
from nltk.translate.bleu_score import corpus_bleu
from nltk.translate.meteor_score import single_meteor_score
from rdkit import Chem, DataStructs
from rdkit.Chem import AllChem, MACCSkeys
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import mean_absolute_error, r2_score

from omnimol_hf.chemistry_omnimol import smiles_to_selfies
from omnimol_hf.metrics import baseline_name, baseline_predictions, read_number, score_task
from omnimol_hf.metrics.bootstrap import mean_metric, summarise
from omnimol_hf.metrics.procedures import why_invalid
from omnimol_hf.tasks import TASKS

MOLECULE_KEYS = {"exact_match", "bleu", "levenshtein", "rdk", "maccs", "morgan", "validity"}
MOLECULE_KEYS |= {f"exact_match_{how}" for how in ("no_stereo", "inchi", "inchi_no_stereo")}
TEXT_KEYS = {"bleu-2", "bleu-4", "rouge-1", "rouge-2", "rouge-l", "meteor"}
NUMBER_KEYS = {"mae", "r2", "valid_answer_rate"}
PROCEDURE_KEYS = {"validity", *(f"accuracy@{k}" for k in (100, 90, 75, 50)), *TEXT_KEYS} - {"meteor"}

SMILES = ["CCO", "c1ccccc1C(=O)O", "CC(=O)Nc1ccc(O)cc1", "C[C@@H](N)C(=O)O", "CCN(CC)CC", "OC(=O)c1ccccc1Cl"]
OTHERS = ["CCN", "c1ccccc1C(=O)N", "CC(=O)Nc1ccccc1", "CC(N)C(=O)OC", "CCN(C)CC", "OC(=O)c1ccccc1"]
SELFIES = [smiles_to_selfies(text) for text in SMILES]
CAPTIONS = [
    "The molecule is a hydroxy acid. It has a role as a human metabolite.",
    "The molecule is a monocarboxylic acid amide that is acetamide substituted by phenyl.",
    "The molecule is a tertiary amine.",
]
CAPTION_ANSWERS = [
    "The molecule is a hydroxy acid with a role as a metabolite.",
    "It is an amide, substituted by two phenyls.",
    "The molecule is a tertiary amine.",
]


def scores(name, predictions, references, protocol="strict", **kwargs):
    return score_task(TASKS[name], predictions, references, **kwargs)[protocol]


def value(name, predictions, references, metric, protocol="strict", **kwargs):
    return scores(name, predictions, references, protocol, **kwargs)[metric]["value"]


def molecule(prediction, reference, metric, protocol="strict"):
    return value("forward_prediction", [prediction], [reference], metric, protocol)


# --- shape of the result ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "answer", "keys"),
    [
        ("forward_prediction", "[C][O]", MOLECULE_KEYS),
        ("molecular_captioning", "An alcohol.", TEXT_KEYS),
        ("logp", "1.0", NUMBER_KEYS),
        ("experiment_procedure", "ADD $1$ ; STIR", PROCEDURE_KEYS),
    ],
)
def test_keys_fields_and_identity(name, answer, keys):
    both = score_task(TASKS[name], [answer] * 3, [answer] * 3, [answer] * 3, tokenize=str.split)
    assert set(both) == {"strict", "paper"}
    assert set(both["strict"]) == keys
    assert set(both["paper"]) <= keys
    for metric, fields in both["strict"].items():
        assert set(fields) - {"variant"} == {"value", "baseline", "low", "high", "n", "misses"}
        assert fields["n"] == 3
        assert fields["misses"] == {}
        best = {"mae": 0.0, "levenshtein": 0.0, "r2": None}.get(metric, 1.0)
        if metric != "meteor" and not metric.startswith("bleu"):  # METEOR punishes one chunk; 4-grams of 2 words
            assert fields["value"] == fields["baseline"] == best, metric


def test_bad_calls():
    with pytest.raises(ValueError, match=r"equal length.*'predictions': 1.*'references': 2"):
        score_task(TASKS["logp"], ["1"], ["1", "2"])
    with pytest.raises(ValueError, match="logp: there are no rows"):
        score_task(TASKS["logp"], [], [])
    with pytest.raises(ValueError, match=r"reference 1 .*'none'"):
        score_task(TASKS["logp"], ["1", "2"], ["1", "none"])
    with pytest.raises(ValueError, match=r"reference 0 .*'hello'"):
        score_task(TASKS["retrosynthesis"], ["[C]"], ["hello"])


# --- bootstrap -------------------------------------------------------------------------------------------------------


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    fields = summarise({"x": mean_metric(values)}, resamples=10_000)["x"]
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert fields["value"] == pytest.approx(values.mean())
    assert fields["low"] == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert fields["high"] == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        fields = summarise({"x": mean_metric(rng.random(80) < 0.4)}, resamples=300)["x"]
        hits += fields["low"] <= 0.4 <= fields["high"]
    assert 180 <= hits <= 199


def test_too_few_rows_have_no_interval():
    one, two = scores("logp", ["1"], ["2"]), scores("logp", ["1", "3"], ["2", "5"])
    assert (one["mae"]["value"], one["mae"]["low"], one["mae"]["high"]) == (1.0, None, None)
    assert two["r2"]["value"] == pytest.approx(1 - 5 / 4.5)
    assert (two["r2"]["low"], two["r2"]["high"]) == (None, None)  # half of all draws hold one row twice


def test_bootstrap_is_seeded():
    answers, truths = [str(i % 7) for i in range(60)], [str(i % 5) for i in range(60)]
    first, again = (scores("logp", answers, truths)["mae"] for _ in range(2))
    assert first == again
    assert scores("logp", answers, truths, seed=1)["mae"]["low"] != first["low"]


def test_bootstrap_blocks_agree_with_one_block(monkeypatch):
    metric = {"x": mean_metric(np.arange(50.0))}
    whole = summarise(metric, resamples=40)["x"]
    monkeypatch.setattr("omnimol_hf.metrics.bootstrap._BLOCK", 350)
    assert summarise(metric, resamples=40)["x"] == whole


def test_order_of_rows_changes_no_value():
    rng = random.Random(0)
    for name, truths, answers in [
        ("retrosynthesis", SELFIES, [smiles_to_selfies(text) for text in OTHERS]),
        ("molecular_captioning", CAPTIONS, CAPTION_ANSWERS),
    ]:
        pairs = list(zip(answers, truths, strict=True))
        before = scores(name, *zip(*pairs, strict=True))
        rng.shuffle(pairs)
        after = scores(name, *zip(*pairs, strict=True))
        for metric in before:
            assert after[metric]["value"] == pytest.approx(before[metric]["value"], abs=1e-12)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The LogP for the input molecule is -1.20.", -1.2),
        ("-0.2482", -0.2482),
        ("1.2e-3", 0.0012),
        ("-1.5E+02 Hartree", -150.0),
        ("approximately 12.5 g/mol", 12.5),
        ("180.16g/mol", 180.16),
        ("1,234.5 g/mol", 1234.5),
        ("The Topological Polar Surface Area for the input molecule is 26.30 Å².", 26.3),
        ("−0.25", -0.25),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("85 %", 0.85),
        ("HOMO-LUMO gap: 0.25", 0.25),
        ("LogP-1.2", 1.2),
        ("C2H6 weighs 30.07", 30.07),
        ("between 10 and 20", 10.0),
        ("3.5<|eot_id|>", 3.5),
        ("<|reserved_special_token_0|> 7", 7.0),
    ],
)
def test_read_number(text, number):
    assert read_number(text) == pytest.approx(number)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), (" <|eot_id|>", "empty"), ("C2H6", "no number"), ("nan", "no number"), ("1e999", "out of range")],
)
def test_unreadable_number(text, reason):
    with pytest.raises(ValueError, match=reason):
        read_number(text)


def test_numbers_equal_sklearn():
    rng = np.random.default_rng(0)
    truths = rng.normal(-300, 4, 50).round(3)
    answers = (truths + rng.normal(0, 2, 50)).round(3)
    result = scores("scf_energy", [f"{x}" for x in answers], [f"{x}" for x in truths])
    assert result["mae"]["value"] == pytest.approx(mean_absolute_error(truths, answers), rel=1e-9)
    assert result["r2"]["value"] == pytest.approx(r2_score(truths, answers), rel=1e-9)
    assert result["r2"]["low"] < result["r2"]["value"] < result["r2"]["high"]


def test_minus_sign_counts_in_strict_and_is_lost_in_paper():
    task, truth = TASKS["logp"], "The LogP for the input molecule is -1.20."
    both = score_task(task, ["The LogP for the input molecule is 1.20."], [truth])
    assert both["strict"]["mae"]["value"] == pytest.approx(2.4)
    assert both["paper"]["mae"]["value"] == 0.0


def test_unreadable_number_gets_the_baseline_in_strict_and_leaves_paper():
    answers, truths = ["10", "no idea", ""], ["12", "20", "40"]
    both = score_task(TASKS["complexity"], answers, truths, ["15", "15", "15"])
    strict, paper = both["strict"], both["paper"]
    assert strict["mae"]["value"] == pytest.approx((2 + 5 + 25) / 3)
    assert strict["mae"]["baseline"] == pytest.approx((3 + 5 + 25) / 3)
    assert strict["mae"]["n"] == 3
    assert strict["mae"]["misses"] == {"no number": 1, "empty": 1}
    assert strict["valid_answer_rate"]["value"] == pytest.approx(1 / 3)
    assert paper["mae"]["value"] == 2.0
    assert paper["mae"]["n"] == 1
    assert paper["valid_answer_rate"]["n"] == 3
    # without a baseline the median of the references stands in
    assert value("complexity", answers, truths, "mae") == pytest.approx((2 + 0 + 20) / 3)


def test_silence_never_beats_the_baseline():
    result = scores("logp", ["?"] * 4, ["1", "2", "5", "9"], baseline_predictions=["3"] * 4)
    assert result["mae"]["value"] == result["mae"]["baseline"]


def test_paper_readers_differ_by_task():
    sentence, bare = ["energy -0.25"], ["-0.25"]
    assert value("homo_lumo", sentence, bare, "valid_answer_rate", "paper") == 0.0  # float(whole string)
    assert value("homo_lumo", sentence, bare, "mae", "paper") is None
    assert value("homo_lumo", bare, bare, "mae", "paper") == 0.0
    assert value("scf_energy", ["-1.2e1 eV"], ["12"], "mae", "paper") == pytest.approx(24.0)
    assert value("yield_regression", ["nan"], ["0.5"], "valid_answer_rate", "paper") == 0.0


def test_subsets_are_scored_apart():
    answers, truths = ["-0.2", "0.1", "0.3", "-0.4"], ["-0.3", "0.1", "0.5", "-0.4"]
    subsets = ["HOMO", "LUMO", "gap", "HOMO"]
    result = scores("homo_lumo", answers, truths, subsets=subsets)
    assert result["mae/HOMO"]["value"] == pytest.approx(0.05)
    assert result["mae/HOMO"]["n"] == 2
    assert result["mae/gap"]["value"] == pytest.approx(0.2)
    assert result["mae"]["value"] == pytest.approx(0.075)
    assert set(scores("logp", answers, truths, subsets=[""] * 4)) == NUMBER_KEYS


def test_one_absurd_answer_is_a_miss():
    result = scores("logp", ["1e300", "2"], ["1", "2"], baseline_predictions=["0", "0"])
    assert result["mae"]["value"] == pytest.approx(0.5)
    assert result["mae"]["misses"] == {"out of range": 1}


# --- molecules -------------------------------------------------------------------------------------------------------


def test_molecule_scores_equal_the_libraries():
    answers = [smiles_to_selfies(text) for text in OTHERS]
    result = scores("forward_prediction", answers, SELFIES)
    mols = [(Chem.MolFromSmiles(a), Chem.MolFromSmiles(b)) for a, b in zip(OTHERS, SMILES, strict=True)]
    fingerprints = {
        "rdk": Chem.RDKFingerprint,
        "maccs": MACCSkeys.GenMACCSKeys,
        "morgan": lambda mol: AllChem.GetMorganFingerprint(mol, 2),
    }
    for name, fingerprint in fingerprints.items():
        direct = [DataStructs.TanimotoSimilarity(fingerprint(a), fingerprint(b)) for a, b in mols]
        assert result[name]["value"] == pytest.approx(np.mean(direct)), name
    smiles = [(Chem.MolToSmiles(a), Chem.MolToSmiles(b)) for a, b in mols]
    bleu = sacrebleu.BLEU(tokenize="none", smooth_method="none", force=True)
    direct = bleu.corpus_score([" ".join(a) for a, _ in smiles], [[" ".join(b) for _, b in smiles]])
    assert result["bleu"]["value"] == pytest.approx(direct.score / 100)
    paper = scores("forward_prediction", answers, SELFIES, "paper")
    direct = corpus_bleu([[list(text)] for text in SELFIES], [list(text) for text in answers])
    assert paper["bleu"]["value"] == pytest.approx(direct)


def test_levenshtein_by_hand():
    assert molecule(smiles_to_selfies("CCN"), smiles_to_selfies("CCO"), "levenshtein") == 1
    assert molecule(smiles_to_selfies("CCCC"), smiles_to_selfies("CCO"), "levenshtein") == 2
    assert molecule("[Foo]", smiles_to_selfies("CCO"), "levenshtein") == 3  # a miss costs the whole reference


@pytest.mark.parametrize(
    ("prediction", "reference", "strict", "paper"),
    [
        ("C[C@@H](N)C(=O)O", "C[C@H](N)C(=O)O", 0, 1),  # enantiomers
        ("C/C=C/C", "C/C=C\\C", 0, 1),  # E and Z
        ("CC(N)C(=O)O", "C[C@H](N)C(=O)O", 0, 1),  # stereo left out
        ("[2H]C", "C", 0, None),  # isotopes count
        ("OCC", "CCO", 1, 1),  # another way to write it
        ("NCC.OCC", "OCC.NCC", 1, 1),  # order of components
        ("CCO.CCO.CCN", "CCO.CCN", 1, 0),  # a component named twice
        ("[Na+].[Cl-]", "[Cl-].[Na+]", 1, 1),  # salts
        ("CCO", "CCO.CCN", 0, 0),  # a component missing
        ("C[CH2]", "CC", 0, 0),  # radical
        ("C", "C", 1, 1),
    ],
)
def test_exact_match(prediction, reference, strict, paper):
    answer, truth = smiles_to_selfies(prediction), smiles_to_selfies(reference)
    assert molecule(answer, truth, "exact_match") == strict
    if paper is not None:
        assert molecule(answer, truth, "exact_match", "paper") == paper


@pytest.mark.parametrize(
    ("answer", "strict", "paper"),
    [
        ("", 0, 1),  # the empty molecule
        ("hello world", 0, 1),  # decodes to the empty molecule
        ("[Branch1][Ring1]", 0, 1),
        ("[C][O", 0, 0),
        ("[C][Foo]", 0, 0),
        ("[C][O]<|eot_id|>", 1, 1),
        ("The product is [C][O]", 0, None),
        ("[C][nop][O]", 0, 1),
        (".[C]", 0, 1),
    ],
)
def test_validity(answer, strict, paper):
    assert molecule(answer, "[C][O]", "validity") == strict
    if paper is not None:
        assert molecule(answer, "[C][O]", "validity", "paper") == paper


def test_denominators_of_the_two_protocols():
    answers = [SELFIES[0], "[C][O", "", SELFIES[3]]
    both = score_task(TASKS["retrosynthesis"], answers, SELFIES[:4])
    assert both["strict"]["exact_match"]["value"] == 0.5
    assert both["strict"]["exact_match"]["n"] == 4
    assert both["strict"]["exact_match"]["misses"] == {"unreadable": 1, "empty": 1}
    assert both["paper"]["exact_match"]["value"] == pytest.approx(2 / 3)  # the empty molecule is valid and wrong
    assert both["paper"]["exact_match"]["n"] == 3
    assert both["paper"]["exact_match"]["misses"] == {"left out": 1}
    assert both["paper"]["validity"]["value"] == 0.75


def test_equal_molecules_without_a_path_are_similar():
    assert molecule("[C]", "[C]", "rdk") == 1.0
    # The paper's protocol takes what RDKit says of two empty fingerprints: 0 in newer versions, 1 in older ones.
    methane = Chem.RDKFingerprint(Chem.MolFromSmiles("C"))
    assert molecule("[C]", "[C]", "rdk", "paper") == DataStructs.TanimotoSimilarity(methane, methane)


def test_nothing_readable_at_all():
    both = score_task(TASKS["forward_prediction"], ["[X]", "[X]"], SELFIES[:2])
    assert {metric: both["strict"][metric]["value"] for metric in ("exact_match", "bleu", "morgan", "validity")} == {
        "exact_match": 0.0,
        "bleu": 0.0,
        "morgan": 0.0,
        "validity": 0.0,
    }
    assert both["paper"]["exact_match"]["value"] is None
    assert both["paper"]["bleu"]["value"] == 0.0


def test_rambling_answer_is_a_miss():
    result = scores("forward_prediction", ["[C]" * 4000], SELFIES[:1])
    assert result["exact_match"]["value"] == 0.0


# --- text ------------------------------------------------------------------------------------------------------------


def test_text_scores_equal_the_libraries():
    def words(text):
        return text.replace(".", " .").replace(",", " ,").split()

    result = scores("molecular_captioning", CAPTION_ANSWERS, CAPTIONS)
    truths, answers = [[words(text)] for text in CAPTIONS], [words(text) for text in CAPTION_ANSWERS]
    assert result["bleu-2"]["value"] == pytest.approx(corpus_bleu(truths, answers, (0.5, 0.5)))
    assert result["bleu-4"]["value"] == pytest.approx(corpus_bleu(truths, answers))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    rows = [scorer.score(truth, answer) for truth, answer in zip(CAPTIONS, CAPTION_ANSWERS, strict=True)]
    for metric, key in {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL"}.items():
        assert result[metric]["value"] == pytest.approx(np.mean([row[key].fmeasure for row in rows]))


def test_rouge_l_by_hand():
    # longest common subsequence "the molecule is acid": 4 of 5 and 4 of 6 words
    answer, truth = "the molecule is an acid", "the molecule is a strong acid"
    assert value("description_qa", [answer], [truth], "rouge-l") == pytest.approx(2 * 4 / (5 + 6))


def test_meteor_names_its_variant_and_matches_stems_only():
    class Synonyms:  # what WordNet would say
        def synsets(self, word):
            return []

    result = scores("description_qa", ["the molecules smell"], ["the molecule smelled"])["meteor"]
    direct = single_meteor_score(["the", "molecule", "smelled"], ["the", "molecules", "smell"], wordnet=Synonyms())
    assert result["value"] == pytest.approx(direct)
    assert result["value"] > 0.9
    assert "no WordNet" in result["variant"]


def test_empty_text_is_a_miss():
    result = scores("description_qa", ["", "<|eot_id|>", CAPTIONS[2]], CAPTIONS)
    assert result["rouge-l"]["misses"] == {"empty": 2}
    assert result["rouge-l"]["value"] == pytest.approx(1 / 3)
    assert result["bleu-2"]["value"] < 0.5


def test_end_token_lowers_rouge_in_paper_only():
    left_in = [f"{text}<|eot_id|>" for text in CAPTIONS]
    both = score_task(TASKS["molecular_captioning"], left_in, CAPTIONS, tokenize=str.split)
    assert both["strict"]["rouge-1"]["value"] == 1.0
    assert both["paper"]["rouge-1"]["value"] < 1.0
    assert both["paper"]["bleu-2"]["value"] == pytest.approx(1.0)


def test_paper_text_needs_the_models_tokenizer():
    task = TASKS["molecular_captioning"]
    assert set(score_task(task, CAPTIONS, CAPTIONS)["paper"]) == {"rouge-1", "rouge-2", "rouge-l"}
    by_letters = score_task(task, CAPTION_ANSWERS, CAPTIONS, tokenize=list)["paper"]
    truths, answers = [[list(text)] for text in CAPTIONS], [list(text) for text in CAPTION_ANSWERS]
    assert by_letters["bleu-4"]["value"] == pytest.approx(corpus_bleu(truths, answers))


# --- procedures ------------------------------------------------------------------------------------------------------

PROCEDURE = "ADD $1$ (1.2 g) ; ADD $2$ ; STIR for 2 h ; YIELD $-1$"


@pytest.mark.parametrize(
    ("procedure", "reason"),
    [
        (PROCEDURE, None),
        ("STIR", None),
        ("ADD $2$ ; YIELD $-1$", None),
        ("ADD $3$ ; YIELD $-1$", "unknown component"),
        ("MIX $1$", "unknown action"),
        ("ADD $1$ ; ; STIR", "unknown action"),
        ("stir", "unknown action"),
        ("", "empty"),
        (" ; ", "empty"),
    ],
)
def test_procedure_validity(procedure, reason):
    assert why_invalid(procedure, PROCEDURE) == reason


def test_procedure_accuracy_thresholds():
    truth = "ADD $1$ ; STIR ; ADD"  # 20 characters
    answers = [truth, truth[:-2] + "XY", truth[:-5] + "?????", truth[:-10] + "?" * 10, truth[:-11] + "?" * 11]
    result = scores("experiment_procedure", answers, [truth] * 5)
    assert [result[f"accuracy@{k}"]["value"] for k in (100, 90, 75, 50)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_paper_procedure_validity_is_always_zero():
    result = scores("experiment_procedure", [PROCEDURE], [PROCEDURE], "paper")
    assert result["validity"]["value"] == 0.0
    assert "accuracy@100" not in result


def test_published_procedures_are_valid(shared):
    import json

    path = shared / "raw" / "orgsyn_procedures" / "valid.jsonl"
    targets = [json.loads(line)["target"] for line in path.read_text().splitlines()]
    assert {why_invalid(target, target) for target in targets} == {None}


# --- baselines -------------------------------------------------------------------------------------------------------


def rows_of(outputs, subsets=None):
    subsets = subsets or [""] * len(outputs)
    return [{"output": output, "subset": subset} for output, subset in zip(outputs, subsets, strict=True)]


def test_baseline_of_numbers_is_the_training_median():
    train = rows_of([f"The LogP for the input molecule is {x:.2f}." for x in (-3, -1, 2, 5, 9)])
    answers = baseline_predictions(TASKS["logp"], train, rows_of(["1", "2"]))
    assert answers == ["The LogP for the input molecule is 2.00."] * 2
    assert baseline_name(TASKS["logp"]) == "training median"


def test_baseline_median_of_each_subset():
    train = rows_of(["-0.3", "-0.2", "-0.1", "0.1", "0.2", "0.3"], ["HOMO"] * 3 + ["LUMO"] * 3)
    test = rows_of(["0", "0", "0"], ["LUMO", "HOMO", "gap"])
    assert baseline_predictions(TASKS["homo_lumo"], train, test) == ["0.2000", "-0.2000", "0.0000"]


def test_baseline_of_other_answers_is_the_commonest():
    train = rows_of(["[C]", "[O]", "[O]", "[N]"], ["a", "b", "b", "a"])
    assert baseline_predictions(TASKS["solvent_prediction"], train, rows_of(["[C]"], ["a"])) == ["[O]"]
    assert baseline_name(TASKS["solvent_prediction"]) == "most frequent training answer"


def test_baseline_errors():
    with pytest.raises(ValueError, match="logp: a baseline needs training rows"):
        baseline_predictions(TASKS["logp"], [], rows_of(["1"]))
    with pytest.raises(ValueError, match="logp: a training answer is not a number"):
        baseline_predictions(TASKS["logp"], rows_of(["soluble"]), rows_of(["1"]))
