"""Nucleophilic substitutions at sp3 and aromatic carbon."""

from dataclasses import replace

from dataset_builders.sources.starter.catalogue.roles import (
    HALIDE,
    NUCLEOPHILES,
    PHENOL,
    PLAIN_AMINE,
    PROTIC,
    SECONDARY_AMINE,
)
from dataset_builders.sources.starter.groups import AMINE_NH
from dataset_builders.sources.starter.templates import EXTRACT, WARM, Conditions, Role, Template

TEMPLATES = (
    Template(
        "Williamson ether synthesis",
        "[c:1][OX2H1:2].[CX4;H2,H3:3][Br,I]>>[c:1][O:2][C:3]",
        (PHENOL, HALIDE),
        (
            Conditions({"K2CO3": "2 equiv"}, {}, ("acetone",), "REFLUX for 8 hours", EXTRACT),
            Conditions({"Cs2CO3": "1.5 equiv"}, {}, ("DMF",), "STIR for 6 hours at 50 C", EXTRACT),
            Conditions({"K2CO3": "2 equiv"}, {"KI": "0.1 equiv"}, ("MeCN",), "REFLUX for 8 hours", EXTRACT),
        ),
    ),
    Template(
        "N-alkylation",
        f"[{AMINE_NH}:1].[CX4;H2,H3:2][Br,I]>>[N:1][C:2]",
        (SECONDARY_AMINE, replace(HALIDE, amount="1 equiv")),
        (
            Conditions({"K2CO3": "2 equiv"}, {}, ("MeCN",), WARM, EXTRACT),
            Conditions({"DIPEA": "2 equiv"}, {}, ("DMF",), "STIR for 12 hours at 50 C", EXTRACT),
            Conditions({"K2CO3": "2 equiv"}, {"KI": "0.1 equiv"}, ("MeCN",), WARM, EXTRACT),
        ),
    ),
    Template(
        "nucleophilic aromatic substitution",
        f"[c;$(c1c([N+](=O)[O-])cccc1),$(c1ccc([N+](=O)[O-])cc1),$(c1ncccn1),$(c1ccncn1):1][F,Cl].[{AMINE_NH}:2]>>[c:1][N:2]",
        (
            Role(("snar_halide",), (*PROTIC, "alkyl_halide", "aldehyde", "aromatic_nh", "michael_acceptor")),
            replace(PLAIN_AMINE, amount="1.2 equiv"),
        ),
        (
            Conditions({"K2CO3": "2 equiv"}, {}, ("DMF",), "STIR for 6 hours at 80 C", EXTRACT),
            Conditions({"DIPEA": "2 equiv"}, {}, ("DMSO",), "STIR for 8 hours at 80 C", EXTRACT),
            Conditions({"Et3N": "2 equiv"}, {}, ("EtOH",), "REFLUX for 8 hours", EXTRACT),
        ),
    ),
    Template(
        "Appel bromination",
        "[CX4;H2:1][OX2H1]>>[C:1]Br",
        (
            Role(
                ("primary_alcohol", "hydroxyl"),
                (
                    *NUCLEOPHILES,
                    "carboxylic_acid",
                    "nucleophilic_amine_any",
                    "aldehyde",
                    "acetal",
                    "alkyl_halide",
                    "aromatic_nh",
                ),
            ),
        ),
        (
            Conditions(
                {"CBr4": "1.2 equiv", "PPh3": "1.2 equiv"},
                {},
                ("DCM",),
                "STIR for 3 hours at 0 C",
                "CONCENTRATE ; PURIFY",
            ),
            Conditions(
                {"CBr4": "1.5 equiv", "PPh3": "1.5 equiv"},
                {},
                ("THF",),
                "STIR for 4 hours at 25 C",
                "CONCENTRATE ; PURIFY",
            ),
        ),
    ),
)
