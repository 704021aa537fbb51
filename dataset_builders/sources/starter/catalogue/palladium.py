"""Cross-couplings."""

from dataclasses import replace

from dataset_builders.sources.starter.catalogue.roles import ARYL_BROMIDE, ARYL_IODIDE, SECONDARY_AMINE
from dataset_builders.sources.starter.groups import AMINE_NH
from dataset_builders.sources.starter.templates import EXTRACT, FILTER, Conditions, Role, Template

TEMPLATES = (
    Template(
        "Suzuki coupling",
        "[c:1][Br,I].[c:2]B(O)O>>[c:1]-[c:2]",
        (
            Role(
                ("aryl_bromide_or_iodide",),
                (
                    "carboxylic_acid",
                    "alkyl_halide",
                    "vinyl_halide",
                    "boronic_acid",
                    "thiol",
                    "terminal_alkyne",
                    "nh_hetero",
                ),
                "aryl bromides",
            ),
            Role(("boronic_acid",), (), "boronic acids", True, "1.2 equiv"),
        ),
        (
            Conditions(
                {"K2CO3": "2 equiv"},
                {"Pd(PPh3)4": "0.05 equiv"},
                ("dioxane", "water"),
                "STIR for 12 hours at 90 C",
                EXTRACT,
            ),
            Conditions(
                {"Na2CO3": "2 equiv"},
                {"PdCl2(PPh3)2": "0.05 equiv"},
                ("toluene", "EtOH", "water"),
                "STIR for 12 hours at 85 C",
                EXTRACT,
            ),
            Conditions(
                {"K3PO4": "2 equiv"},
                {"Pd(OAc)2": "0.02 equiv", "XPhos": "0.04 equiv"},
                ("THF", "water"),
                "STIR for 6 hours at 60 C",
                EXTRACT,
            ),
        ),
    ),
    Template(
        "Sonogashira coupling",
        "[c:1]I.[CX2H1:2]#[CX2:3]>>[c:1][C:2]#[C:3]",
        (ARYL_IODIDE, Role(("terminal_alkyne",), (), "alkynes", True, "1.2 equiv")),
        (
            Conditions(
                {"Et3N": "3 equiv"},
                {"PdCl2(PPh3)2": "0.03 equiv", "CuI": "0.05 equiv"},
                ("THF",),
                "STIR for 6 hours at 25 C",
                FILTER + " ; PURIFY",
            ),
            Conditions(
                {"DIPEA": "3 equiv"},
                {"Pd(PPh3)4": "0.05 equiv", "CuI": "0.1 equiv"},
                ("DMF",),
                "STIR for 6 hours at 50 C",
                EXTRACT,
            ),
        ),
    ),
    Template(
        "Heck reaction",
        "[c:1]I.[CH2:2]=[CH:3][#6:4]>>[c:1]/[CH:2]=[CH:3]/[#6:4]",
        (ARYL_IODIDE, Role(("heck_acceptor",), (), "Heck acceptors", True, "1.5 equiv")),
        (
            Conditions(
                {"Et3N": "2 equiv"},
                {"Pd(OAc)2": "0.05 equiv", "PPh3": "0.1 equiv"},
                ("DMF",),
                "STIR for 12 hours at 100 C",
                EXTRACT,
            ),
            Conditions(
                {"K2CO3": "2 equiv"},
                {"Pd(OAc)2": "0.05 equiv", "PPh3": "0.1 equiv"},
                ("MeCN",),
                "STIR for 16 hours at 80 C",
                EXTRACT,
            ),
        ),
    ),
    Template(
        "Buchwald-Hartwig amination",
        f"[c:1]Br.[{AMINE_NH}:2]>>[c:1][N:2]",
        (ARYL_BROMIDE, replace(SECONDARY_AMINE, amount="1.2 equiv")),
        (
            Conditions(
                {"Cs2CO3": "2 equiv"},
                {"Pd(OAc)2": "0.03 equiv", "XPhos": "0.06 equiv"},
                ("toluene",),
                "STIR for 16 hours at 100 C",
                FILTER + " ; PURIFY",
            ),
            Conditions(
                {"Cs2CO3": "2 equiv"},
                {"Pd(OAc)2": "0.03 equiv", "XPhos": "0.06 equiv"},
                ("dioxane",),
                "STIR for 16 hours at 100 C",
                FILTER + " ; PURIFY",
            ),
        ),
    ),
)
