"""Acids, esters, amides, sulfonamides and ureas."""

from dataset_builders.sources.starter.catalogue.roles import (
    ACID,
    AMINE,
    ANILINE,
    ELECTROPHILES,
    NUCLEOPHILES,
    PLAIN_AMINE,
    PROTIC,
)
from dataset_builders.sources.starter.groups import AMINE_NH
from dataset_builders.sources.starter.templates import (
    ACIDIFY,
    BASIFY,
    EXTRACT,
    FILTER,
    WARM,
    Conditions,
    Role,
    Template,
)

TEMPLATES = (
    Template(
        "amide coupling",
        f"[#6:1][C:2](=[O:3])[OX2H1].[{AMINE_NH}:4]>>[#6:1][C:2](=[O:3])[N:4]",
        (ACID, AMINE),
        (
            Conditions({"HATU": "1.2 equiv", "DIPEA": "2 equiv"}, {}, ("DMF",), workup=EXTRACT, forbid=("phenol",)),
            Conditions(
                {"EDC hydrochloride": "1.2 equiv", "HOBt": "1.2 equiv", "Et3N": "3 equiv"},
                {},
                ("DCM",),
                workup=EXTRACT,
            ),
            Conditions(
                {"EDC hydrochloride": "1.2 equiv"},
                {"DMAP": "0.1 equiv"},
                ("DCM",),
                workup=EXTRACT,
                forbid=("phenol", "alcohol"),
            ),
        ),
    ),
    Template(
        "anilide coupling",
        f"[#6:1][C:2](=[O:3])[OX2H1].[{AMINE_NH}:4]>>[#6:1][C:2](=[O:3])[N:4]",
        (ACID, ANILINE),
        (
            Conditions({"HATU": "1.5 equiv", "DIPEA": "3 equiv"}, {}, ("DMF",), workup=EXTRACT, forbid=("phenol",)),
            Conditions(
                {"EDC hydrochloride": "1.5 equiv"},
                {"DMAP": "0.2 equiv"},
                ("DCM",),
                workup=EXTRACT,
                forbid=("phenol", "alcohol"),
            ),
        ),
    ),
    Template(
        "Fischer esterification",
        "[#6:1][C:2](=[O:3])[OX2H1].[CX4:4][OX2H1:5]>>[#6:1][C:2](=[O:3])[O:5][C:4]",
        (
            Role(
                ("carboxylic_acid",),
                (
                    *NUCLEOPHILES,
                    *ELECTROPHILES,
                    "alcohol",
                    "any_ester",
                    "acetal",
                    "nitrile",
                    "boc_amine",
                    "beta_dicarbonyl",
                    "tertiary_alcohol",
                    "alkene",
                    "alkyne",
                ),
            ),
            Role(
                ("primary_alcohol", "alcohol"),
                ("alkene", "acetal", "carboxylic_acid"),
                "alkyl alcohols",
                True,
                "excess",
            ),
        ),
        (
            Conditions({}, {"H2SO4": "0.1 equiv"}, ("toluene",), "REFLUX for 12 hours", BASIFY),
            Conditions({}, {"TsOH": "0.1 equiv"}, ("toluene",), "REFLUX for 16 hours", BASIFY),
        ),
    ),
    Template(
        "Steglich esterification",
        "[#6:1][C:2](=[O:3])[OX2H1].[CX4:4][OX2H1:5]>>[#6:1][C:2](=[O:3])[O:5][C:4]",
        (
            Role(("carboxylic_acid",), (*PROTIC, *ELECTROPHILES, "beta_dicarbonyl"), "acids"),
            Role(
                ("alcohol",),
                (
                    *NUCLEOPHILES,
                    *ELECTROPHILES,
                    "carboxylic_acid",
                    "phenol",
                    "tertiary_alcohol",
                    "hetero_phenol",
                    "alpha_beta_elimination",
                ),
                "alkyl alcohols",
                amount="1.2 equiv",
            ),
        ),
        (
            Conditions({"DCC": "1.1 equiv"}, {"DMAP": "0.1 equiv"}, ("DCM",), workup=FILTER + " ; PURIFY"),
            Conditions({"EDC hydrochloride": "1.2 equiv"}, {"DMAP": "0.1 equiv"}, ("DCM",), workup=EXTRACT),
        ),
    ),
    Template(
        "ester hydrolysis",
        "[#6:1][CX3;!R:2](=[O:3])[OX2:4][CH3,$([CH2][CH3])]>>[#6:1][C:2](=[O:3])[OH:4]",
        (
            Role(
                ("methyl_or_ethyl_ester", "any_ester"),
                (
                    *ELECTROPHILES,
                    "beta_dicarbonyl",
                    "alkyl_halide",
                    "carboxylic_acid",
                    "boronic_acid",
                    "alpha_beta_elimination",
                ),
            ),
        ),
        (
            Conditions({"LiOH": "2 equiv"}, {}, ("THF", "water"), "STIR for 4 hours at 25 C", ACIDIFY),
            Conditions({"NaOH": "2 equiv"}, {}, ("MeOH", "water"), WARM, ACIDIFY),
            Conditions({"KOH": "2 equiv"}, {}, ("EtOH", "water"), WARM, ACIDIFY),
        ),
    ),
    Template(
        "acyl chloride formation",
        "[#6:1][C:2](=[O:3])[OX2H1]>>[#6:1][C:2](=[O:3])Cl",
        (
            Role(
                ("carboxylic_acid",),
                (
                    *NUCLEOPHILES,
                    "alcohol",
                    "phenol",
                    "amide_nh",
                    "aldehyde",
                    "nucleophilic_amine_any",
                    "acetal",
                    "boc_amine",
                    "aromatic_nh",
                    "beta_dicarbonyl",
                ),
                "acids",
            ),
        ),
        (
            Conditions(
                {"SOCl2": "3 equiv"},
                {"catalytic DMF": "0.05 equiv"},
                ("toluene",),
                "REFLUX for 3 hours",
                "CONCENTRATE",
            ),
            Conditions(
                {"oxalyl chloride": "1.5 equiv"},
                {"catalytic DMF": "0.05 equiv"},
                ("DCM",),
                "STIR for 2 hours at 25 C",
                "CONCENTRATE",
            ),
        ),
    ),
    Template(
        "N-acylation with an acyl chloride",
        f"[{AMINE_NH}:1].[#6:2][C:3](=[O:4])Cl>>[#6:2][C:3](=[O:4])[N:1]",
        (PLAIN_AMINE, Role(("acyl_chloride",), (), "acyl chlorides", True, "1.1 equiv")),
        (
            Conditions({"Et3N": "1.5 equiv"}, {}, ("DCM",), "STIR for 3 hours at 0 C", EXTRACT),
            Conditions({"NaOH": "2 equiv"}, {}, ("DCM", "water"), "STIR for 2 hours at 25 C", EXTRACT, ("any_ester",)),
        ),
    ),
    Template(
        "anilide formation with an acyl chloride",
        f"[{AMINE_NH}:1].[#6:2][C:3](=[O:4])Cl>>[#6:2][C:3](=[O:4])[N:1]",
        (ANILINE, Role(("acyl_chloride",), (), "acyl chlorides", True, "1.1 equiv")),
        (
            Conditions({"Et3N": "1.5 equiv"}, {}, ("DCM",), "STIR for 3 hours at 25 C", EXTRACT),
            Conditions({"pyridine": "2 equiv"}, {}, ("DCM",), "STIR for 6 hours at 25 C", EXTRACT),
        ),
    ),
    Template(
        "sulfonamide formation",
        f"[{AMINE_NH}:1].[#6:2][S:3](=[O:4])(=[O:5])Cl>>[#6:2][S:3](=[O:4])(=[O:5])[N:1]",
        (PLAIN_AMINE, Role(("sulfonyl_chloride",), (), "sulfonyl chlorides", True, "1.1 equiv")),
        (
            Conditions({"Et3N": "1.5 equiv"}, {}, ("DCM",), workup=EXTRACT),
            Conditions({"Et3N": "1.5 equiv"}, {"DMAP": "0.1 equiv"}, ("DCM",), workup=EXTRACT),
            Conditions({"K2CO3": "2 equiv"}, {}, ("MeCN",), workup=EXTRACT),
        ),
    ),
    Template(
        "sulfonanilide formation",
        f"[{AMINE_NH}:1].[#6:2][S:3](=[O:4])(=[O:5])Cl>>[#6:2][S:3](=[O:4])(=[O:5])[N:1]",
        (ANILINE, Role(("sulfonyl_chloride",), (), "sulfonyl chlorides", True, "1 equiv")),
        (
            Conditions({"pyridine": "3 equiv"}, {}, ("DCM",), workup=EXTRACT),
            Conditions({"pyridine": "3 equiv"}, {"DMAP": "0.1 equiv"}, ("DCM",), workup=EXTRACT),
        ),
    ),
    Template(
        "urea formation",
        f"[{AMINE_NH}:1].[#6:2][N:3]=[C:4]=[O:5]>>[#6:2][NH:3][C:4](=[O:5])[N:1]",
        (PLAIN_AMINE, Role(("isocyanate",), (), "isocyanates", True)),
        (
            Conditions({}, {}, ("DCM",), "STIR for 2 hours at 25 C", FILTER + " ; PURIFY"),
            Conditions({}, {}, ("THF",), "STIR for 4 hours at 25 C", FILTER + " ; PURIFY"),
        ),
    ),
    Template(
        "acetylation",
        "[OX2H1:1][CX4,c:2].[CH3:3][C:4](=[O:5])O[C](=O)[CH3]>>[#6:2][O:1][C:4](=[O:5])[CH3:3]",
        (
            Role(
                ("hydroxyl",),  # a phenol or an alcohol
                (
                    *NUCLEOPHILES,
                    "carboxylic_acid",
                    "aromatic_nh",
                    "tertiary_alcohol",
                    "hetero_phenol",
                    "alpha_beta_elimination",
                    "aldehyde",
                ),
            ),
            Role((), (), "acetic anhydride", True, "1.5 equiv"),
        ),
        (
            Conditions({"pyridine": "3 equiv"}, {"DMAP": "0.1 equiv"}, ("DCM",), workup=EXTRACT),
            Conditions({"Et3N": "2 equiv"}, {"DMAP": "0.1 equiv"}, ("DCM",), workup=EXTRACT),
        ),
    ),
    Template(
        "Boc protection",
        f"[{AMINE_NH}:1].CC(C)(C)OC(=O)O[C:2](=[O:3])[O:4][C:5]([CH3:6])([CH3:7])[CH3:8]>>[N:1][C:2](=[O:3])[O:4][C:5]([CH3:6])([CH3:7])[CH3:8]",
        (AMINE, Role((), (), "Boc anhydride", True, "1.1 equiv")),
        (
            Conditions({"Et3N": "1.5 equiv"}, {}, ("DCM",), workup=EXTRACT),
            Conditions(
                {"Et3N": "1.5 equiv"},
                {"DMAP": "0.1 equiv"},
                ("DCM",),
                workup=EXTRACT,
                forbid=("amide_nh", "alcohol", "phenol"),
            ),
            Conditions({"NaHCO3": "2 equiv"}, {}, ("THF", "water"), workup=EXTRACT),
        ),
    ),
    Template(
        "Boc deprotection",
        "[N:1]C(=O)OC([CH3])([CH3])[CH3]>>[N:1]",
        (Role(("boc_amine",), ("acetal", "tertiary_alcohol", "amine_nh", *ELECTROPHILES), "Boc amines"),),
        (
            Conditions({"TFA": "10 equiv"}, {}, ("DCM",), "STIR for 2 hours at 25 C", BASIFY),
            Conditions({"HCl": "4 equiv"}, {}, ("dioxane",), "STIR for 3 hours at 25 C", BASIFY),
        ),
    ),
)
