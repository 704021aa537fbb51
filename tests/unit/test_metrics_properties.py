"""All scores on made-up answers: against the libraries used directly, and what must hold whatever the rows."""

import random

import numpy as np
import pytest
import sacrebleu
from nltk import wordpunct_tokenize
from nltk.stem.porter import PorterStemmer
from nltk.translate.bleu_score import corpus_bleu
from nltk.translate.meteor_score import single_meteor_score
from rapidfuzz.distance import Levenshtein
from rdkit import Chem, DataStructs, RDLogger
from rdkit.Chem import MACCSkeys
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rouge_score.rouge_scorer import RougeScorer

from omnimol_hf.chemistry_omnimol import smiles_to_selfies
from omnimol_hf.metrics import score_task
from omnimol_hf.tasks import TASKS

PARTS = ["C", "CC", "C(C)", "C(=O)", "N", "O", "C(Cl)", "[C@@H](C)", "[C@H](O)", "C1CC1", "c1ccccc1", "C(F)", "S"]
WORDS = wordpunct_tokenize(
    "The molecule is an organic acid ester; it has two rings, a role as metabolite and - in it."
)
ACTIONS = ["ADD $1$", "ADD $2$ (3 mL)", "STIR for 2 h", "FILTER", "WASH $3$", "CONCENTRATE", "YIELD $-1$"]


def molecules(rng, n):
    made = []
    while len(made) < n:
        parts = rng.choices(PARTS, k=rng.randint(2, 9))
        made.append(smiles_to_selfies(".".join("C" + "".join(parts[i::2]) for i in range(rng.choice([1, 1, 2])))))
    return made


def altered(rng, truth, others):
    """The truth, or another answer that shares symbols with it."""
    if rng.random() < 0.4:
        return truth
    symbols = truth.split("[")[1:]
    for _ in range(rng.randint(1, 3)):
        symbols[rng.randrange(len(symbols))] = rng.choice(symbols).replace(".", "")
    return rng.choice(["[" + "[".join(symbols), rng.choice(others)])


def sentences(rng, n, words, low, high, glue):
    return [glue.join(rng.choices(words, k=rng.randint(low, high))) for _ in range(n)]


def rows(name, n=60, seed=0):
    """Answers and references of a task, with some answers right."""
    rng = random.Random(f"{name} {seed}")
    kind = TASKS[name].answer
    if kind == "molecule":
        truths = molecules(rng, n)
        return [altered(rng, truth, truths) for truth in truths], truths
    if kind == "number":
        truths = [rng.gauss(-2, 5) for _ in range(n)]
        answers = [truth + rng.choice([0, rng.gauss(0, 1)]) for truth in truths]
        return [f"{x:.3f}" for x in answers], [f"It is {x:.3f}." for x in truths]
    make = (
        (lambda: sentences(rng, n, WORDS, 5, 30, " "))
        if kind == "text"
        else (lambda: sentences(rng, n, ACTIONS, 2, 8, " ; "))
    )
    truths, others = make(), make()
    return [
        rng.choice([truth, other, truth + " " + other]) for truth, other in zip(truths, others, strict=True)
    ], truths


NAMES = ["retrosynthesis", "logp", "molecular_captioning", "experiment_procedure"]


# --- against the libraries -------------------------------------------------------------------------------------------


def test_bleu_equals_sacrebleu_and_nltk():
    answers, truths = rows("molecular_captioning")
    result = score_task(TASKS["molecular_captioning"], answers, truths)["strict"]
    split = [[wordpunct_tokenize(text) for text in texts] for texts in (answers, truths)]
    joined = [[" ".join(words) for words in texts] for texts in split]
    for order in (2, 4):
        bleu = sacrebleu.BLEU(tokenize="none", smooth_method="none", max_ngram_order=order, force=True)
        direct = bleu.corpus_score(joined[0], [joined[1]]).score / 100
        assert result[f"bleu-{order}"]["value"] == pytest.approx(direct)
        by_nltk = corpus_bleu([[words] for words in split[1]], split[0], [1 / order] * order)
        assert result[f"bleu-{order}"]["value"] == pytest.approx(by_nltk)


@pytest.mark.parametrize("name", ["molecular_captioning", "experiment_procedure"])
def test_rouge_equals_rouge_score(name):
    answers, truths = rows(name)
    answers[:3] = ["", "###", "An ACID-ester's 2,5-di_oxo form"]
    result = score_task(TASKS[name], answers, truths)["strict"]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    scored = [scorer.score(truth, answer) for answer, truth in zip(answers, truths, strict=True)]
    for metric, key in {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL"}.items():
        assert result[metric]["value"] == pytest.approx(np.mean([row[key].fmeasure for row in scored]))


def test_meteor_equals_nltk():
    class NoSynonyms:
        def synsets(self, word):
            return []

    answers, truths = rows("molecular_captioning")
    direct = [
        single_meteor_score(
            wordpunct_tokenize(truth), wordpunct_tokenize(answer), stemmer=PorterStemmer(), wordnet=NoSynonyms()
        )
        for answer, truth in zip(answers, truths, strict=True)
    ]
    result = score_task(TASKS["molecular_captioning"], answers, truths)["strict"]["meteor"]
    assert result["value"] == pytest.approx(np.mean(direct))


def test_molecules_equal_rdkit():
    """Strict scores from the molecules as RDKit has them, without any of the short cuts."""
    import selfies

    answers, truths = rows("retrosynthesis")
    result = score_task(TASKS["retrosynthesis"], answers, truths)["strict"]
    RDLogger.DisableLog("rdApp.*")
    morgan = GetMorganGenerator(radius=2)
    prints = {"rdk": Chem.RDKFingerprint, "maccs": MACCSkeys.GenMACCSKeys, "morgan": morgan.GetSparseCountFingerprint}
    spaced = []
    sums = dict.fromkeys([*prints, "exact_match", "exact_match_inchi", "levenshtein"], 0.0)
    for texts in zip(answers, truths, strict=True):
        smiles = [".".join(map(selfies.decoder, text.split("."))) for text in texts]
        smiles = [Chem.CanonSmiles(Chem.CanonSmiles(one)) for one in smiles]
        mols = [Chem.MolFromSmiles(one) for one in smiles]
        sets = [set(one.split(".")) for one in smiles]
        inchis = [{Chem.MolToInchi(Chem.MolFromSmiles(part)) for part in parts} for parts in sets]
        sums["exact_match"] += sets[0] == sets[1]
        sums["exact_match_inchi"] += inchis[0] == inchis[1]
        sums["levenshtein"] += Levenshtein.distance(*smiles)
        spaced.append([" ".join(one) for one in smiles])
        for name, of in prints.items():
            sums[name] += DataStructs.TanimotoSimilarity(*map(of, mols)) if sets[0] != sets[1] else 1
    RDLogger.EnableLog("rdApp.*")
    for name, total in sums.items():
        assert result[name]["value"] == pytest.approx(total / len(truths)), name
    exact = {name: fields["value"] for name, fields in result.items() if name.startswith("exact_match")}
    assert 0 < exact["exact_match"] <= min(exact["exact_match_no_stereo"], exact["exact_match_inchi"])
    assert max(exact.values()) == exact["exact_match_inchi_no_stereo"] < 1
    bleu = sacrebleu.BLEU(tokenize="none", smooth_method="none", force=True)
    found, expected = zip(*spaced, strict=True)
    assert result["bleu"]["value"] == pytest.approx(bleu.corpus_score(found, [expected]).score / 100)


# --- variants of exact match -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "truth", "canonical", "no_stereo", "inchi", "inchi_no_stereo"),
    [
        ("CCO", "OCC", 1, 1, 1, 1),
        ("C[C@@H](N)O", "C[C@H](N)O", 0, 1, 0, 1),
        ("F/C=C\\F", "F/C=C/F", 0, 1, 0, 1),
        ("CC(=N)O", "CC(N)=O", 0, 0, 1, 1),  # tautomers
        ("C[C@@H](O)C(=N)O", "C[C@H](O)C(N)=O", 0, 0, 0, 1),
        ("[2H]CO", "CO", 0, 0, 0, 0),
        ("CCO.CC(=N)O", "CC(N)=O.CCO", 0, 0, 1, 1),
        ("CCO.CCO", "CCO", 1, 1, 1, 1),
        ("[Na]Cl", "[Na+].[Cl-]", 0, 0, 1, 1),
        ("CCO", "COC", 0, 0, 0, 0),
        ("CCO.CN", "CCO", 0, 0, 0, 0),
    ],
)
def test_variants_of_exact_match(answer, truth, canonical, no_stereo, inchi, inchi_no_stereo):
    pair = smiles_to_selfies(answer), smiles_to_selfies(truth)
    result = score_task(TASKS["reagent_prediction"], [pair[0]], [pair[1]])["strict"]
    names = ("exact_match", "exact_match_no_stereo", "exact_match_inchi", "exact_match_inchi_no_stereo")
    assert [result[name]["value"] for name in names] == [canonical, no_stereo, inchi, inchi_no_stereo]


# --- whatever the rows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_right_answers_score_perfectly(name):
    _, truths = rows(name)
    both = score_task(TASKS[name], truths, truths, tokenize=str.split)
    for protocol, metrics in both.items():
        for metric, fields in metrics.items():
            if (protocol, metric) == ("paper", "bleu"):
                continue  # below 1, because nltk counts one n-gram in a text too short for any
            best = 0.0 if metric in ("mae", "levenshtein") or (protocol, name, metric) == DEAD else 1.0
            slack = 0.01 if metric == "meteor" else 1e-12  # METEOR takes off 0.5 / m^3 for the one chunk of m words
            assert fields["value"] == pytest.approx(best, abs=slack), (protocol, metric)
            assert fields["low"] <= fields["value"] + 1e-12
            assert fields["value"] <= fields["high"] + 1e-12


DEAD = ("paper", "experiment_procedure", "validity")


@pytest.mark.parametrize("smiles", ["O", "CO", "ClCCl", "C.O"])
def test_right_answers_too_short_for_ngrams_score_perfectly(smiles):
    text = smiles_to_selfies(smiles)
    strict = score_task(TASKS["solvent_prediction"], [text, text], [text, text])["strict"]
    values = {metric: fields["value"] for metric, fields in strict.items()}
    assert values == dict.fromkeys(values, 1.0) | {"levenshtein": 0.0}
    short = score_task(TASKS["description_qa"], ["Yes"], ["Yes"])["strict"]
    assert short["bleu-4"]["value"] == short["bleu-2"]["value"] == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_order_of_rows_changes_nothing(name):
    answers, truths = rows(name)
    order = random.Random(1).sample(range(len(truths)), len(truths))
    before = score_task(TASKS[name], answers, truths, tokenize=str.split)
    after = score_task(TASKS[name], [answers[i] for i in order], [truths[i] for i in order], tokenize=str.split)
    for protocol, metrics in before.items():
        for metric, fields in metrics.items():
            other = after[protocol][metric]
            assert other["value"] == pytest.approx(fields["value"], abs=1e-12), (protocol, metric)
            assert (other["n"], other["misses"]) == (fields["n"], fields["misses"])


@pytest.mark.parametrize("name", ["retrosynthesis", "logp"])
def test_unreadable_answers_move_only_what_they_should(name):
    answers, truths = rows(name)
    bad = len(truths) // 4
    task, constant = TASKS[name], ["0"] * len(truths)
    before = score_task(task, answers[bad:], truths[bad:], constant[bad:] if name == "logp" else None)
    after = score_task(task, ["[?"] * bad + answers[bad:], truths, constant if name == "logp" else None)
    share = 1 - bad / len(truths)
    for metric, fields in after["paper"].items():  # only the rate of valid answers knows of them
        expected = before["paper"][metric]["value"] * (share if metric in ("validity", "valid_answer_rate") else 1)
        assert fields["value"] == pytest.approx(expected), metric
    for metric in ("exact_match", "rdk", "maccs", "morgan", "validity", "valid_answer_rate"):
        if metric in after["strict"]:  # every row counts, and these are worth nothing
            assert after["strict"][metric]["value"] == pytest.approx(before["strict"][metric]["value"] * share), metric
            assert sum(after["strict"][metric]["misses"].values()) == bad
            assert after["strict"][metric]["n"] == len(truths)
    if name == "logp":  # the constant stands in
        numbers = [float(text.split()[-1].rstrip(".")) for text in truths[:bad]]
        expected = before["strict"]["mae"]["value"] * share + np.abs(numbers).sum() / len(truths)
        assert after["strict"]["mae"]["value"] == pytest.approx(expected)


def test_empty_text_takes_its_share():
    answers, truths = rows("molecular_captioning")
    half = len(truths) // 2
    task = TASKS["molecular_captioning"]
    before = score_task(task, answers[half:], truths[half:])["strict"]
    after = score_task(task, [""] * half + answers[half:], truths)["strict"]
    for metric in ("rouge-1", "rouge-2", "rouge-l", "meteor"):
        assert after[metric]["value"] == pytest.approx(before[metric]["value"] / 2)
        assert after[metric]["misses"] == {"empty": half}
    assert after["bleu-4"]["value"] < before["bleu-4"]["value"]


# --- real data -------------------------------------------------------------------------------------------------------


def test_real_captions_equal_the_libraries(shared):
    lines = (shared / "raw" / "chebi_20" / "test.txt").read_text().splitlines()[1:121]
    captions = [line.split("\t")[2] for line in lines]
    answers = captions[1:] + captions[:1]
    result = score_task(TASKS["molecular_captioning"], answers, captions)["strict"]
    scorer = RougeScorer(["rouge2", "rougeL"])
    scored = [scorer.score(truth, answer) for answer, truth in zip(answers, captions, strict=True)]
    for metric, key in {"rouge-2": "rouge2", "rouge-l": "rougeL"}.items():
        assert result[metric]["value"] == pytest.approx(np.mean([row[key].fmeasure for row in scored]))
    split = [[wordpunct_tokenize(text) for text in texts] for texts in (answers, captions)]
    assert result["bleu-4"]["value"] == pytest.approx(corpus_bleu([[words] for words in split[1]], split[0]))


def test_real_reactants_match_themselves(shared):
    import json

    records = json.loads((shared / "raw" / "mol_instructions" / "retrosynthesis.json").read_text())[:100]
    truths = [record["output"] for record in records]
    both = score_task(TASKS["retrosynthesis"], truths, truths)
    for metrics in both.values():
        assert metrics["exact_match"]["value"] == metrics["validity"]["value"] == 1.0
