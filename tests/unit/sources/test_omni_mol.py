"""The authors' files are not at hand: these tests write small ones in their two layouts."""

import json
from pathlib import Path

import pytest

from dataset_builders.schema import Drop
from dataset_builders.sources.omni_mol import SOURCE, read

WATER, METHANOL = "[O]", "[C][O]"
PROCEDURE = (
    f"Reactants:$2$:[START_SELFIES]{METHANOL}[END_SELFIES] $1$: [START_SELFIES][C].[O][END_SELFIES] "
    f"Product:$-1$:[START_SELFIES][C][C][O][END_SELFIES] Catalysts: Solvents:$3$:[START_SELFIES]{WATER}[END_SELFIES]"
)
ACTIONS = "ADD $1$ (2 g) ; STIR ; YIELD $-1$ (1 g)"


def entry(output, input="[C].[O]", task="", split="train", **more):
    metadata = {"split": split, "task": task}
    return {"instruction": "As asked: ", "input": input, "output": output, "metadata": metadata} | more


def read_one(folder, file, *entries):
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))
    return list(read(path))


@pytest.mark.parametrize(
    ("hub", "first", "task", "content", "molecules", "text"),
    [
        ("forward_prediction", "forward_reaction_prediction", "forward_prediction", entry(METHANOL),
         {"reactants": "[C].[O]", "product": METHANOL}, ""),
        ("retrosynthesis", "retrosynthesis", "retrosynthesis", entry("[C].[O]", METHANOL),
         {"product": METHANOL, "reactants": "[C].[O]"}, ""),
        ("reagent_prediction", "reagent_prediction", "reagent_prediction", entry(WATER, "[C]>>[C][O]"),
         {"reactants": "[C]", "product": METHANOL, "reagents": WATER}, ""),
        ("solvent_pred", "solvent_pred", "solvent_prediction", entry(WATER, "[C]>>[C][O]"),
         {"reactants": "[C]", "product": METHANOL, "solvents": WATER}, ""),
        ("catalyst_pred", "catalyst_pred", "catalyst_prediction", entry("[Pd]", "[C]>>[C][O]"),
         {"reactants": "[C]", "product": METHANOL, "catalysts": "[Pd]"}, ""),
        ("yield_regression", "yields_regression", "yield_regression", entry(0.07, "[C]>>[C][O]"),
         {"reactants": "[C]", "product": METHANOL}, "0.07"),
        ("property_prediction", "property_prediction", "homo_lumo",
         entry(-0.248, METHANOL, instruction="The LUMO, please."), {"molecule": METHANOL}, "-0.248"),
        ("molcap", "molcap_train", "molecular_captioning", entry("An alcohol.", METHANOL),
         {"molecule": METHANOL}, "An alcohol."),
        ("DescriptionQA", "3d_moit_no_homolumo_filtered_test", "description_qa",
         entry("Yes.", METHANOL, "Description"), {"molecule": METHANOL}, "Yes."),
        ("LogP", "3d_moit", "logp", entry("The LogP for the input molecule is -0.50.", METHANOL, "LogP"),
         {"molecule": METHANOL}, "The LogP for the input molecule is -0.50."),
        ("Molecular_Weight", "3d_moit", "molecular_weight", entry("It is 32.04 g/mol.", METHANOL, "Molecular Weight"),
         {"molecule": METHANOL}, "It is 32.04 g/mol."),
        ("TPSA", "3d_moit", "tpsa", entry("It is 20.20 Å².", METHANOL, "Topological Polar Surface Area"),
         {"molecule": METHANOL}, "It is 20.20 Å²."),
        (None, "3d_moit", "complexity", entry("It is 2.00.", METHANOL, "Complexity"),
         {"molecule": METHANOL}, "It is 2.00."),
        (None, "3d_moit", "scf_energy", entry("It is -1.880e+05 eV.", METHANOL, "SCF Energy"),
         {"molecule": METHANOL}, "It is -1.880e+05 eV."),
        ("IUPAC2SELFIES", "iupac_0.2subset", "iupac_to_selfies", entry(METHANOL, "methanol"),
         {"molecule": METHANOL}, "methanol"),
        ("text_guided_mol_generation", "text_guided_mol_generation", "text_guided_generation",
         entry(METHANOL, "An alcohol."), {"molecule": METHANOL}, "An alcohol."),
        ("molecule_editing", "molecule_editing", "molecule_editing", entry(METHANOL, "[C]"),
         {"molecule": "[C]", "edited": METHANOL}, ""),
    ],
)  # fmt: skip
def test_both_layouts_give_the_records_fields_to_the_letter(tmp_path, hub, first, task, content, molecules, text):
    files = [f"evaluate/{first}.json", *([f"test/{hub}.json"] if hub else [])]
    for file in files:
        (record,) = read_one(tmp_path / SOURCE.name, file, content)
        assert (record.task, record.molecules, record.text) == (task, molecules, text)
        assert (record.instruction, record.split) == (content["instruction"], "train")
        assert (record.notation, record.place, record.value) == ("selfies", "1", None)
    assert len(SOURCE.present(tmp_path)) == len(files)


def test_every_task_has_a_file_on_the_hub_or_stands_in_3d_moit():
    fetched = {Path(download.hub_file).stem for download in SOURCE.downloads if download.hub_file.startswith("train/")}
    assert len(fetched) == 16
    assert {"yield_regression_BH", "yield_regression_SM"} == {
        Path(download.hub_file).stem for download in SOURCE.downloads
    } - fetched


@pytest.mark.parametrize(
    ("file", "subset"),
    [("yield_regression_BH", "B-H"), ("yields_regression_SM", "S-M"), ("yields_regression", "")],
)
def test_the_file_of_a_yield_tells_its_subset(tmp_path, file, subset):
    (record,) = read_one(tmp_path, f"{file}.json", entry("0.5", "[C]>>[C][O]", split="test"))
    assert (record.subset, record.text, record.split) == (subset, "0.5", "test")


def test_a_procedures_components_are_told_apart_by_role(tmp_path):
    extracted = {"CO": "$2$", "C.O": "$1$", "O": "$3$"}
    raw = entry(ACTIONS, PROCEDURE, extracted_molecules=extracted)
    (record,) = read_one(tmp_path, "train/exp_procedure_pred.json", raw)
    assert record.task == "experiment_procedure"
    assert record.molecules == {"$2$": METHANOL, "$1$": "[C].[O]", "$-1$": "[C][C][O]", "$3$": WATER}
    assert record.roles == {"Reactants": ("$2$", "$1$"), "Product": ("$-1$",), "Solvents": ("$3$",)}
    assert record.text == ACTIONS


@pytest.mark.parametrize(
    ("input", "reason"),
    [
        (PROCEDURE.replace("Product:$-1$:[START_SELFIES][C][C][O][END_SELFIES]", "Product:"), "the input is not"),
        (PROCEDURE.replace("Reactants:", ""), "the input is not"),
        (PROCEDURE.replace("[END_SELFIES] Product", " Product"), "the input is not"),
        ("So " + PROCEDURE, "the input is not"),
        (PROCEDURE + " $4$", "the input is not"),
        (PROCEDURE.replace("$3$", "$2$"), "one $k$ name stands for two molecules"),
        (METHANOL, "the input is not"),
        (None, "input is missing"),
    ],
)
def test_a_procedure_that_cannot_be_parsed_is_dropped(tmp_path, input, reason):
    dropped, kept = read_one(tmp_path, "exp_procedure_pred.json", entry(ACTIONS, input), entry(ACTIONS, PROCEDURE))
    assert isinstance(dropped, Drop)
    assert dropped.reason.startswith(reason)
    assert kept.text == ACTIONS


@pytest.mark.parametrize(
    ("file", "raw", "task", "reason"),
    [
        ("LogP", entry("unknown", METHANOL), "logp", "the answer is not a number"),
        ("LogP", entry(None, METHANOL), "logp", "the answer is not a number"),
        ("LogP", entry("1.0", " "), "logp", "input is missing, blank or not text"),
        ("yield_regression", entry(7.0, "[C]>>[O]"), "yield_regression", "the yield is not between 0 and 1"),
        ("yield_regression", entry(0.7, "[C]"), "yield_regression", "not a reaction reactants>>product"),
        ("DescriptionQA", entry("Yes.", METHANOL, instruction=""), "description_qa",
         "instruction is missing, blank or not text"),
        ("molcap", entry("It is.", METHANOL, split="dev"), "molecular_captioning",
         "metadata.split is none of train, valid, test"),
        ("3d_moit", entry("-5", METHANOL, "HOMO"), "all tasks", "metadata.task is none of the six tasks of 3D-MoIT"),
        ("3d_moit", {"input": METHANOL}, "all tasks", "metadata.task is none of the six tasks of 3D-MoIT"),
        ("BBBP", entry("Yes", METHANOL), "all tasks", "the whole file: its name is none of the authors' task files"),
    ],
)  # fmt: skip
def test_rows_and_files_that_cannot_be_used_are_dropped_with_the_reason(tmp_path, file, raw, task, reason):
    assert read_one(tmp_path, f"{file}.json", raw) == [Drop(task, "1", reason)]


def test_a_caption_without_instruction_gets_one_of_ours(tmp_path):
    (record,) = read_one(tmp_path, "molcap.json", entry("An alcohol.", METHANOL, instruction=None))
    assert record.instruction == ""


def test_stage_one_is_a_table_of_smiles(tmp_path):
    path = tmp_path / "pubchem_stage1.csv"
    path.write_text('SMILES,Description\nCO,"An alcohol, small."\n,none\nCO\nO,Water.\n')
    first, blank, ragged, last = read(path)
    assert (first.task, first.molecules, first.text) == ("alignment", {"molecule": "CO"}, "An alcohol, small.")
    assert (first.notation, first.split, last.text) == ("smiles", "", "Water.")
    assert blank == Drop("alignment", "2", "SMILES is missing, blank or not text")
    assert ragged == Drop("alignment", "3", "the row has not the header's number of columns")


def test_a_cut_file_is_named(tmp_path):
    path = tmp_path / "LogP.json"
    path.write_text(json.dumps([entry("1.0", METHANOL)] * 4)[:-30])
    with pytest.raises(ValueError, match=r"LogP\.json: not JSON, or cut short, after record 3"):
        list(read(path))
