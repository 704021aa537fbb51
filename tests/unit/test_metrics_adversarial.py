"""Answers as models really give them, bad and odd ones, each with the score it must get under both protocols."""

import pytest

from omnimol_hf.chemistry_omnimol import smiles_to_selfies
from omnimol_hf.metrics import score_task
from omnimol_hf.tasks import TASKS

OUT = None  # the row leaves the mean, so that a mean over this row alone is not defined


def sf(smiles):
    return smiles_to_selfies(smiles)


ETHANOL = sf("CCO")

# answer, reference, then (strict, paper) of validity, exact match and levenshtein (in characters of canonical SMILES)
MOLECULES = {
    "right": (ETHANOL, ETHANOL, (1, 1), (1, 1), (0, 0)),
    "empty": ("", ETHANOL, (0, 1), (0, 0), (3, 3)),
    "white space": (" \n", ETHANOL, (0, 1), (0, 0), (3, 3)),
    "prose": ("I cannot tell.", ETHANOL, (0, 1), (0, 0), (3, 3)),
    "SMILES for SELFIES": ("CCO", ETHANOL, (0, 1), (0, 0), (3, 3)),
    "unknown symbol": ("[C][Foo][O]", ETHANOL, (0, 0), (0, OUT), (3, OUT)),
    "bracket garbage": ("[[[]]][C", ETHANOL, (0, 0), (0, OUT), (3, OUT)),
    "cut off inside a symbol": ("[C][C][O", ETHANOL, (0, 0), (0, OUT), (3, OUT)),
    "branches and rings alone": ("[Branch1][Ring1][Ring1]", ETHANOL, (0, 1), (0, 0), (3, 3)),
    "padding symbol": ("[C][nop][C][O]", ETHANOL, (0, 1), (0, 1), (3, 0)),
    "end token left in": (ETHANOL + "<|eot_id|>", ETHANOL, (1, 1), (1, 1), (0, 0)),
    "end token alone": ("<|eot_id|>", ETHANOL, (0, 1), (0, 0), (3, 3)),
    "prose around it": ("The product is [C][C][O].", ETHANOL, (0, 1), (0, 1), (3, 0)),
    "dot at the end": (ETHANOL + ".", ETHANOL, (0, 1), (0, 1), (3, 0)),
    "components in another order": (sf("OCC") + "." + sf("CN"), sf("CN") + "." + sf("OCC"), (1, 1), (1, 1), (0, 0)),
    "component twice": (f"{ETHANOL}.{ETHANOL}", ETHANOL, (1, 1), (1, 0), (4, 4)),
    "component missing": (ETHANOL, f"{ETHANOL}.{sf('CN')}", (1, 1), (0, 0), (3, 3)),
    "component too many": (f"{ETHANOL}.{sf('CN')}", ETHANOL, (1, 1), (0, 0), (3, 3)),
    "enantiomer": (sf("C[C@@H](N)O"), sf("C[C@H](N)O"), (1, 1), (0, 1), (1, 0)),
    "stereo left out": (sf("CC(N)O"), sf("C[C@H](N)O"), (1, 1), (0, 1), (4, 0)),
    "Z for E": (sf("F/C=C\\F"), sf("F/C=C/F"), (1, 1), (0, 1), (1, 0)),
    "isotope left out": (sf("CO"), sf("[13CH3]O"), (1, 1), (0, 1), (6, 0)),
    "salt": (sf("[Na+].[Cl-]"), sf("[Cl-].[Na+]"), (1, 1), (1, 1), (0, 0)),
    "salt as one molecule": (sf("[Na]Cl"), sf("[Na+].[Cl-]"), (1, 1), (0, 1), (7, 7)),  # [Na][Cl]
    "acid for its salt": (sf("CC(=O)O"), sf("CC(=O)[O-].[Na+]"), (1, 1), (0, 0), (9, 9)),
    "radical": (sf("C[CH2]"), sf("CC"), (1, 1), (0, 0), (4, 4)),  # [CH2]C
    "tautomer that InChI does not tell apart": (sf("CC(=N)O"), sf("CC(N)=O"), (1, 1), (0, 1), (2, 2)),
    "valences used up": ("[C][=F]", sf("CF"), (1, 1), (1, 1), (0, 0)),
    "rambling": ("[C]" * 4000, ETHANOL, (1, 1), (0, 0), (3998, 3998)),
    "rambling beyond all bounds": ("[C]" * 9000, ETHANOL, (0, 0), (0, OUT), (3, OUT)),
}


@pytest.mark.parametrize("case", MOLECULES)
def test_molecule(case):
    answer, truth, validity, exact, distance = MOLECULES[case]
    both = score_task(TASKS["retrosynthesis"], [answer], [truth])
    for metric, expected in {"validity": validity, "exact_match": exact, "levenshtein": distance}.items():
        got = tuple(both[protocol][metric]["value"] for protocol in ("strict", "paper"))
        assert got == expected, metric


# task, answer, reference, (strict, paper) absolute error; the training median, which stands in, is 10
LOGP = "The LogP for the input molecule is {}."
NUMBERS = {
    "right": ("logp", LOGP.format("2.50"), LOGP.format("2.50"), (0, 0)),
    "minus sign": ("logp", "-1.20", LOGP.format("-1.20"), (0, 0)),
    "minus sign left out": ("logp", "1.20", LOGP.format("-1.20"), (2.4, 0)),
    "minus sign of another alphabet": ("logp", "−1.20", LOGP.format("-1.20"), (0, 0)),
    "plus sign": ("logp", "+1.2", "1.20", (0, 0)),
    "scientific": ("scf_energy", "-1.2e-3", "-0.0012", (0, 0)),
    "scientific without a sign": ("logp", "1.2e-3", "0.0012", (0, 1.1988)),
    "power of ten": ("logp", "1.2 x 10^-3", "0.0012", (0, 1.1988)),
    "unit and a hedge": ("molecular_weight", "approximately 12.5 g/mol", "12.50", (0, 0)),
    "unit without a space": ("molecular_weight", "12.5g/mol", "12.50", (0, 0)),
    "square Angstrom": ("tpsa", "26.30 Å²", "26.30", (0, 0)),
    "thousands separator": ("complexity", "1,234.5", "1234.50", (0, 1233.5)),
    "decimal comma": ("complexity", "12,5", "12.50", (0.5, 0.5)),
    "two numbers": ("complexity", "between 10 and 20", "12.00", (2, 2)),
    "number in a formula": ("molecular_weight", "C2H6 weighs 30.07", "30.07", (0, 28.07)),
    "percent": ("yield_regression", "85 %", "0.85", (0, OUT)),
    "yield in a sentence": ("yield_regression", "about 0.85", "0.85", (0, OUT)),
    "orbital energy in a sentence": ("homo_lumo", "-0.25 Hartree", "-0.25", (0, OUT)),
    "end token left in": ("homo_lumo", "-0.25<|eot_id|>", "-0.25", (0, 0)),
    "not a number": ("homo_lumo", "nan", "-0.25", (10.25, OUT)),
    "empty": ("logp", "", "2.00", (8, OUT)),
    "prose": ("logp", "very soluble", "2.00", (8, OUT)),
    "absurd": ("scf_energy", "1e300", "2.00", (8, 1e300)),
    "beyond all bounds": ("logp", "9" * 4000, "2.00", (8, OUT)),
    "rambling": ("logp", "2.00 " + "it is soluble " * 1300, "2.00", (0, 0)),
    "SELFIES for a number": ("logp", "[C][Branch1][C][O]", "2.00", (8, 1)),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_number(case):
    task, answer, truth, expected = NUMBERS[case]
    both = score_task(TASKS[task], [answer], [truth], ["10"])
    for protocol, error in zip(("strict", "paper"), expected, strict=True):
        fields = both[protocol]["mae"]
        assert fields["value"] == (OUT if error is OUT else pytest.approx(error)), protocol
        assert fields["n"] == (error is not OUT)


# answer, (strict, paper) ROUGE-1 and (strict, paper) BLEU-2 against this caption, split at spaces
CAPTION = "an organic acid ."
TEXTS = {
    "right": (CAPTION, (1, 1), (1, 1)),
    "empty": ("", (0, 0), (0, 0)),
    "end token alone": ("<|eot_id|>", (0, 0), (0, 0)),
    "end token left in": (CAPTION + "<|eot_id|>", (1, 0.75), (1, 1)),  # "eot" and "id": 3 of 5 and 3 of 3 words
    "other letters": ("AN ORGANIC ACID .", (1, 1), (0, 0)),
    "one word for ever": ("acid " * 4000, (2 / 4003, 2 / 4003), (0, 0)),
    "SELFIES for prose": ("[C][C][=Branch1][C][=O][O]", (0, 0), (0, 0)),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text(case):
    answer, rouge, bleu = TEXTS[case]
    both = score_task(TASKS["molecular_captioning"], [answer], [CAPTION], tokenize=str.split)
    for metric, expected in {"rouge-1": rouge, "bleu-2": bleu}.items():
        got = tuple(both[protocol][metric]["value"] for protocol in ("strict", "paper"))
        assert got == pytest.approx(expected), metric


# answer, then of `strict`: validity, accuracy@100, accuracy@50; `paper` finds none valid and has no accuracies
STEPS = "ADD $1$ ; STIR ; YIELD $-1$"
PROCEDURES = {
    "right": (STEPS, 1, 1, 1),
    "end token left in": (STEPS + "<|eot_id|>", 1, 1, 1),
    "steps in another order": ("STIR ; ADD $1$ ; YIELD $-1$", 1, 0, 1),
    "component that is not there": ("ADD $7$ ; STIR ; YIELD $-1$", 0, 0, 1),
    "prose": ("First, stir the flask for two hours.", 0, 0, 0),
    "small letters": ("add $1$ ; stir ; yield $-1$", 0, 0, 1),
    "empty": ("", 0, 0, 0),
    "rambling": ("STIR ; " * 2000 + "STIR", 1, 0, 0),
}


@pytest.mark.parametrize("case", PROCEDURES)
def test_procedure(case):
    answer, *expected = PROCEDURES[case]
    both = score_task(TASKS["experiment_procedure"], [answer], [STEPS], tokenize=str.split)
    strict = both["strict"]
    assert [strict[name]["value"] for name in ("validity", "accuracy@100", "accuracy@50")] == expected
    assert both["paper"]["validity"]["value"] == 0
    assert not any(name.startswith("accuracy") for name in both["paper"])


def test_the_table_is_long_enough():
    assert len(MOLECULES) + len(NUMBERS) + len(TEXTS) + len(PROCEDURES) >= 30
