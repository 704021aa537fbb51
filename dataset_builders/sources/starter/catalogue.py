"""The named reactions, with their guards and their textbook conditions."""

from dataclasses import replace

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

_NUCLEOPHILES = ("amine_nh", "amidine", "nh_hetero", "thiol")
_ELECTROPHILES = ("primary_halide", "alkyl_halide", "aldehyde", "snar_halide", "michael_acceptor")
_PROTIC = (*_NUCLEOPHILES, "carboxylic_acid", "alcohol", "phenol")
_REDUCIBLE = ("nitro", "aldehyde", "ketone", "nitrile", "alkyl_halide", "nitrate", "aryl_bromide_or_iodide")
# What hydrogen on palladium would also reduce or cleave.
_H2_SENSITIVE = (
    *("alkyne", "alkene", "aldehyde", "nitrile", "aryl_cl_br_i", "alkyl_halide", "vinyl_halide", "benzyl_hetero"),
    *("thioether", "azo", "imine"),
)

_ACID = Role(("carboxylic_acid",), (*_NUCLEOPHILES, *_ELECTROPHILES, "beta_dicarbonyl"), "acids")
_AMINE = Role(
    ("alkyl_amine", "amine_nh"), ("carboxylic_acid", *_ELECTROPHILES, "hindered_amine"), "amines", amount="1.2 equiv"
)
_PLAIN_AMINE = Role(
    ("alkyl_amine", "amine_nh"),
    ("carboxylic_acid", "alcohol", "phenol", "aromatic_nh", *_ELECTROPHILES, "hindered_amine"),
    "amines",
)
_ANILINE = Role(
    ("aniline", "amine_nh"),
    ("carboxylic_acid", "phenol", "alcohol", "aromatic_nh", "hindered_aniline", *_ELECTROPHILES),
    amount="1.1 equiv",
)
# The one basic nitrogen: a second one would be alkylated or arylated as well.
_SECONDARY_AMINE = Role(
    ("secondary_amine", "amine_nh", "nucleophilic_amine_any"),
    ("carboxylic_acid", "phenol", "alcohol", "aromatic_nh", "amide_nh", "hindered_amine", *_ELECTROPHILES),
    "amines",
)
_ARYL_BROMIDE = Role(
    ("aryl_bromide_or_iodide", "aryl_bromide"),
    (*_PROTIC, "terminal_alkyne", "alkyl_halide", "vinyl_halide", "boronic_acid", "aldehyde", "alkene", "aromatic_nh"),
    "aryl bromides",
)
_ARYL_IODIDE = Role(
    ("aryl_bromide_or_iodide", "aryl_iodide"),
    (*_PROTIC, "terminal_alkyne", "alkyl_halide", "vinyl_halide", "boronic_acid", "alkene"),
    "aryl iodides",
)
_PHENOL = Role(
    ("plain_phenol", "phenol"),
    (*_NUCLEOPHILES, *_ELECTROPHILES, "carboxylic_acid", "aromatic_nh", "nucleophilic_amine_any", "beta_dicarbonyl"),
    "phenols",
)
_HALIDE = Role(
    ("primary_halide", "alkyl_halide"),
    (*_PROTIC, "aromatic_nh", "nucleophilic_amine_any", "aldehyde", "snar_halide", "michael_acceptor"),
    "alkyl halides",
    amount="1.1 equiv",
)
_ALDEHYDE = Role(
    ("aldehyde",), (*_PROTIC, "ketone", "alkyl_halide", "snar_halide", "activated_alkene", "aromatic_nh"), "aldehydes"
)
_OXIDISABLE = (
    *(*_NUCLEOPHILES, "thioether", "aldehyde", "carboxylic_acid", "nucleophilic_amine_any", "aromatic_nh"),
    *("alpha_beta_elimination", "acetal", "nh_hetero"),
)
_OXIDATIONS = (
    Conditions({"PCC": "1.5 equiv"}, {}, ("DCM",), "STIR for 4 hours at 25 C", FILTER + " ; PURIFY"),
    Conditions(
        {"NMO": "1.5 equiv"}, {"TPAP": "0.05 equiv"}, ("DCM",), "STIR for 2 hours at 25 C", FILTER + " ; PURIFY"
    ),
)

TEMPLATES = (
    Template(
        "amide coupling",
        f"[#6:1][C:2](=[O:3])[OX2H1].[{AMINE_NH}:4]>>[#6:1][C:2](=[O:3])[N:4]",
        (_ACID, _AMINE),
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
        (_ACID, _ANILINE),
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
                    *_NUCLEOPHILES,
                    *_ELECTROPHILES,
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
            Role(("carboxylic_acid",), (*_PROTIC, *_ELECTROPHILES, "beta_dicarbonyl"), "acids"),
            Role(
                ("alcohol",),
                (
                    *_NUCLEOPHILES,
                    *_ELECTROPHILES,
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
                    *_ELECTROPHILES,
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
        "reductive amination",
        f"[CX3H1:1](=O)[#6:2].[{AMINE_NH}:3]>>[#6:2][CH2:1][N:3]",
        (
            _ALDEHYDE,
            Role(
                ("secondary_amine", "amine_nh"),
                ("carboxylic_acid", "ketone", "phenol", "hindered_amine", *_ELECTROPHILES),
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
        "Boc protection",
        f"[{AMINE_NH}:1].CC(C)(C)OC(=O)O[C:2](=[O:3])[O:4][C:5]([CH3:6])([CH3:7])[CH3:8]>>[N:1][C:2](=[O:3])[O:4][C:5]([CH3:6])([CH3:7])[CH3:8]",
        (_AMINE, Role((), (), "Boc anhydride", True, "1.1 equiv")),
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
        (Role(("boc_amine",), ("acetal", "tertiary_alcohol", "amine_nh", *_ELECTROPHILES), "Boc amines"),),
        (
            Conditions({"TFA": "10 equiv"}, {}, ("DCM",), "STIR for 2 hours at 25 C", BASIFY),
            Conditions({"HCl": "4 equiv"}, {}, ("dioxane",), "STIR for 3 hours at 25 C", BASIFY),
        ),
    ),
    Template(
        "N-acylation with an acyl chloride",
        f"[{AMINE_NH}:1].[#6:2][C:3](=[O:4])Cl>>[#6:2][C:3](=[O:4])[N:1]",
        (_PLAIN_AMINE, Role(("acyl_chloride",), (), "acyl chlorides", True, "1.1 equiv")),
        (
            Conditions({"Et3N": "1.5 equiv"}, {}, ("DCM",), "STIR for 3 hours at 0 C", EXTRACT),
            Conditions({"NaOH": "2 equiv"}, {}, ("DCM", "water"), "STIR for 2 hours at 25 C", EXTRACT, ("any_ester",)),
        ),
    ),
    Template(
        "anilide formation with an acyl chloride",
        f"[{AMINE_NH}:1].[#6:2][C:3](=[O:4])Cl>>[#6:2][C:3](=[O:4])[N:1]",
        (_ANILINE, Role(("acyl_chloride",), (), "acyl chlorides", True, "1.1 equiv")),
        (
            Conditions({"Et3N": "1.5 equiv"}, {}, ("DCM",), "STIR for 3 hours at 25 C", EXTRACT),
            Conditions({"pyridine": "2 equiv"}, {}, ("DCM",), "STIR for 6 hours at 25 C", EXTRACT),
        ),
    ),
    Template(
        "sulfonamide formation",
        f"[{AMINE_NH}:1].[#6:2][S:3](=[O:4])(=[O:5])Cl>>[#6:2][S:3](=[O:4])(=[O:5])[N:1]",
        (_PLAIN_AMINE, Role(("sulfonyl_chloride",), (), "sulfonyl chlorides", True, "1.1 equiv")),
        (
            Conditions({"Et3N": "1.5 equiv"}, {}, ("DCM",), workup=EXTRACT),
            Conditions({"Et3N": "1.5 equiv"}, {"DMAP": "0.1 equiv"}, ("DCM",), workup=EXTRACT),
            Conditions({"K2CO3": "2 equiv"}, {}, ("MeCN",), workup=EXTRACT),
        ),
    ),
    Template(
        "sulfonanilide formation",
        f"[{AMINE_NH}:1].[#6:2][S:3](=[O:4])(=[O:5])Cl>>[#6:2][S:3](=[O:4])(=[O:5])[N:1]",
        (_ANILINE, Role(("sulfonyl_chloride",), (), "sulfonyl chlorides", True, "1 equiv")),
        (
            Conditions({"pyridine": "3 equiv"}, {}, ("DCM",), workup=EXTRACT),
            Conditions({"pyridine": "3 equiv"}, {"DMAP": "0.1 equiv"}, ("DCM",), workup=EXTRACT),
        ),
    ),
    Template(
        "urea formation",
        f"[{AMINE_NH}:1].[#6:2][N:3]=[C:4]=[O:5]>>[#6:2][NH:3][C:4](=[O:5])[N:1]",
        (_PLAIN_AMINE, Role(("isocyanate",), (), "isocyanates", True)),
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
                    *_NUCLEOPHILES,
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
        "Williamson ether synthesis",
        "[c:1][OX2H1:2].[CX4;H2,H3:3][Br,I]>>[c:1][O:2][C:3]",
        (_PHENOL, _HALIDE),
        (
            Conditions({"K2CO3": "2 equiv"}, {}, ("acetone",), "REFLUX for 8 hours", EXTRACT),
            Conditions({"Cs2CO3": "1.5 equiv"}, {}, ("DMF",), "STIR for 6 hours at 50 C", EXTRACT),
            Conditions({"K2CO3": "2 equiv"}, {"KI": "0.1 equiv"}, ("MeCN",), "REFLUX for 8 hours", EXTRACT),
        ),
    ),
    Template(
        "N-alkylation",
        f"[{AMINE_NH}:1].[CX4;H2,H3:2][Br,I]>>[N:1][C:2]",
        (_SECONDARY_AMINE, replace(_HALIDE, amount="1 equiv")),
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
            Role(("snar_halide",), (*_PROTIC, "alkyl_halide", "aldehyde", "aromatic_nh", "michael_acceptor")),
            replace(_PLAIN_AMINE, amount="1.2 equiv"),
        ),
        (
            Conditions({"K2CO3": "2 equiv"}, {}, ("DMF",), "STIR for 6 hours at 80 C", EXTRACT),
            Conditions({"DIPEA": "2 equiv"}, {}, ("DMSO",), "STIR for 8 hours at 80 C", EXTRACT),
            Conditions({"Et3N": "2 equiv"}, {}, ("EtOH",), "REFLUX for 8 hours", EXTRACT),
        ),
    ),
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
        (_ARYL_IODIDE, Role(("terminal_alkyne",), (), "alkynes", True, "1.2 equiv")),
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
        (_ARYL_IODIDE, Role(("heck_acceptor",), (), "Heck acceptors", True, "1.5 equiv")),
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
        (_ARYL_BROMIDE, replace(_SECONDARY_AMINE, amount="1.2 equiv")),
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
                {"H2": "1 atm"}, {"Pd/C": "10 wt%"}, ("EtOH",), "STIR for 6 hours at 25 C", FILTER, _H2_SENSITIVE
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
                (*(name for name in _H2_SENSITIVE if name != "alkene"), "nitro", "activated_alkene"),
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
        (replace(_ALDEHYDE, forbid=("ketone", "alkyl_halide", "activated_alkene", "amine_nh", "carboxylic_acid")),),
        (
            Conditions({"NaBH4": "1 equiv"}, {}, ("MeOH",), "STIR for 1 hour at 0 C", EXTRACT),
            Conditions({"NaBH4": "1 equiv"}, {}, ("EtOH",), "STIR for 1 hour at 25 C", EXTRACT),
        ),
    ),
    Template(
        "oxidation of a secondary alcohol",
        "[#6:1][CX4;H1:2]([OX2H1:3])[#6:4]>>[#6:1][C:2](=[O:3])[#6:4]",
        (Role(("secondary_alcohol", "hydroxyl"), _OXIDISABLE),),
        _OXIDATIONS,
    ),
    Template(
        "oxidation of a primary alcohol",
        "[#6:1][CH2:2][OX2H1:3]>>[#6:1][CH:2]=[O:3]",
        (Role(("primary_alcohol", "hydroxyl"), _OXIDISABLE),),
        _OXIDATIONS,
    ),
    Template(
        "benzylic oxidation with manganese dioxide",
        "[c:1][CH2:2][OX2H1:3]>>[c:1][CH:2]=[O:3]",
        (Role(("benzylic_alcohol", "hydroxyl"), _OXIDISABLE),),
        (
            Conditions({"MnO2": "10 equiv"}, {}, ("DCM",), "STIR for 16 hours at 25 C", FILTER),
            Conditions({"MnO2": "10 equiv"}, {}, ("toluene",), "STIR for 6 hours at 60 C", FILTER),
        ),
    ),
    Template(
        "hydride reduction of an ester",
        "[#6:1][CX3;!R:2](=[O:3])[OX2][CH3,$([CH2][CH3])]>>[#6:1][CH2:2][OH:3]",
        (
            Role(
                ("methyl_or_ethyl_ester", "carbonyl"),
                (*_PROTIC, *_REDUCIBLE, "amide_nh", "alkyne", "activated_alkene", "aromatic_nh", "aryl_cl_br_i"),
            ),
        ),
        (
            Conditions({"LiAlH4": "1.5 equiv"}, {}, ("THF",), "STIR for 2 hours at 0 C", EXTRACT),
            Conditions({"LiAlH4": "1.5 equiv"}, {}, ("diethyl ether",), "STIR for 2 hours at 0 C", EXTRACT),
        ),
    ),
    Template(
        "Appel bromination",
        "[CX4;H2:1][OX2H1]>>[C:1]Br",
        (
            Role(
                ("primary_alcohol", "hydroxyl"),
                (
                    *_NUCLEOPHILES,
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
    Template(
        "acyl chloride formation",
        "[#6:1][C:2](=[O:3])[OX2H1]>>[#6:1][C:2](=[O:3])Cl",
        (
            Role(
                ("carboxylic_acid",),
                (
                    *_NUCLEOPHILES,
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
        "oxime formation",
        "[#6:1][CX3H1:2]=O.[NH2:3][OH:4]>>[#6:1][CH:2]=[N:3][OH:4]",
        (_ALDEHYDE, Role((), (), "hydroxylamine", True, "1.5 equiv")),
        (
            Conditions({"NaOAc": "2 equiv"}, {}, ("EtOH", "water"), "STIR for 2 hours at 60 C", EXTRACT),
            Conditions({"pyridine": "2 equiv"}, {}, ("EtOH",), "REFLUX for 2 hours", EXTRACT),
        ),
    ),
    Template(
        "Wittig olefination",
        "[#6:1][CX3H1:2]=O.[CH:3](=P)[C:4]>>[#6:1]/[CH:2]=[CH:3]/[C:4]",
        (_ALDEHYDE, Role((), (), "ylides", True, "1.2 equiv")),
        (
            Conditions({}, {}, ("DCM",), workup="CONCENTRATE ; PURIFY"),
            Conditions({}, {}, ("toluene",), "STIR for 6 hours at 80 C", "CONCENTRATE ; PURIFY"),
        ),
    ),
    Template(
        "Knoevenagel condensation",
        "[c:1][CX3H1:2]=O.[CH2:3]([C:4]#[N:5])[C:6]#[N:7]>>[c:1][CH:2]=[C:3]([C:4]#[N:5])[C:6]#[N:7]",
        (
            replace(_ALDEHYDE, single=("aromatic_aldehyde", "aldehyde")),
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
