"""Reductions and oxidations."""

from dataclasses import replace

from dataset_builders.sources.starter.catalogue.roles import (
    ALDEHYDE,
    H2_SENSITIVE,
    OXIDATIONS,
    OXIDISABLE,
    PROTIC,
    REDUCIBLE,
)
from dataset_builders.sources.starter.templates import BASIFY, EXTRACT, FILTER, Conditions, Role, Template

TEMPLATES = (
    Template(
        "nitro reduction",
        "[c:1][N+:2](=O)[O-]>>[c:1][NH2;+0:2]",
        (
            Role(
                ("aryl_nitro", "nitro"),
                ("aldehyde", "alkyl_halide", "snar_halide", "ortho_acyl_chain", "michael_acceptor"),
            ),
        ),
        (
            Conditions(
                {"H2": "1 atm"}, {"Pd/C": "10 wt%"}, ("EtOH",), "STIR for 6 hours at 25 C", FILTER, H2_SENSITIVE
            ),
            Conditions(
                {"Fe": "5 equiv", "NH4Cl": "5 equiv"},
                {},
                ("EtOH", "water"),
                "STIR for 3 hours at 80 C",
                FILTER + " ; " + EXTRACT,
            ),
            Conditions({"SnCl2": "5 equiv"}, {}, ("EtOH",), "REFLUX for 3 hours", BASIFY, ("acetal", "boc_amine")),
        ),
    ),
    Template(
        "hydrogenation of an alkene",
        "[CX3:1]=[CX3:2]>>[C:1][C:2]",
        (
            Role(
                ("simple_alkene", "alkene"),
                (*(name for name in H2_SENSITIVE if name != "alkene"), "nitro", "activated_alkene"),
            ),
        ),
        (
            Conditions({"H2": "1 atm"}, {"Pd/C": "10 wt%"}, ("MeOH",), "STIR for 6 hours at 25 C", FILTER),
            Conditions({"H2": "1 atm"}, {"Pd/C": "10 wt%"}, ("EtOAc",), "STIR for 6 hours at 25 C", FILTER),
        ),
    ),
    Template(
        "borohydride reduction of a ketone",
        "[#6:1][CX3:2](=[O:3])[#6:4]>>[#6:1][C:2]([OH:3])[#6:4]",
        (
            Role(
                ("simple_ketone", "ketone"),
                ("aldehyde", "alkyl_halide", "carboxylic_acid", "beta_dicarbonyl", "activated_alkene"),
            ),
        ),
        (
            Conditions({"NaBH4": "1 equiv"}, {}, ("MeOH",), "STIR for 2 hours at 0 C", EXTRACT),
            Conditions({"NaBH4": "1 equiv"}, {}, ("EtOH",), "STIR for 3 hours at 25 C", EXTRACT),
        ),
    ),
    Template(
        "borohydride reduction of an aldehyde",
        "[#6:1][CX3H1:2]=[O:3]>>[#6:1][CH2:2][OH:3]",
        (replace(ALDEHYDE, forbid=("ketone", "alkyl_halide", "activated_alkene", "amine_nh", "carboxylic_acid")),),
        (
            Conditions({"NaBH4": "1 equiv"}, {}, ("MeOH",), "STIR for 1 hour at 0 C", EXTRACT),
            Conditions({"NaBH4": "1 equiv"}, {}, ("EtOH",), "STIR for 1 hour at 25 C", EXTRACT),
        ),
    ),
    Template(
        "hydride reduction of an ester",
        "[#6:1][CX3;!R:2](=[O:3])[OX2][CH3,$([CH2][CH3])]>>[#6:1][CH2:2][OH:3]",
        (
            Role(
                ("methyl_or_ethyl_ester", "carbonyl"),
                (*PROTIC, *REDUCIBLE, "amide_nh", "alkyne", "activated_alkene", "aromatic_nh", "aryl_cl_br_i"),
            ),
        ),
        (
            Conditions({"LiAlH4": "1.5 equiv"}, {}, ("THF",), "STIR for 2 hours at 0 C", EXTRACT),
            Conditions({"LiAlH4": "1.5 equiv"}, {}, ("diethyl ether",), "STIR for 2 hours at 0 C", EXTRACT),
        ),
    ),
    Template(
        "oxidation of a secondary alcohol",
        "[#6:1][CX4;H1:2]([OX2H1:3])[#6:4]>>[#6:1][C:2](=[O:3])[#6:4]",
        (Role(("secondary_alcohol", "hydroxyl"), OXIDISABLE),),
        OXIDATIONS,
    ),
    Template(
        "oxidation of a primary alcohol",
        "[#6:1][CH2:2][OX2H1:3]>>[#6:1][CH:2]=[O:3]",
        (Role(("primary_alcohol", "hydroxyl"), OXIDISABLE),),
        OXIDATIONS,
    ),
    Template(
        "benzylic oxidation with manganese dioxide",
        "[c:1][CH2:2][OX2H1:3]>>[c:1][CH:2]=[O:3]",
        (Role(("benzylic_alcohol", "hydroxyl"), OXIDISABLE),),
        (
            Conditions({"MnO2": "10 equiv"}, {}, ("DCM",), "STIR for 16 hours at 25 C", FILTER),
            Conditions({"MnO2": "10 equiv"}, {}, ("toluene",), "STIR for 6 hours at 60 C", FILTER),
        ),
    ),
)
