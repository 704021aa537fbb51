"""Reactants and guards that several reactions share."""

from dataset_builders.sources.starter.templates import FILTER, Conditions, Role

NUCLEOPHILES = ("amine_nh", "amidine", "nh_hetero", "thiol")
ELECTROPHILES = ("primary_halide", "alkyl_halide", "aldehyde", "snar_halide", "michael_acceptor")
PROTIC = (*NUCLEOPHILES, "carboxylic_acid", "alcohol", "phenol")
REDUCIBLE = ("nitro", "aldehyde", "ketone", "nitrile", "alkyl_halide", "nitrate", "aryl_bromide_or_iodide")
# What hydrogen on palladium would also reduce or cleave.
H2_SENSITIVE = (
    *("alkyne", "alkene", "aldehyde", "nitrile", "aryl_cl_br_i", "alkyl_halide", "vinyl_halide", "benzyl_hetero"),
    *("thioether", "azo", "imine"),
)

ACID = Role(("carboxylic_acid",), (*NUCLEOPHILES, *ELECTROPHILES, "beta_dicarbonyl"), "acids")
AMINE = Role(
    ("alkyl_amine", "amine_nh"), ("carboxylic_acid", *ELECTROPHILES, "hindered_amine"), "amines", amount="1.2 equiv"
)
PLAIN_AMINE = Role(
    ("alkyl_amine", "amine_nh"),
    ("carboxylic_acid", "alcohol", "phenol", "aromatic_nh", *ELECTROPHILES, "hindered_amine"),
    "amines",
)
ANILINE = Role(
    ("aniline", "amine_nh"),
    ("carboxylic_acid", "phenol", "alcohol", "aromatic_nh", "hindered_aniline", *ELECTROPHILES),
    amount="1.1 equiv",
)
# The one basic nitrogen: a second one would be alkylated or arylated as well.
SECONDARY_AMINE = Role(
    ("secondary_amine", "amine_nh", "nucleophilic_amine_any"),
    ("carboxylic_acid", "phenol", "alcohol", "aromatic_nh", "amide_nh", "hindered_amine", *ELECTROPHILES),
    "amines",
)
ARYL_BROMIDE = Role(
    ("aryl_bromide_or_iodide", "aryl_bromide"),
    (*PROTIC, "terminal_alkyne", "alkyl_halide", "vinyl_halide", "boronic_acid", "aldehyde", "alkene", "aromatic_nh"),
    "aryl bromides",
)
ARYL_IODIDE = Role(
    ("aryl_bromide_or_iodide", "aryl_iodide"),
    (*PROTIC, "terminal_alkyne", "alkyl_halide", "vinyl_halide", "boronic_acid", "alkene"),
    "aryl iodides",
)
PHENOL = Role(
    ("plain_phenol", "phenol"),
    (*NUCLEOPHILES, *ELECTROPHILES, "carboxylic_acid", "aromatic_nh", "nucleophilic_amine_any", "beta_dicarbonyl"),
    "phenols",
)
HALIDE = Role(
    ("primary_halide", "alkyl_halide"),
    (*PROTIC, "aromatic_nh", "nucleophilic_amine_any", "aldehyde", "snar_halide", "michael_acceptor"),
    "alkyl halides",
    amount="1.1 equiv",
)
ALDEHYDE = Role(
    ("aldehyde",), (*PROTIC, "ketone", "alkyl_halide", "snar_halide", "activated_alkene", "aromatic_nh"), "aldehydes"
)
OXIDISABLE = (
    *(*NUCLEOPHILES, "thioether", "aldehyde", "carboxylic_acid", "nucleophilic_amine_any", "aromatic_nh"),
    *("alpha_beta_elimination", "acetal", "nh_hetero"),
)
OXIDATIONS = (
    Conditions({"PCC": "1.5 equiv"}, {}, ("DCM",), "STIR for 4 hours at 25 C", FILTER + " ; PURIFY"),
    Conditions(
        {"NMO": "1.5 equiv"}, {"TPAP": "0.05 equiv"}, ("DCM",), "STIR for 2 hours at 25 C", FILTER + " ; PURIFY"
    ),
)
