"""The OpenExp reader, on files written in the layout of the publisher's processing script; names by role."""

import json

import pytest

from dataset_builders.schema import Drop, Record
from dataset_builders.sources.openexp import TASK, read, rename_components

ROW = {
    "index": 41,
    "REACTANT": ["CC(=O)Cl", "CCN"],
    "PRODUCT": ["CCNC(C)=O"],
    "CATALYST": ["CN(C)c1ccncc1"],
    "SOLVENT": ["ClCCl"],
    "actions": "MAKESOLUTION with $1$ (2 g) and $2$ (10 ml) ; ADD SLN at #5# ; ADD $3$ ; ADD $4$ ; STIR for @6@ at "
    "#5# ; WASH with water ; YIELD $-1$ (1.2 g).",
    "source": "uspto",
    "extracted_molecules": {
        "CCN": "$1$",
        "ClCCl": "$2$",
        "CC(=O)Cl": "$3$",
        "CN(C)c1ccncc1": "$4$",
        "CCNC(C)=O": "$-1$",
    },
    "extracted_temperature": {"0 °C": "#5#"},
    "extracted_duration": {"2 hours": "@6@"},
    "molecules": {"ethylamine": "CCN", "DCM": "ClCCl", "brine": None},
    "score": 0.1,
}
MOLECULES = {"$3$": "CC(=O)Cl", "$1$": "CCN", "$-1$": "CCNC(C)=O", "$4$": "CN(C)c1ccncc1", "$2$": "ClCCl"}


def outcomes(tmp_path, *rows, name="train.json"):
    (tmp_path / name).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return list(read(tmp_path / name))


def test_a_record_in_the_publishers_layout(tmp_path):
    assert outcomes(tmp_path, ROW) == [
        Record(
            task=TASK,
            place="1",
            molecules=MOLECULES,
            roles={"Reactants": ("$3$", "$1$"), "Product": ("$-1$",), "Catalysts": ("$4$",), "Solvents": ("$2$",)},
            text="MAKESOLUTION with $1$ (2 g) and $2$ (10 ml) ; ADD SLN at 0 °C ; ADD $3$ ; ADD $4$ ; STIR for 2 "
            "hours at 0 °C ; WASH with water ; YIELD $-1$ (1.2 g).",
            split="train",
            publisher_id="41",
        )
    ]


def test_roles_without_components_are_absent(tmp_path):
    (record,) = outcomes(tmp_path, ROW | {"CATALYST": [], "actions": "ADD $1$ ; YIELD $-1$."})
    assert list(record.roles) == ["Reactants", "Product", "Solvents"]
    assert "$4$" not in record.molecules


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"actions": None}, "the actions are missing, or no text"),
        ({"actions": " "}, "there are no actions"),
        ({"actions": "ADD $9$ ; YIELD $-1$."}, "the actions name a component that is not listed"),
        ({"actions": "STIR at #7# ; YIELD $-1$."}, "the actions name a temperature or duration that is not listed"),
        ({"REACTANT": []}, "there is no reactant or no product"),
        ({"PRODUCT": None}, "there is no reactant or no product"),
        ({"REACTANT": "CCO"}, "REACTANT is not a list of SMILES"),
        ({"SOLVENT": ["CCO", None]}, "SOLVENT is not a list of SMILES"),
        ({"SOLVENT": ["ClCCl", "O"]}, "a component has no name in the actions"),
        ({"extracted_molecules": []}, "a component has no name in the actions"),
        ({"extracted_molecules": ["$1$"]}, "extracted_molecules does not map texts to texts"),
        ({"extracted_duration": {"2 hours": 6}}, "extracted_duration does not map texts to texts"),
    ],
)
def test_bad_records_are_dropped(tmp_path, change, reason):
    first, second = outcomes(tmp_path, ROW, ROW | change)
    assert isinstance(first, Record)
    assert second == Drop(TASK, "2", reason)


def test_an_item_that_is_no_record_is_dropped(tmp_path):
    assert [type(outcome) for outcome in outcomes(tmp_path, ROW, "text")] == [Record, Drop]


def test_splits(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.json").write_text(json.dumps([ROW]))
    splits = [next(read(tmp_path / f"{name}.json")).split for name in ("train", "valid", "test")]
    assert splits == ["train", "validation", "test"]


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty"), (b"[]", "there is none"), (json.dumps([ROW, ROW])[:-40].encode(), "after record 1")],
)
def test_broken_files_are_named(tmp_path, data, message):
    (tmp_path / "train.json").write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        list(read(tmp_path / "train.json"))
    assert "train.json" in str(caught.value)


# --- names by role ---------------------------------------------------------------------------------------------------


def test_names_go_by_role_and_the_mapping_is_kept():
    molecules, roles, text = rename_components(
        "ADD acetyl chloride (2 g) ; ADD acetyl chloride solution ; ADD CCN ; ADD DCM; STIR with DCM-d2, DCM and "
        "non-DCM ; YIELD the title compound (1.2 g).",
        {"Reactants": ["CCN", "CC(=O)Cl"], "Product": ["CCNC(C)=O"], "Solvents": ["ClCCl"]},
        {"acetyl chloride": "CC(=O)Cl", "DCM": "ClCCl", "brine": "O", "acetyl chloride solution": "CC(=O)Cl"},
    )
    assert molecules == {"$1$": "CCN", "$2$": "CC(=O)Cl", "$-1$": "CCNC(C)=O", "$3$": "ClCCl"}
    assert roles == {"Reactants": ("$1$", "$2$"), "Product": ("$-1$",), "Solvents": ("$3$",)}
    assert (
        text == "ADD $2$ (2 g) ; ADD $2$ ; ADD $1$ ; ADD $3$; STIR with DCM-d2, $3$ and non-DCM ; YIELD $-1$ (1.2 g)."
    )


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ("YIELD CCNC(C)=O", "YIELD $-1$"),
        ("YIELD product.", "YIELD $-1$."),
        ("YIELD 2-(ethyl) amide 7 (1.2 g, 80%) ; STIR", "YIELD $-1$ (1.2 g, 80%) ; STIR"),
        ("YIELD $-1$ (1 g)", "YIELD $-1$ (1 g)"),
    ],
)
def test_what_is_yielded_is_the_product(actions, expected):
    roles = {"Reactants": ["CCN"], "Product": ["CCNC(C)=O"]}
    assert rename_components(actions, roles, {})[2] == expected


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        ({"Reactants": ["CCN"], "Product": ["CCO"], "Solvents": ["CCN"]}, "in two roles"),
        ({"Reactants": ["CCN"], "Product": []}, "no product"),
    ],
)
def test_components_that_cannot_be_named(roles, reason):
    with pytest.raises(ValueError, match=reason):
        rename_components("ADD CCN", roles, {})


def test_records_whose_actions_have_names_are_renamed(tmp_path):
    named = {key: value for key, value in ROW.items() if key != "extracted_molecules"}
    named["actions"] = "ADD ethylamine (2 g) ; ADD DCM ; ADD brine ; STIR for @6@ ; YIELD amide (1.2 g)."
    (record,) = outcomes(tmp_path, named)
    assert record.molecules == {
        "$1$": "CC(=O)Cl",
        "$2$": "CCN",
        "$-1$": "CCNC(C)=O",
        "$3$": "CN(C)c1ccncc1",
        "$4$": "ClCCl",
    }
    assert record.text == "ADD $2$ (2 g) ; ADD $4$ ; ADD brine ; STIR for 2 hours ; YIELD $-1$ (1.2 g)."
