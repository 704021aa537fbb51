"""Reactions of aldehydes."""

from dataclasses import replace

from dataset_builders.sources.starter.catalogue.roles import ALDEHYDE, ELECTROPHILES
from dataset_builders.sources.starter.groups import AMINE_NH
from dataset_builders.sources.starter.templates import BASIFY, EXTRACT, Conditions, Role, Template

TEMPLATES = (
    Template(
        "reductive amination",
        f"[CX3H1:1](=O)[#6:2].[{AMINE_NH}:3]>>[#6:2][CH2:1][N:3]",
        (
            ALDEHYDE,
            Role(
                ("secondary_amine", "amine_nh"),
                ("carboxylic_acid", "ketone", "phenol", "hindered_amine", *ELECTROPHILES),
                "amines",
                amount="1.2 equiv",
            ),
        ),
        (
            Conditions({"NaBH(OAc)3": "1.5 equiv"}, {"AcOH": "0.1 equiv"}, ("DCE",), workup=BASIFY),
            Conditions({"NaBH(OAc)3": "1.5 equiv"}, {}, ("DCM",), workup=BASIFY),
            Conditions({"NaBH3CN": "1.5 equiv"}, {"AcOH": "0.1 equiv"}, ("MeOH",), workup=BASIFY),
        ),
    ),
    Template(
        "oxime formation",
        "[#6:1][CX3H1:2]=O.[NH2:3][OH:4]>>[#6:1][CH:2]=[N:3][OH:4]",
        (ALDEHYDE, Role((), (), "hydroxylamine", True, "1.5 equiv")),
        (
            Conditions({"NaOAc": "2 equiv"}, {}, ("EtOH", "water"), "STIR for 2 hours at 60 C", EXTRACT),
            Conditions({"pyridine": "2 equiv"}, {}, ("EtOH",), "REFLUX for 2 hours", EXTRACT),
        ),
    ),
    Template(
        "Wittig olefination",
        "[#6:1][CX3H1:2]=O.[CH:3](=P)[C:4]>>[#6:1]/[CH:2]=[CH:3]/[C:4]",
        (ALDEHYDE, Role((), (), "ylides", True, "1.2 equiv")),
        (
            Conditions({}, {}, ("DCM",), workup="CONCENTRATE ; PURIFY"),
            Conditions({}, {}, ("toluene",), "STIR for 6 hours at 80 C", "CONCENTRATE ; PURIFY"),
        ),
    ),
    Template(
        "Knoevenagel condensation",
        "[c:1][CX3H1:2]=O.[CH2:3]([C:4]#[N:5])[C:6]#[N:7]>>[c:1][CH:2]=[C:3]([C:4]#[N:5])[C:6]#[N:7]",
        (
            replace(ALDEHYDE, single=("aromatic_aldehyde", "aldehyde")),
            Role((), (), "malononitrile", True, "1.1 equiv"),
        ),
        (
            Conditions(
                {},
                {"piperidine": "0.1 equiv"},
                ("EtOH",),
                "STIR for 2 hours at 25 C",
                "FILTER keep precipitate ; WASH with ethanol",
            ),
            Conditions(
                {},
                {"DMAP": "0.1 equiv"},
                ("EtOH",),
                "STIR for 3 hours at 25 C",
                "FILTER keep precipitate ; WASH with ethanol",
            ),
        ),
    ),
)
