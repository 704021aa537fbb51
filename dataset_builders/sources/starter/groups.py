"""Functional groups by SMARTS: what the reaction templates match and guard against, and what the descriptions name."""

from functools import cache

from rdkit import Chem

_NO_AMINAL = "!$(N[CX4]([#7])[#7,#8,#16]);!$(N[CX4][#8,#16])"
AMINE_NH = "NX3;!H0;!$(N[CX3]=[O,S]);!$(NS(=O)=O);!$(NP=O);!$(N[#6]=[NX2])"
"""The inside of a SMARTS atom: an N-H that is no amide's, sulfonamide's or amidine's."""

# Reacting groups. "alkyl_amine" is a nucleophilic sp3 amine; "amine_nh" counts every N-H that would compete with it.
_REACTING = {
    "carboxylic_acid": "[#6][CX3](=O)[OX2H1]",
    "alkyl_amine": f"[NX3;H1,H2;$(N[CX4]);!$(N~[!#6;!#1]);!$(N[#6;!X4]);{_NO_AMINAL}]",
    "secondary_amine": f"[NX3;H1;$(N([CX4])[CX4]);{_NO_AMINAL}]",
    "primary_amine": f"[NX3;H2;$(N[CX4]);{_NO_AMINAL}]",
    "aniline": "[NX3;H2;$(N-c1ccccc1);!$(N-c1ccccc1[N+](=O)[O-]);!$(N-c1ccc([N+](=O)[O-])cc1)]",
    "amine_nh": f"[{AMINE_NH}]",
    "aromatic_nh": "[nX3;H1]",
    "amide_nh": "[NX3;!H0;$(N[CX3]=[O,S]),$(NS(=O)=O)]",
    "primary_alcohol": "[OX2H1][CX4;H2,H3;!$([CX4][CX4]([OX2H1]))]",
    "secondary_alcohol": "[OX2H1][CX4;H1]([#6])[#6]",
    "tertiary_alcohol": "[OX2H1][CX4]([#6])([#6])[#6]",
    "alcohol": "[OX2H1][CX4]",
    "benzylic_alcohol": "[OX2H1][CH2]c",
    "phenol": "[OX2H1]c",
    "plain_phenol": "[OX2H1]c1ccccc1",
    "hetero_phenol": "[OX2H1;$(Oc);!$(Oc1ccccc1)]",
    "hydroxyl": "[OX2H1][$([CX4]),$(c)]",
    "aldehyde": "[CX3;H1](=[OX1])[#6]",
    "ketone": "[CX3]([#6])([#6])=[OX1]",
    # A ketone that hydride attacks cleanly at C=O: no enone, quinone, vinylogous acid or 1,3-dicarbonyl.
    "simple_ketone": "[CX3](=[OX1])([#6;!$([CX3]=[#6]);!$([CX4][CX3]=O);!$(C=O);!$(C[F,Cl,Br,I])])"
    "[#6;!$([CX3]=[#6]);!$([CX4][CX3](=O)[#7,#8]);!$(C=O);!$(C[F,Cl,Br,I])]",
    "aromatic_aldehyde": "[CX3;H1](=[OX1])c",
    "ester": "[#6][CX3](=O)[OX2][#6;!$([#6]=[O,S,N])]",
    "methyl_or_ethyl_ester": "[#6][CX3;!R](=O)[OX2][$([CH3]),$([CH2][CH3])]",
    "any_ester": "[CX3](=[O,S])[O,S;X2][#6]",
    "boc_amine": "[NX3][CX3](=O)[OX2][CX4]([CH3])([CH3])[CH3]",
    "nitrile": "[CX2]#[NX1]",
    "aryl_nitro": "c[N+](=O)[O-]",
    "nitro": "[#6][N+](=O)[O-]",
    "aryl_bromide": "[c;!$(c1[n,o,s]cc[n,o,s]1)][Br]",
    "aryl_iodide": "[c;!$(c1[n,o,s]cc[n,o,s]1)][I]",
    "aryl_bromide_or_iodide": "[c;!$(c1[n,o,s]cc[n,o,s]1)][Br,I]",
    "aryl_halide": "c[F,Cl,Br,I]",
    "aryl_cl_br_i": "c[Cl,Br,I]",
    # Activated for SNAr: nitro ortho or para, or the 2/4 position of a pyrimidine.
    "snar_halide": "[c;$(c1c([N+](=O)[O-])cccc1),$(c1ccc([N+](=O)[O-])cc1),$(c1ncccn1),$(c1ccncn1)][F,Cl]",
    "vinyl_halide": "[CX3]=[CX3][F,Cl,Br,I]",
    "alkyl_halide": "[CX4][Cl,Br,I]",
    # Alkylates instead of eliminating: methyl, benzyl, allyl, or primary without an acidic or crowded beta carbon.
    "primary_halide": "[$([CH3]),$([CH2]c),$([CH2][CX3]=[CX3]),"
    "$([CH2][CX4;!$([CX4]([CX4])([CX4])([CX4])[CX4]);!$([CX4][F,Cl,Br,I,N,O,S,c]);!$([CX4][$(C=[O,N]),$(C#N),$(C=C)])])][Br,I]",
    "boronic_acid": "[#6;$(c)][BX3]([OX2H1])[OX2H1]",
    "terminal_alkyne": "[CX2;H1]#[CX2][#6]",
    "alkyne": "[CX2]#[CX2]",
    "alkene": "[CX3;!$(C=O)]=[CX3]",
    "simple_alkene": "[CX3;H1,H2;!$(C[!#6]);!$(C=C[!#6])]=[CX3;!$(C[!#6])]",
    "heck_acceptor": "[CH2]=[CH][$([CX3](=O)[OX2]),$(c)]",
    "sulfonyl_chloride": "[#6]S(=O)(=O)Cl",
    "acyl_chloride": "[#6][CX3](=O)Cl",
    "isocyanate": "[#6][NX2]=[CX2]=[OX1]",
    "acid_anhydride": "[CX3](=O)[OX2][CX3]=O",
    "thiol": "[SX2H1]",
}
# Groups that are unstable, or react with almost anything: no reactant may contain one unless it reacts there.
REACTIVE = {
    "acyl_chloride": _REACTING["acyl_chloride"],
    "sulfonyl_chloride": _REACTING["sulfonyl_chloride"],
    "isocyanate": _REACTING["isocyanate"],
    "acid_anhydride": _REACTING["acid_anhydride"],
    "thiol": _REACTING["thiol"],
    "other_acyl_halide": "[CX3](=[O,S])[F,Br,I]",
    "hetero_acyl_chloride": "[!#6][CX3](=[O,S,N])Cl",
    "other_sulfonyl_halide": "S(=O)(=O)[F,Br,I]",
    "hetero_halide": "[#5,#7,#8,#14,#15,#34,$([#16;!$([#16](=O)=O)])][F,Cl,Br,I]",
    "isothiocyanate": "[NX2]=[CX2]=[SX1]",
    "cumulene": "[$([#6]=[CX2]=*),$([NX2]=[CX2]=[NX2])]",
    "azide_or_diazo": "[$([#7]~[#7+]~[#7-]),$([#6]~[#7+]~[#7-]),$([#7+]#[#7])]",
    "azo": "[NX2]=[NX2]",
    "nitroso": "[#6,#7,#8][NX2]=[OX1]",
    "nitrate": "[#7,#8][N+](=O)[O-]",
    "peroxide": "[OX2][OX2]",
    "three_ring": "[#6]1[#7,#8,#16]~*1",
    "quinone": "[#6;R](=[OX1,N])[#6;R]=,:[#6;R][#6;R](=[OX1,N])",
    "cyclic_dione": "O=[#6;R][#6;R]=O",
    "mustard": "[F,Cl,Br,I][CX4][CX4][NX3,SX2]",
    "alpha_halo_carbonyl": "[Cl,Br,I][CX4][CX3]=O",
    "alpha_hetero_halide": "[F,Cl,Br,I;!$([F]C(F)(F))][CX4][#7,#8,#16]",
    "nh_hetero": "[NX3;!H0;!$(NS(=O)=O)][#7,#8]",
    "oh_hetero": "[OX2H1][#7,#16,#15,#34,#14]",
    "hemiacetal": "[CX4]([OX2H1])[#7,#8,#16]",
    "aminal": "[CX4]([NX3;!H0])[#7,#8,#16]",
    "enol": "[OX2H1][CX3]=[CX3]",
    "enamine": "[NX3;!H0][CX3]=[CX3;!$(C=O)]",
    "carbonic_acid": "[#7,#8,#16][CX3](=O)[OX2H1]",
    "thioacid_or_thiocarbonyl": "[#6]=[SX1]",
    "disulfide": "[SX2][SX2]",
    "phosphorus": "[#15]",
    "silicon": "[#14]",
    "selenium": "[#34]",
    "boron": "[#5;!$([BX3]([OX2H1])[OX2H1])]",
    "imine": "[CX3;!$(C[#7])]=[NX2]",
    "amidine": "[NX3;!H0][#6;!a]=[NX2]",
    "hydride_acceptor_cation": "[+;!$([N+](=O)[O-]);!$([#7+][O-])]",
    "anion": "[-;!$([O-][N+]=O);!$([O-][#7+])]",
}
_GUARDS = {
    # Two branched arms, or a tertiary carbon, on a secondary amine.
    "hindered_amine": "[$([NX3;H1;!R]([CX4;H0,H1])[CX4;H0,H1]),$([NX3;H1][CX4;H0]([#6])([#6])[#6])]",
    "hindered_aniline": "[NX3;H2;$(N-c1c(-[*])cccc1-[*])]",
    "activated_alkene": "[CX3]=[CX3]-[$([CX3]=O),$([CX2]#N),$([N+](=O)[O-]),$(S=O)]",
    "michael_acceptor": "[CX3;H1,H2]=[CX3]-[$([CX3]=O),$([CX2]#N),$([N+](=O)[O-]),$(S=O)]",
    "acetal": "[CX4]([OX2][#6])[OX2,NX3,SX2]",
    "benzyl_hetero": "[CX4;$(Cc)][#7,#8;!$(*=*)]",
    "thioether": "[SX2]([#6])[#6]",
    "tertiary_amide": "[NX3;H0][CX3]=O",
    "carbonyl": "[CX3]=[OX1]",
    "beta_dicarbonyl": "[CX3](=O)[CX4;!H0][$([CX3]=O),$([CX2]#N),$([N+]=O)]",
    "nucleophilic_amine_any": "[NX3;!$(N[CX3]=[O,S]);!$(N[SX4]);!$(N[#6;a]);!$(N~[#7,#8])]",
    # An ortho chain that would close onto a freshly made aniline.
    "ortho_acyl_chain": "[O-][N+](=O)c:c[$([!a]~[#6]=O),$([!a]~[!a]~[#6]=O)]",
    "alpha_beta_elimination": "[OX2H1][CX4][CX4][$([CX3]=O),$([N+]=O)]",
}
# Named in captions and questions: singular name -> SMARTS, each true of the structure whatever the ring it sits in.
NAMED = {
    "carboxylic acid": "[#6][CX3](=O)[OX2H1]",
    "ester": "[#6][CX3](=O)[OX2][#6;!$([#6]=[O,S,N])]",
    "amide": "[#6][CX3](=[OX1])[NX3]",
    "primary amine": "[NX3;H2;$(N[#6;!$([#6]=[O,S,N])]);!$(N[CX3]=[O,S,N])]",
    "alcohol": "[OX2H1][CX4]",
    "phenol": "[OX2H1]c",
    "aldehyde": "[CX3;H1](=[OX1])[#6]",
    "ketone": "[CX3]([#6])([#6])=[OX1]",
    "ether": "[OX2;!$(O[#6]=[O,S,N])]([#6])[#6]",
    "thioether": "[SX2;!$(S[#6]=[O,S,N])]([#6])[#6]",
    "thiol": "[SX2H1][#6]",
    "nitro group": "[N+](=O)([O-])[#6]",
    "nitrile": "[#6][CX2]#[NX1]",
    "sulfonamide": "[#6][SX4](=O)(=O)[NX3]",
    "urea": "[NX3][CX3](=[OX1])[NX3]",
    "carbamate": "[NX3][CX3](=[OX1])[OX2][#6]",
    "carbon-chlorine bond": "[#6]Cl",
    "carbon-bromine bond": "[#6]Br",
    "carbon-fluorine bond": "[#6]F",
    "carbon-iodine bond": "[#6]I",
    "carbon-carbon triple bond": "[CX2]#[CX2]",
}
GROUPS = {**_REACTING, **REACTIVE, **_GUARDS}


@cache
def pattern(smarts: str) -> Chem.Mol:
    """The compiled SMARTS."""
    return Chem.MolFromSmarts(smarts)


def count_groups(mol: Chem.Mol, groups: dict[str, str] = GROUPS) -> dict[str, int]:
    """How often each group occurs in `mol`; groups that do not occur are left out."""
    counts = {name: len(mol.GetSubstructMatches(pattern(smarts))) for name, smarts in groups.items()}
    return {name: count for name, count in counts.items() if count}
