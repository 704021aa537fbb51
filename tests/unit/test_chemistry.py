"""Text to molecules to graphs: every bad input is refused with its reason, every odd molecule has a correct graph."""

import csv
import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import selfies
from rdkit import Chem, RDConfig

from omnimol_hf.chemistry_omnimol import (
    ATOM_CAP,
    FEATURES_VERSION,
    GRAPH_FEATURES,
    canonical_smiles,
    graph_components,
    joined_graph,
    mol_from_selfies,
    mol_from_smiles,
    molecule_graph,
    molecule_graphs,
    selfies_to_smiles,
    smiles_to_selfies,
)

SIZES = {"ogb9": ((119, 4, 12, 12, 10, 6, 6, 2, 2), (5, 6, 2)), "omnimol2": ((119, 4), (5, 6))}
NCI = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"


def nci_smiles(count):
    """Real molecules that come with RDKit; the few lines that RDKit itself cannot read are left out."""
    with NCI.open() as lines:
        candidates = [line.split()[0] for line in itertools.islice(lines, count)]
    return [smiles for smiles in candidates if Chem.MolFromSmiles(smiles) is not None]


def chebi_smiles(shared, count):
    with (shared / "raw" / "chebi_20" / "test.txt").open(encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row["SMILES"] for row in itertools.islice(rows, count)]


def assert_sound(mol):
    """What holds for every graph of a molecule, whatever is in it."""
    for features, (atom_columns, bond_columns) in GRAPH_FEATURES.items():
        graph = molecule_graph(mol, features)
        bonds = mol.GetNumBonds()
        assert graph.atom_features.shape == (mol.GetNumAtoms(), atom_columns)
        assert graph.bond_index.shape == (2, 2 * bonds)
        assert graph.bond_features.shape == (2 * bonds, bond_columns)
        for array in (graph.atom_features, graph.bond_index, graph.bond_features):
            assert array.dtype == np.int64
        atom_sizes, bond_sizes = SIZES[features]
        assert (graph.atom_features >= 0).all()
        assert (graph.atom_features < atom_sizes).all()
        assert (graph.bond_features >= 0).all()
        assert (graph.bond_features < bond_sizes).all()
        adjacency = np.zeros((mol.GetNumAtoms(),) * 2, dtype=int)
        np.add.at(adjacency, tuple(graph.bond_index), 1)
        np.testing.assert_array_equal(adjacency, Chem.GetAdjacencyMatrix(mol))
        np.testing.assert_array_equal(graph.bond_index[:, 0::2], graph.bond_index[::-1, 1::2])
        np.testing.assert_array_equal(graph.bond_features[0::2], graph.bond_features[1::2])


# --- bad input -------------------------------------------------------------------------------------------------------

BAD_SMILES = [
    ("", "blank"),
    (" ", "blank"),
    ("\n", "blank"),
    ("Ｃ", "outside ASCII"),
    (">>", "reaction"),
    ("CC>>O", "reaction"),
    ("C..C", "syntax"),
    ("C.", "syntax"),
    ("C1CC", "syntax"),
    ("[CH3", "syntax"),
    ("hello", "syntax"),
    ("C C", "white space inside"),
    ("CCO ethanol", "white space inside"),
    ("c1cccc1", "kekulize"),
    ("C(C)(C)(C)(C)C", "valence for atom # 0 C, 5"),
]


@pytest.mark.parametrize("function", [mol_from_smiles, smiles_to_selfies])
@pytest.mark.parametrize(("smiles", "reason"), BAD_SMILES)
def test_bad_smiles_name_themselves_and_the_reason(function, smiles, reason, capfd):
    with pytest.raises(ValueError, match=reason) as error:
        function(smiles)
    assert repr(smiles) in str(error.value)
    assert capfd.readouterr().err == ""


BAD_SELFIES = [
    ("", "blank"),
    (" \n", "blank"),
    ("hello", "bracketed symbols"),
    ("[C]hello", "bracketed symbols"),
    ("CCO", "bracketed symbols"),
    ("[C][O", "bracketed symbols"),
    ("[C]]", "bracketed symbols"),
    ("[[C]]", "bracketed symbols"),
    ("[C] [O]", "bracketed symbols"),
    ("[]", "bracketed symbols"),
    (".[C]", "component ''"),
    ("[C].", "component ''"),
    ("[C]..[C]", "component ''"),
    ("[C]>>[O]", "bracketed symbols"),
    ("[Branch1][Ring1]", "decodes to no atom"),
    ("[Ring1]", "decodes to no atom"),
    ("[C].[Branch1]", "decodes to no atom"),
    ("[Foo]", r"invalid symbol '\[Foo\]'"),
    ("[*]", "invalid symbol"),
    ("[C][Branch1_2][C][O]", r"invalid symbol '\[Branch1_2\]'"),
    ("[C][Expl=Ring1]", "invalid symbol"),
    ("[C][nop][O]", r"\[nop\] is padding"),
    ("[C][epsilon][O]", r"\[epsilon\] is padding"),
    ("[C]" + "[Branch3][O][O][O][C]" * 1200, "nested too deeply"),
]


@pytest.mark.parametrize("function", [mol_from_selfies, selfies_to_smiles])
@pytest.mark.parametrize(("text", "reason"), BAD_SELFIES)
def test_bad_selfies_name_themselves_and_the_reason(function, text, reason, capfd):
    with pytest.raises(ValueError, match=reason) as error:
        function(text)
    assert repr(text)[:80] in str(error.value)
    assert len(str(error.value)) < 400
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("value", [None, 7, b"C", ["C"], float("nan")])
@pytest.mark.parametrize("function", [mol_from_smiles, mol_from_selfies, smiles_to_selfies, selfies_to_smiles])
def test_no_string(function, value):
    with pytest.raises(ValueError, match=f"must be a string, got {type(value).__name__}"):
        function(value)


def test_selfies_grammar_is_followed_where_valences_are_used_up():
    assert selfies_to_smiles("[C][=F]") == "CF"
    assert selfies_to_smiles("[C][F][F][F]") == "CF"


def test_an_impossible_decoded_molecule_is_refused():
    with pytest.raises(ValueError, match=r"SELFIES '\[O-2\]\[F\]' decodes to an impossible molecule: .*valence"):
        mol_from_selfies("[O-2][F]")


# --- odd but right ---------------------------------------------------------------------------------------------------

# SMILES -> reads back from SELFIES as the same molecule, or why SELFIES cannot write it
ODD_MOLECULES = {
    "C\n": None,
    "[2H]C([2H])([2H])[13CH3]": None,
    "[CH3]": None,
    "CC1(C)CCCC(C)(C)N1[O]": None,
    "[Na+].[O-]C(=O)c1ccccc1": None,
    "FS(F)(F)(F)(F)F": None,
    "F[P-](F)(F)(F)(F)F": None,
    "[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1": None,
    "N[Pt](N)(Cl)Cl": None,
    "[H][H]": None,
    "[H+]": None,
    "C": None,
    "[He]": None,
    "CN(=O)=O": None,
    "OI(=O)(=O)=O": None,
    "C[C@H](N)C(=O)O": None,
    "C/C=C\\C": None,
    "[C-]#[O+]": None,
    "[CH3:1][OH:2]": None,
    "*CC": "wildcard atom",
    "O=I1(O)OC(=O)c2ccccc21": "I with 5 bond",
    "[NH3]->[Cu]": "bond of type DATIVE",
    "[NH3][Pt]([NH3])(Cl)Cl": "bond of type DATIVE",
    "C~C": "bond of type UNSPECIFIED",
    "C$C": "bond of type QUADRUPLE",
    "C[Pt@SP1](F)(Cl)Br": "stereo that is not tetrahedral",
    "[Og]": "failed to parse",
}


@pytest.mark.parametrize(("smiles", "refused"), ODD_MOLECULES.items())
def test_odd_molecules(smiles, refused, capfd):
    mol = mol_from_smiles(smiles)
    assert mol.GetNumAtoms() > 0
    assert_sound(mol)
    if refused:
        with pytest.raises(ValueError, match=f"cannot be written as SELFIES: .*{refused}") as error:
            smiles_to_selfies(smiles)
        assert repr(smiles) in str(error.value)
    else:
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
        assert selfies_to_smiles(smiles_to_selfies(smiles)) == canonical_smiles(mol)
    assert capfd.readouterr().err == ""


def test_hypervalent_nitro_is_normalised_to_the_charged_form():
    assert smiles_to_selfies("CN(=O)=O") == smiles_to_selfies("C[N+](=O)[O-]")


def test_atom_maps_are_removed_on_the_way_to_selfies_only():
    assert canonical_smiles(mol_from_smiles("[CH3:1][OH:2]")) == "[CH3:1][OH:2]"
    assert smiles_to_selfies("[CH3:1][OH:2]") == smiles_to_selfies("CO") == "[C][O]"


def test_components_are_joined_by_dots():
    assert smiles_to_selfies("C.O") == "[C].[O]"
    assert selfies_to_smiles("[O].[C]") == "C.O"


# --- size ------------------------------------------------------------------------------------------------------------


def test_six_hundred_atoms_are_no_trouble():
    smiles = "C" * 600
    assert_sound(mol_from_smiles(smiles))
    assert selfies_to_smiles(smiles_to_selfies(smiles)) == smiles


def test_the_atom_cap_names_itself_and_can_be_raised():
    mol = mol_from_smiles("C" * (ATOM_CAP + 1))
    with pytest.raises(
        ValueError, match=f"{ATOM_CAP + 1} atoms, more than atom_cap={ATOM_CAP}; pass a higher atom_cap"
    ):
        molecule_graph(mol)
    assert len(molecule_graph(mol, atom_cap=ATOM_CAP + 1).atom_features) == ATOM_CAP + 1
    assert len(molecule_graph(mol_from_smiles("C" * ATOM_CAP)).atom_features) == ATOM_CAP


@pytest.mark.parametrize(
    ("function", "text", "reason"),
    [
        (
            mol_from_smiles,
            "C" * 20_000,
            "20000 atoms, more than the 8192",
        ),  # its canonical SMILES would end the process
        (smiles_to_selfies, "C" * 5_000, f"5000 atoms, more than atom_cap={ATOM_CAP}; pass a higher atom_cap"),
        (mol_from_selfies, "[C]" * 20_000, "20000 symbols, more than the 8192"),
    ],
)
def test_very_long_strings_are_refused_before_the_slow_step(function, text, reason, monkeypatch):
    monkeypatch.setattr(selfies, "encoder", None)
    monkeypatch.setattr(selfies, "decoder", None)
    with pytest.raises(ValueError, match=reason):
        function(text)


def test_a_molecule_without_atoms_and_unknown_features():
    with pytest.raises(ValueError, match="no atoms"):
        molecule_graph(Chem.Mol())
    with pytest.raises(ValueError, match="'ogb' are unknown; expected one of ogb9, omnimol2"):
        molecule_graph(mol_from_smiles("C"), "ogb")


# --- features --------------------------------------------------------------------------------------------------------


def _in(values, value, other):
    return values.index(value) if value in values else other


def _plain_atom(atom):
    return [
        118 if atom.GetSymbol() == "*" else atom.GetAtomicNum() - 1,
        _in(["CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW"], str(atom.GetChiralTag()), 3),
        min(atom.GetDegree() + atom.GetTotalNumHs(), 11),
        atom.GetFormalCharge() + 5 if abs(atom.GetFormalCharge()) <= 5 else 11,
        min(atom.GetTotalNumHs(), 9),
        min(atom.GetNumRadicalElectrons(), 5),
        _in(["SP", "SP2", "SP3", "SP3D", "SP3D2"], str(atom.GetHybridization()), 5),
        int(atom.GetIsAromatic()),
        int(atom.GetOwningMol().GetRingInfo().NumAtomRings(atom.GetIdx()) > 0),
    ]


def _plain_bond(bond):
    return [
        _in(["SINGLE", "DOUBLE", "TRIPLE", "AROMATIC"], str(bond.GetBondType()), 4),
        _in(["STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS"], str(bond.GetStereo()), 5),
        int(bond.GetIsConjugated()),
    ]


def assert_read_one_by_one(mol, name):
    """The graph is what asking every atom and every bond for every property gives."""
    graph = molecule_graph(mol)
    bonds = sorted(mol.GetBonds(), key=lambda bond: (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
    assert graph.atom_features.tolist() == [_plain_atom(atom) for atom in mol.GetAtoms()], name
    assert graph.bond_features[::2].tolist() == [_plain_bond(bond) for bond in bonds], name
    assert graph.bond_index[:, ::2].T.tolist() == [[b.GetBeginAtomIdx(), b.GetEndAtomIdx()] for b in bonds], name


def test_features_are_rdkits_own_properties():
    odd = [smiles for smiles in ODD_MOLECULES if smiles != "C\n"]
    for smiles in [*nci_smiles(300), *odd, *NASTY_MOLECULES.split(), "N" * 200, "C=" * 99 + "C"]:
        assert_read_one_by_one(mol_from_smiles(smiles), smiles)


# Values that few atoms or bonds have, and chemistry in which one property does not follow from another.
NASTY_MOLECULES = r"""
    [Co+6] [C-5] [SnH4] [Na] [Pt] [H] [C] [CH2] [N] [O][O] [U+4] * [*]~[*] C(=C/Cl)\Cl F/C=C/C=C\F CC=CC C/C=N/O
    FC(Cl)=C=C(F)Cl C=C=C=C OC#CC#N [C-]#[O+] C[N+](=O)[O-] CN=[N+]=[N-] C[N+]#[C-] CS(=O)C C[S@](=O)CC
    CS(=O)(=O)N COP(=O)([O-])OC C[P@@](=O)(O)CC CP(C)(C)(C)C OI(=O)(=O)=O
    CC(=O)OI1(OC(C)=O)(OC(C)=O)OC(=O)c2ccccc21 FS(F)(F)(F)(F)F B OB(O)c1ccccc1 F[B-](F)(F)F [BH3-]C#N
    Cl(=O)(=O)(=O)O [Xe](F)F O=[Os](=O)(=O)=O c1cc[nH]c1 c1ccoc1 C[n+]1ccccc1 [c-]1ccccc1 [O-][n+]1ccccc1
    c1ccc2c(c1)[se]cc2 O=c1cc[nH]cc1 c1ccn(->[Pd])cc1 Cl[Pd](Cl)(<-P(C)(C)C)<-P(C)(C)C [O-]C(=O)C[NH2]->[Cu+2]
    O=C=O->[Fe] [C-]#[O+]->[Ni] [Fe]123456789C%10C1C2C3C4%10.C51C6C7C8C91 [Fe+2].c1cc[cH-]c1.c1cc[cH-]c1 C[Mg]Br
    [Li]CCCC F[Co@OH1](Cl)(Br)(I)(N)O C[Pt@SP2](F)(Cl)Br S[As@TB3](F)(Cl)(Br)N C[C@@H]1CC[C@H](O)CC1 [2H]O[2H]
    [13CH4] [H][H] [H]c1ccccc1 [H]O[H].[H+] CC([CH2])C [O]c1ccccc1 C$C C~C O=C1C=CC(=O)C=C1 C1=CC=CC=CC=C1
    c1ccccc1-c1ccccc1 CC(=O)Nc1ccccc1 C1CC2CCC1CC2
"""


def test_features_of_molecules_changed_by_hand():
    """Nothing that a sanitised molecule would make sure of is taken for granted."""
    for smiles in ("Cc1ccc(/C=C/C(=O)[O-])nc1", "C[C@H](N)C(=O)Nc1cc[nH]c1"):
        for clear in (True, False):
            kekulized = mol_from_smiles(smiles)
            Chem.Kekulize(kekulized, clearAromaticFlags=clear)
            assert_read_one_by_one(kekulized, (smiles, clear))
        assert_read_one_by_one(Chem.AddHs(mol_from_smiles(smiles)), smiles)
        mol = mol_from_smiles(smiles)
        for number, (atom, bond) in enumerate(zip(mol.GetAtoms(), mol.GetBonds(), strict=False)):
            atom.SetChiralTag(list(Chem.ChiralType.names.values())[number % len(Chem.ChiralType.names)])
            atom.SetHybridization(list(Chem.HybridizationType.names.values())[number % 8])
            atom.SetFormalCharge((number * 7) % 19 - 9)
            atom.SetNumRadicalElectrons((number * 3) % 7)
            atom.SetNumExplicitHs((number * 5) % 256)
            atom.SetIsAromatic(number % 3 == 0)
            bond.SetIsAromatic(number % 4 == 0)
            bond.SetIsConjugated(number % 5 > 1)
        mol.UpdatePropertyCache(strict=False)
        assert_read_one_by_one(mol, smiles)
    many = mol_from_smiles("[C]")
    many.GetAtomWithIdx(0).SetNumExplicitHs(255)
    many.UpdatePropertyCache(strict=False)
    assert_read_one_by_one(many, "255 hydrogens")


def test_features_of_molecules_that_are_not_sanitised():
    """Patterns too; what RDKit has not counted is refused by RDKit itself."""
    for mol in (Chem.MolFromSmiles("CN(=O)=O.c1ccccc1", sanitize=False), Chem.MolFromSmarts("[C,N]~C-,=[O-]:n")):
        with pytest.raises(RuntimeError, match="getNumImplicitHs"):
            molecule_graph(mol)
        mol.UpdatePropertyCache(strict=False)
        Chem.FastFindRings(mol)
        assert_read_one_by_one(mol, Chem.MolToSmarts(mol))


def test_reading_a_molecule_leaves_it_as_it_is():
    mol = Chem.MolFromSmiles("C[C@H](F)[C@@H](Cl)O |&1:1,o2:3|")
    before = Chem.MolToCXSmiles(mol), len(mol.GetStereoGroups()), mol.ToBinary(), list(mol.GetPropNames(True, True))
    molecule_graph(mol)
    assert before == (
        Chem.MolToCXSmiles(mol),
        len(mol.GetStereoGroups()),
        mol.ToBinary(),
        list(mol.GetPropNames(True, True)),
    )


def test_bonds_of_all_kinds_and_axes_of_chirality():
    """What the parser never makes of SMILES, but a molecule may hold."""
    mol = Chem.MolFromSmiles("Cc1cccc(I)c1-c1c(C)cccc1Br |wU:7.6|")  # an axis
    assert [str(bond.GetStereo()) for bond in mol.GetBonds()].count("STEREOATROPCW") == 1
    assert sorted(molecule_graph(mol).bond_features[::2, 1])[-2:] == [0, 5]
    for name, kind in Chem.BondType.names.items():
        pair = Chem.RWMol(Chem.MolFromSmiles("[U].[U]"))
        pair.AddBond(0, 1, kind)
        Chem.FastFindRings(pair)
        expected = {"SINGLE": 0, "DOUBLE": 1, "TRIPLE": 2, "AROMATIC": 3}.get(name, 4)
        assert molecule_graph(pair, "omnimol2").bond_features.tolist() == [[expected, 0]] * 2, name
        assert_read_one_by_one(pair, name)


def test_a_salts_graph_is_that_of_its_parts():
    """Rings make it hard: RDKit closes all of them after the last atom."""
    parts = ["C1CC2CCC1CC2", "[Na+]", "c1ccc2ccccc2c1", "F/C=C/F"]
    for features in ("ogb9", "omnimol2"):
        whole = molecule_graph(mol_from_smiles(".".join(parts)), features)
        joined = joined_graph(molecule_graphs(map(mol_from_smiles, parts), features))
        for name in ("atom_features", "bond_index", "bond_features"):
            np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_the_version_of_features_goes_with_their_numbers():
    """Kept graphs are found again by it: if this fails, raise `FEATURES_VERSION` and write the new digest here."""
    digest = hashlib.sha256()
    for features in ("ogb9", "omnimol2"):
        for smiles in ("CC(=O)Oc1ccccc1C(=O)O", "C[C@H](F)/C=C/[N+](C)(C)C", "[Na+].[Cl-].[CH3]", "F[P](F)(F)(F)F"):
            for array in vars(molecule_graph(mol_from_smiles(smiles), features)).values():
                digest.update(np.ascontiguousarray(array).tobytes())
    assert (FEATURES_VERSION, digest.hexdigest()[:16]) == (1, "f3996684bf7955de")


def test_features_written_out_by_hand():
    """An E double bond, a stereocentre (`@` is counter-clockwise), a charge, a dative bond, a wildcard."""
    graph = molecule_graph(mol_from_smiles("F/C=C/[C@H](Cl)[NH3+]"))
    assert graph.atom_features.tolist() == [
        [8, 0, 1, 5, 0, 0, 2, 0, 0],
        [5, 0, 3, 5, 1, 0, 1, 0, 0],
        [5, 0, 3, 5, 1, 0, 1, 0, 0],
        [5, 2, 4, 5, 1, 0, 2, 0, 0],
        [16, 0, 1, 5, 0, 0, 2, 0, 0],
        [6, 0, 4, 6, 3, 0, 2, 0, 0],
    ]
    assert graph.bond_features[::2].tolist() == [[0, 0, 0], [1, 2, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert molecule_graph(mol_from_smiles("[NH3]->[Cu]")).bond_features[0].tolist() == [4, 0, 0]
    assert molecule_graph(mol_from_smiles("*C")).atom_features[0, 0] == 118


def test_authors_features_written_out_by_hand():
    graph = molecule_graph(mol_from_smiles("F/C=C\\[C@H](Cl)[NH3+]"), "omnimol2")
    assert graph.atom_features.tolist() == [[8, 0], [5, 0], [5, 0], [5, 2], [16, 0], [6, 0]]
    assert graph.bond_features.tolist() == [[0, 1]] * 2 + [[1, 0]] * 2 + [[0, 2]] * 2 + [[0, 0]] * 4
    assert molecule_graph(mol_from_smiles("C[Pt@SP1](F)(Cl)Br"), "omnimol2").atom_features[1, 1] == 3


def test_features_agree_with_pyg_where_the_codings_do():
    pytest.importorskip("torch_geometric")
    from torch_geometric.utils import from_smiles

    for smiles in nci_smiles(200):
        graph, data = molecule_graph(mol_from_smiles(smiles)), from_smiles(smiles)
        x, edge_attr = data.x.numpy(), data.edge_attr.numpy()
        # PyG counts atomic numbers from 0 and hybridisation from "unspecified" and "s"; the rest is coded alike here
        np.testing.assert_array_equal(graph.atom_features[:, 0], x[:, 0] - 1)
        np.testing.assert_array_equal(graph.atom_features[:, [1, 2, 3, 4, 5, 7, 8]], x[:, [1, 2, 3, 4, 5, 7, 8]])
        known = (x[:, 6] >= 2) & (x[:, 6] <= 6)
        np.testing.assert_array_equal(graph.atom_features[known, 6], x[known, 6] - 2)
        ours = {(i, j): tuple(row) for i, j, row in zip(*graph.bond_index, graph.bond_features.tolist(), strict=True)}
        for (i, j), (kind, _, conjugated) in zip(data.edge_index.numpy().T, edge_attr, strict=True):
            assert ours[i, j][0] == {1: 0, 2: 1, 3: 2, 12: 3}[kind], smiles
            assert ours[i, j][2] == conjugated, smiles


# --- round trips -----------------------------------------------------------------------------------------------------


def assert_round_trips(smiles):
    """Same molecule and, since its graph may come from either text, the same atoms and bonds in the same order.

    Only the code of the chirality depends on the order in which a string names a centre's neighbours.
    """
    canonical = canonical_smiles(mol_from_smiles(smiles))
    encoded = smiles_to_selfies(smiles)
    assert selfies_to_smiles(encoded) == canonical
    left, right = molecule_graph(mol_from_selfies(encoded)), molecule_graph(mol_from_smiles(canonical))
    np.testing.assert_array_equal(np.delete(left.atom_features, 1, axis=1), np.delete(right.atom_features, 1, axis=1))
    assert bonds_of(left) == bonds_of(right)


def bonds_of(graph):
    return {
        tuple(ends): features for ends, features in zip(graph.bond_index.T, graph.bond_features.tolist(), strict=True)
    }


def test_real_molecules_round_trip():
    for smiles in nci_smiles(200):
        assert_round_trips(smiles)


def test_molecules_of_chebi_round_trip_or_say_why(shared):
    smiles = chebi_smiles(shared, 300)
    assert len(smiles) == 300
    for one in smiles:
        assert_sound(mol_from_smiles(one))
        assert_round_trips(one)


# --- graph rules -----------------------------------------------------------------------------------------------------

PROCEDURE = (
    "Reactants:$4$:[START_SELFIES][C][O].[Na+1][END_SELFIES] $3$: [START_SELFIES][N][END_SELFIES] "
    "Product:$-1$:[START_SELFIES][C][N][END_SELFIES] Solvents:$1$:[START_SELFIES][O][END_SELFIES]"
)


@pytest.mark.parametrize(
    ("sequence", "rule", "expected"),
    [
        ("[C][O].[N]", "whole", ["[C][O]", "[N]"]),
        ("CO.N", "whole", ["CO", "N"]),
        ("[C][O].[N]", "first", ["[C][O]"]),
        ("[C].[O]>>[C][O]", "reactants", ["[C]", "[O]"]),
        ("[NH3]->[Cu].O>>C", "reactants", ["[NH3]->[Cu]", "O"]),
        (PROCEDURE, "placeholders", ["[C][O]", "[Na+1]", "[N]", "[O]"]),
        ("anything", "none", []),
    ],
)
def test_graph_rules(sequence, rule, expected):
    assert graph_components(sequence, rule) == expected


@pytest.mark.parametrize(
    ("sequence", "rule", "reason"),
    [
        ("[C]..[O]", "whole", "empty component"),
        ("", "whole", "empty component"),
        (".[C]", "first", "empty component"),
        ("[C].[O]", "reactants", "not a reaction"),
        ("[C]>>[O]>>[N]", "reactants", "not a reaction"),
        (">>[O]", "reactants", "empty component"),
        ("Reactants: none", "placeholders", "names no molecule"),
        ("[C]", "all", "graph rule 'all' is unknown"),
    ],
)
def test_graph_rules_refuse(sequence, rule, reason):
    with pytest.raises(ValueError, match=reason):
        graph_components(sequence, rule)


@pytest.mark.parametrize("smiles", ["[c-]1ccccc1-c1ccccc1N", "[c-]1ccccc1.[Li+]"])
def test_aromatic_anions_that_the_encoder_cannot_kekulize(smiles):
    """Such carbanions stand in many palladium catalysts."""
    with pytest.raises(selfies.EncoderError, match="kekulization"):
        selfies.encoder(smiles)
    assert Chem.CanonSmiles(selfies_to_smiles(smiles_to_selfies(smiles))) == Chem.CanonSmiles(smiles)


# --- the shorter way to a molecule -----------------------------------------------------------------------------------

WRITTEN_WITH_STEREO = [
    "F/C=C/F", "F/C=C\\F", "F/C=C/C=C\\Cl", "C/C=C", "CC(/F)=C(/F)C", "[H]/N=C(/C)Cl", "C/C=C\\1CCCC1",
    "C[C@H](O)F", "C[C@@](F)(Cl)Br", "C[C@H]1CC[C@@H](C)CC1", "C[C@H]1CC[C@H](C)CC1", "C[C@H](C)C",
    "C[S@](=O)CC", "C[P@](F)Cl", "F[P@TB1](Cl)(Br)(I)C", "Cl[Pt@SP1](F)(Br)I", "C[N@+](CC)(CCC)CCCC", "CC=[C@]=CC",
    "O[C@H]1[C@H](O)[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
]  # fmt: skip
WITH_HYDROGENS = [
    "[H]", "[H+]", "[HH]", "[H][H]", "[Li][H]", "[Hg]", "O[H]", "[H]O[H]", "[H]C([H])([H])[H]", "[H-].[Na+]", "[H:1]C",
    "[H][N+]([H])([H])[H]", "[#1]C", "[#6]C", "[2H]C", "[2H]/C=C/[2H]", "C[C@]([H])(O)F", "[3H][C@](C)(O)F",
    "[nH]1cccc1", "C[NH3+]",
]  # fmt: skip


def all_that_rdkit_says(mol):
    """Of a molecule that it has read: its text with atoms in order, stereo and labels, directions of bonds."""
    labels = [atom.GetPropsAsDict().get("_CIPCode") for atom in mol.GetAtoms()]
    bonds = [(bond.GetStereo(), bond.GetBondDir(), list(bond.GetStereoAtoms())) for bond in mol.GetBonds()]
    return Chem.MolToCXSmiles(mol), Chem.MolToSmiles(mol, canonical=False), labels, bonds


def assert_read_as_rdkit_does(smiles):
    ours, theirs = mol_from_smiles(smiles), Chem.MolFromSmiles(smiles)
    assert all_that_rdkit_says(ours) == all_that_rdkit_says(theirs), smiles
    for features in GRAPH_FEATURES:
        graphs = [vars(molecule_graph(mol, features)) for mol in (ours, theirs)]
        assert all(np.array_equal(graphs[0][name], graphs[1][name]) for name in graphs[0]), (smiles, features)


@pytest.mark.parametrize("smiles", WRITTEN_WITH_STEREO + WITH_HYDROGENS)
def test_stereo_and_hydrogens_are_read_as_rdkit_reads_them(smiles):
    assert_read_as_rdkit_does(smiles)


def assert_read_in_every_spelling(molecules):
    for smiles in molecules:
        mol = Chem.MolFromSmiles(smiles)
        assert_read_as_rdkit_does(smiles)
        assert_read_as_rdkit_does(Chem.MolToSmiles(Chem.RenumberAtoms(mol, list(range(mol.GetNumAtoms()))[::-1])))
        assert_read_as_rdkit_does(Chem.MolToSmiles(mol, kekuleSmiles=True, canonical=False))
        assert_read_as_rdkit_does(Chem.MolToSmiles(mol, allHsExplicit=True))
        assert_read_as_rdkit_does(Chem.MolToSmiles(Chem.AddHs(mol)))


def test_real_molecules_are_read_as_rdkit_reads_them():
    assert_read_in_every_spelling(nci_smiles(300))


def test_natural_products_are_read_as_rdkit_reads_them(shared):
    readable = [smiles for smiles in chebi_smiles(shared, 200) if Chem.MolFromSmiles(smiles) is not None]
    assert sum("@" in smiles for smiles in readable) > 50
    assert_read_in_every_spelling(readable)
