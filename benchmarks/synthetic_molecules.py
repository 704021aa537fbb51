"""Made-up molecules and reactions by number: as many as wanted, all different, as fast as strings are joined.

A molecule is a bicyclic core with three groups in fixed places. No two cores have the same ring system, none has a
symmetry that exchanges its places, and no group contains a core, so that different numbers below `COUNT` are different
molecules. They have about 25 heavy atoms (`tests/unit/test_synthetic_sources.py` checks both).
"""

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CORES = (
    "c1({})cc({})c2cc({})ccc2n1",
    "c1({})ncc({})c2cc({})ccc21",
    "[nH]1c({})c({})c2cc({})ccc21",
    "o1c({})c({})c2cc({})ccc21",
    "s1c({})c({})c2cc({})ccc21",
    "n1c({})nc({})c2cc({})ccc21",
    "n1c({})c({})nc2cc({})ccc21",
    "n1c({})n(C)c2cc({})c({})cc21",
    "n1n(C)c2c({})cc({})cc2c1{}",
    "s1c({})nc2cc({})c({})cc21",
    "o1c({})nc2cc({})c({})cc21",
    "c1({})nc2cc({})ccn2c1{}",
    "n1c({})nc2sc({})c({})c2c1",
    "O=c1oc2cc({})c({})cc2cc1{}",
    "O=c1c({})c({})oc2cc({})ccc12",
    "c1({})cc2nc({})cc({})n2n1",
)
GROUPS = _words(
    "F Cl Br I C CC CCC C(C)C C(C)(C)C C3CC3 C3CCCC3 C3CCCCC3 C#N C#CC C=C C(F)(F)F CO CCO COC CN(C)C CCOC O OC OCC "
    "OC(C)C OCCO OCCOC OCCN(C)C OC(F)(F)F OC3CCCC3 Oc3ccccc3 OCc3ccccc3 SC SCC S(C)(=O)=O S(N)(=O)=O S(=O)(=O)N(C)C "
    "N(C)C N3CCCC3 N3CCCCC3 N3CCOCC3 N3CCN(C)CC3 NC(C)=O NS(C)(=O)=O NC(=O)OC(C)(C)C C(C)=O C(=O)OC C(=O)OCC "
    "C(=O)[O-] [N+](=O)[O-] [C@H](C)O [C@@H](C)O [C@H](C)N [C@@H](C)N /C=C/C /C=C\\C Cc3ccccc3 c3ccccc3 c3ccc(F)cc3 "
    "c3ccc(C)cc3 c3ccc(OC)cc3 c3ccco3 c3cccs3 c3cccnc3"
)
AMINES = _words(
    "N NC NCC NCCC NC(C)C NCCCC NC(C)(C)C NC3CC3 NC3CCC3 NC3CCCC3 NC3CCCCC3 NCC3CC3 NCCO NCCOC NCCN(C)C NCCCO "
    "NCCCOC NCC(F)(F)F NCC#N NCC#C NCC=C NCC(=O)OC N[C@@H](C)C(=O)OC N[C@H](C)c3ccccc3 NCc3ccccc3 NCc3ccc(F)cc3 "
    "NCc3ccc(C)cc3 NCc3ccc(OC)cc3 NCc3ccc(Cl)cc3 NCc3ccco3 NCc3cccs3 NCc3cccnc3 NCc3ccccn3 NCCc3ccccc3 "
    "NCCc3ccc(OC)cc3 NCCN3CCOCC3 NCCN3CCCC3 Nc3ccccc3 Nc3ccc(F)cc3 Nc3ccc(Cl)cc3 Nc3ccc(Br)cc3 Nc3ccc(C)cc3 "
    "Nc3ccc(OC)cc3 Nc3ccc(C#N)cc3 Nc3cccnc3 Nc3ccccn3 Nc3cccc(F)c3 Nc3cccc(C)c3 Nc3ccccc3C Nc3ccccc3F N(C)C N(C)CC "
    "N(CC)CC N(C)Cc3ccccc3 N3CCC3 N3CCCC3 N3CCCCC3 N3CCOCC3 N3CCSCC3 N3CCN(C)CC3 N3CCC(O)CC3 N3CCC(C)CC3 "
    "N3CCN(C(=O)OC(C)(C)C)CC3 N3CCN(c3ccccc3)CC3"
)
COUNT = len(CORES) * len(GROUPS) ** 2 * len(AMINES)
REAGENTS = _words("CCN(CC)CC CCN(C(C)C)C(C)C c1ccncc1 O=C([O-])[O-].[K+].[K+] O=C([O-])O.[Na+] Cl.CCN=C=NCCCN(C)C")
SOLVENTS = _words("ClCCl C1CCOC1 CN(C)C=O CC#N CCOC(C)=O Cc1ccccc1 CS(C)=O C1COCCO1")
CATALYSTS = _words("CN(C)c1ccncc1 On1nnc2ccccc21 [Pd] [I-].[K+]")
_STRIDE = 2_654_435_761
"""Spreads neighbouring numbers over cores and groups; prime, so that every number is reached once."""


@dataclass(frozen=True)
class Reaction:
    """An amide coupling; all fields are SMILES."""

    reactants: str
    product: str
    reagents: str
    solvents: str
    catalysts: str


def molecule(number: int) -> str:
    """The SMILES of molecule `number`, below `COUNT`."""
    core, first, second, amine = _choice(number)
    return core.format(first, second, f"C(=O){amine}")


def reaction(number: int) -> Reaction:
    """A reaction whose product is `molecule(number)`."""
    core, first, second, amine = _choice(number)
    return Reaction(
        reactants=f"{core.format(first, second, 'C(=O)O')}.{amine}",
        product=core.format(first, second, f"C(=O){amine}"),
        reagents=REAGENTS[number % len(REAGENTS)],
        solvents=SOLVENTS[number % len(SOLVENTS)],
        catalysts=CATALYSTS[number % len(CATALYSTS)],
    )


def _choice(number: int) -> tuple[str, str, str, str]:
    if not 0 <= number < COUNT:
        raise ValueError(f"there is no molecule {number}: they are numbered from 0 to {COUNT - 1}")
    rest = number * _STRIDE % COUNT
    chosen = []
    for kinds in (CORES, GROUPS, GROUPS, AMINES):
        rest, place = divmod(rest, len(kinds))
        chosen.append(kinds[place])
    return tuple(chosen)
