"""The starter data's chemistry: templates, guards, energies and sentences."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors, rdChemReactions, rdMolDescriptors

pytest.importorskip("tblite", reason="the starter extra is not installed")

from dataset_builders.schema import split_of
from dataset_builders.sources.starter import SOURCE, descriptions, quantum, records
from dataset_builders.sources.starter.agents import AGENTS, BLOCKS
from dataset_builders.sources.starter.catalogue import TEMPLATES
from dataset_builders.sources.starter.groups import GROUPS, NAMED, count_groups
from dataset_builders.sources.starter.molecules import Entry, Molecule, clean, read_entries, take_evenly
from dataset_builders.sources.starter.reactions import Substance, react, run_template
from omnimol_hf.chemistry_omnimol import selfies_to_smiles, smiles_to_selfies
from omnimol_hf.tasks import TASKS

BY_NAME = {template.name: template for template in TEMPLATES}

# template -> reactants, expected product: textbook examples, written by hand
EXAMPLES = {
    "amide coupling": ("OC(=O)c1ccccc1.NCC", "CCNC(=O)c1ccccc1"),
    "anilide coupling": ("CC(=O)O.Nc1ccccc1", "CC(=O)Nc1ccccc1"),
    "Fischer esterification": ("OC(=O)c1ccccc1.CO", "COC(=O)c1ccccc1"),
    "Steglich esterification": ("CC(=O)O.OCc1ccccc1", "CC(=O)OCc1ccccc1"),
    "ester hydrolysis": ("CCOC(=O)c1ccccc1", "OC(=O)c1ccccc1"),
    "acyl chloride formation": ("OC(=O)c1ccccc1", "O=C(Cl)c1ccccc1"),
    "N-acylation with an acyl chloride": ("C1COCCN1.CC(=O)Cl", "CC(=O)N1CCOCC1"),
    "anilide formation with an acyl chloride": ("Nc1ccccc1.CC(=O)Cl", "CC(=O)Nc1ccccc1"),
    "sulfonamide formation": ("CCN.CS(=O)(=O)Cl", "CCNS(C)(=O)=O"),
    "sulfonanilide formation": ("Nc1ccccc1.CS(=O)(=O)Cl", "CS(=O)(=O)Nc1ccccc1"),
    "urea formation": ("CCN.O=C=Nc1ccccc1", "CCNC(=O)Nc1ccccc1"),
    "acetylation": ("Oc1ccccc1.CC(=O)OC(C)=O", "CC(=O)Oc1ccccc1"),
    "Boc protection": ("C1CCNCC1.CC(C)(C)OC(=O)OC(=O)OC(C)(C)C", "CC(C)(C)OC(=O)N1CCCCC1"),
    "Boc deprotection": ("CC(C)(C)OC(=O)N1CCCCC1", "C1CCNCC1"),
    "Williamson ether synthesis": ("Oc1ccccc1.BrCc1ccccc1", "C(Oc1ccccc1)c1ccccc1"),
    "N-alkylation": ("C1CCNCC1.BrCc1ccccc1", "C(N1CCCCC1)c1ccccc1"),
    "nucleophilic aromatic substitution": ("O=[N+]([O-])c1ccc(F)cc1.CCN", "CCNc1ccc([N+](=O)[O-])cc1"),
    "Appel bromination": ("OCCc1ccccc1", "BrCCc1ccccc1"),
    "Suzuki coupling": ("Brc1cccnc1.OB(O)c1ccccc1", "c1ccc(-c2cccnc2)cc1"),
    "Sonogashira coupling": ("Ic1ccccc1.C#CCO", "OCC#Cc1ccccc1"),
    "Heck reaction": ("Ic1ccccc1.C=CC(=O)OC", "COC(=O)/C=C/c1ccccc1"),
    "Buchwald-Hartwig amination": ("Brc1ccccc1.C1COCCN1", "c1ccc(N2CCOCC2)cc1"),
    "reductive amination": ("O=Cc1ccccc1.C1COCCN1", "C1COCCN1Cc1ccccc1"),
    "oxime formation": ("O=Cc1ccccc1.Cl.NO", "ON=Cc1ccccc1"),
    "Wittig olefination": ("O=Cc1ccccc1.COC(=O)C=P(c1ccccc1)(c1ccccc1)c1ccccc1", "COC(=O)/C=C/c1ccccc1"),
    "Knoevenagel condensation": ("O=Cc1ccccc1.N#CCC#N", "N#CC(C#N)=Cc1ccccc1"),
    "nitro reduction": ("O=[N+]([O-])c1ccccc1", "Nc1ccccc1"),
    "hydrogenation of an alkene": ("C=CCCc1ccccc1", "CCCCc1ccccc1"),
    "borohydride reduction of a ketone": ("CC(=O)c1ccccc1", "CC(O)c1ccccc1"),
    "borohydride reduction of an aldehyde": ("O=Cc1ccccc1", "OCc1ccccc1"),
    "hydride reduction of an ester": ("COC(=O)c1ccccc1", "OCc1ccccc1"),
    "oxidation of a secondary alcohol": ("CC(O)c1ccccc1", "CC(=O)c1ccccc1"),
    "oxidation of a primary alcohol": ("OCC1CCCCC1", "O=CC1CCCCC1"),
    "benzylic oxidation with manganese dioxide": ("OCc1ccccc1", "O=Cc1ccccc1"),
}


def groups_of(smiles):
    return count_groups(Chem.MolFromSmiles(smiles))


def split_reactants(template, text):
    """`A.B` by role; the last role keeps a salt's dots."""
    return text.split(".", len(template.roles) - 1)


def test_every_template_has_a_textbook_example():
    assert set(EXAMPLES) == set(BY_NAME)
    assert len(BY_NAME) == len(TEMPLATES) >= 14


@pytest.mark.parametrize("name", EXAMPLES)
def test_textbook_example(name):
    template = BY_NAME[name]
    reactants, expected = EXAMPLES[name]
    reactants = split_reactants(template, reactants)
    for role, reactant in zip(template.roles, reactants, strict=True):
        assert role.only_blocks or role.accepts(groups_of(reactant)), (reactant, groups_of(reactant))
    engine = rdChemReactions.ReactionFromSmarts(template.smarts)
    assert react(engine, tuple(reactants)) == (Chem.CanonSmiles(expected), "")


@pytest.mark.parametrize(
    ("template", "role", "smiles", "why"),
    [
        ("amide coupling", 0, "OC(=O)CCC(=O)O", "two acids"),
        ("amide coupling", 0, "NCCC(=O)O", "an amine in the acid"),
        ("amide coupling", 1, "NCCN", "two amines"),
        ("amide coupling", 1, "CC(C)NC(C)C", "hindered amine"),
        ("amide coupling", 1, "CNC(C)=O", "an amide is no nucleophile"),
        ("reductive amination", 0, "O=CCCC(C)=O", "aldehyde and ketone"),
        ("Williamson ether synthesis", 0, "Oc1ccc(O)cc1", "two phenols"),
        ("Williamson ether synthesis", 1, "BrCCc1ccccc1", "would eliminate"),
        ("Williamson ether synthesis", 1, "CC(C)(C)CBr", "neopentyl"),
        ("borohydride reduction of a ketone", 0, "C=CC(C)=O", "enone"),
        ("borohydride reduction of a ketone", 0, "O=C1C=CC(=O)C=C1", "quinone"),
        ("hydrogenation of an alkene", 0, "C=CCc1ccc(Cl)cc1", "aryl chloride under hydrogen"),
        ("oxidation of a secondary alcohol", 0, "CC(O)CO", "two alcohols"),
        ("nucleophilic aromatic substitution", 0, "Fc1ccccc1", "not activated"),
        ("nitro reduction", 0, "O=[N+]([O-])c1cccc([N+](=O)[O-])c1", "two nitro groups"),
        ("Fischer esterification", 0, "OC(=O)CCO", "hydroxy acid"),
        ("ester hydrolysis", 0, "COC(=O)CCC(=O)OC", "two esters"),
        ("Suzuki coupling", 0, "Brc1ccc(I)cc1", "two halides"),
    ],
)
def test_guards_refuse(template, role, smiles, why):
    assert not BY_NAME[template].roles[role].accepts(groups_of(smiles)), why


def test_condition_guards():
    substance = Substance("O=[N+]([O-])c1ccc(Br)cc1", "x", "x", 10, groups_of("O=[N+]([O-])c1ccc(Br)cc1"))
    reactions, _ = run_template(BY_NAME["nitro reduction"], [substance])
    assert all("H2" not in reaction.conditions.reagents for reaction in reactions), "hydrogen would take the bromine"


def test_smarts_compile_and_agents_are_molecules():
    for smarts in (*GROUPS.values(), *NAMED.values()):
        assert Chem.MolFromSmarts(smarts) is not None, smarts
    for smiles in (*AGENTS.values(), *(smiles for blocks in BLOCKS.values() for smiles in blocks)):
        assert selfies_to_smiles(smiles_to_selfies(smiles)) == Chem.CanonSmiles(smiles)


def test_conditions_name_known_agents_and_all_are_used():
    used = {
        name
        for template in TEMPLATES
        for conditions in template.conditions
        for name in (*conditions.reagents, *conditions.catalysts, *conditions.solvents)
    }
    assert used == set(AGENTS)
    named = {name for template in TEMPLATES for c in template.conditions for name in c.forbid}
    named |= {name for t in TEMPLATES for role in t.roles for name in (*role.single, *role.forbid)}
    assert named <= set(GROUPS)
    assert {role.blocks for t in TEMPLATES for role in t.roles if role.blocks} == set(BLOCKS)


@pytest.mark.parametrize("template", [t for t in TEMPLATES if any(r.blocks and not r.only_blocks for r in t.roles)])
def test_building_blocks_pass_their_role(template):
    for role in template.roles:
        if role.blocks and not role.only_blocks:
            assert any(role.accepts(groups_of(smiles)) for smiles in BLOCKS[role.blocks])


def test_run_template_is_a_function_of_template_and_pool():
    pool = [Substance(smiles, smiles, "x", 9, groups_of(smiles)) for smiles in ("OC(=O)c1ccccc1", "OC(=O)CCc1ccccc1")]
    first, again = (run_template(BY_NAME["amide coupling"], pool)[0] for _ in range(2))
    assert [r.product for r in first] == [r.product for r in again]
    assert len(first) >= 2
    assert {block for r in first for s in r.reactants for block in [s.source]} <= {"x", "building block"}


def test_energies():
    water = quantum.energies("O")
    assert water.total == pytest.approx(-5.0705, abs=2e-3)  # GFN2-xTB near the equilibrium geometry
    assert water.homo < water.lumo
    assert quantum.energies("O") == water
    assert quantum.energies("[Fe]") == "no MMFF94 parameters"


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("c1cccc1", "not readable by RDKit"),
        ("", "not readable by RDKit"),
        ("CC.O", "more than one fragment"),
        ("C[Hg]C", "an element other than"),
        ("C" * 41, "more than 40 heavy atoms"),
        ("[I]1C2=C(C=CC=C2)C3=C1C=CC=C3", "no SELFIES"),
    ],
)
def test_clean_names_the_reason(smiles, reason):
    assert clean(Entry("s", "1", smiles)).startswith(reason)


def test_clean_labels():
    aspirin = clean(Entry("s", "1", "O=C(C)Oc1ccccc1C(=O)O"))
    assert isinstance(aspirin, Molecule)
    assert aspirin.labels["molecular_weight"] == pytest.approx(180.16, abs=0.01)
    assert aspirin.labels["tpsa"] == pytest.approx(63.60, abs=0.01)
    assert descriptions.caption(aspirin.facts) == (
        "The molecule has the formula C9H8O4 and is neutral. It contains one 6-membered aromatic carbocycle. "
        "Its functional groups include one carboxylic acid and one ester. "
        "It has no stereocentres, one hydrogen-bond donor, three hydrogen-bond acceptors and two rotatable bonds."
    )
    assert clean(Entry("s", "1", "C[C@H](N)C(=O)O")).key == clean(Entry("s", "2", "C[C@@H](N)C(=O)O")).key


@pytest.fixture(scope="module")
def some_records():
    with ThreadPoolExecutor(1) as executor:
        return list(records(60, executor, Counter()))


def test_source_files_are_complete():
    assert len(read_entries()) == 14_999
    assert {entry.source for entry in take_evenly(read_entries(), 10)} == {entry.source for entry in read_entries()}


def test_numbers_are_what_rdkit_says(some_records):
    """Every number again from the row's own SELFIES, by the tool that `label_source` names."""
    tools = {
        "molecular_weight": Descriptors.MolWt,
        "logp": Crippen.MolLogP,
        "tpsa": rdMolDescriptors.CalcTPSA,
    }
    checked = Counter()
    for record in some_records:
        if record.task in tools:
            value = tools[record.task](Chem.MolFromSmiles(record.molecules["molecule"]))
            assert record.value == pytest.approx(value, abs=0.0051), record
            assert "-0.00" not in TASKS[record.task].answer_text(record.value)
            assert record.label_source.startswith("computed:RDKit")
            checked[record.task] += 1
    assert min(checked.values()) > 40


def test_descriptions_are_true(some_records):
    """Formula, ring count, donors, acceptors and named groups, each recomputed from the row's own molecule."""
    words = {word: number for number, word in enumerate(descriptions._WORDS)}
    seen = Counter()
    for record in some_records:
        if record.task not in ("molecular_captioning", "description_qa"):
            continue
        mol = Chem.MolFromSmiles(record.molecules["molecule"])
        counts = {
            (noun, words.get(number, number))
            for number, noun in re.findall(r"(\w+) (hydrogen-bond \w+?|ring)s?\b", record.text)
        }
        for noun, number in counts:
            truth = {
                "hydrogen-bond donor": rdMolDescriptors.CalcNumHBD,
                "hydrogen-bond acceptor": rdMolDescriptors.CalcNumHBA,
            }
            assert int(number) == truth[noun](mol), record
            seen[noun] += 1
        rings = re.findall(r"(\w+) (\d+)-membered (aromatic|non-aromatic) (?:carbo|hetero)cycle", record.text)
        if "cycle" in record.text:
            sizes = Counter()
            for number, size, _ in rings:
                sizes[int(size)] += words[number]
            assert sizes == Counter(len(ring) for ring in mol.GetRingInfo().AtomRings()), record
            seen["rings"] += 1
        if "formula" in record.text:
            assert rdMolDescriptors.CalcMolFormula(mol) in record.text
            seen["formula"] += 1
        if record.subset == "group":
            name = re.search(r"(?:contain|there) an? (.*?)(?: in this compound)?\?", record.instruction).group(1)
            assert record.text.startswith("Yes" if mol.HasSubstructMatch(Chem.MolFromSmarts(NAMED[name])) else "No")
            seen["group"] += 1
    assert all(seen[kind] for kind in ("hydrogen-bond donor", "rings", "formula", "group")), seen


def test_reaction_records(some_records):
    by_task = {task: [r for r in some_records if r.task == task] for task in {r.task for r in some_records}}
    products = set()
    for record in by_task["forward_prediction"]:
        product = Chem.MolFromSmiles(record.molecules["product"])
        assert len(Chem.GetMolFrags(product)) == 1
        assert record.split == split_of(Chem.MolToSmiles(product, isomericSmiles=False))
        products.add(record.molecules["product"])
    assert {record.molecules["product"] for record in by_task["retrosynthesis"]} == products
    for task in ("reagent", "solvent", "catalyst"):
        for record in by_task[f"{task}_prediction"]:
            assert set(record.molecules) == {"reactants", "product", f"{task}s"}
            assert record.molecules["product"] in products
            assert all(record.molecules.values())


def test_procedures_name_what_they_use(some_records):
    rows = [record for record in some_records if record.task == "experiment_procedure"]
    assert rows
    for record in rows:
        names = [name for names in record.roles.values() for name in names]
        assert set(names) == set(record.molecules)
        assert len(set(record.molecules.values())) == len(record.molecules)
        assert set(re.findall(r"\$-?\d+\$", record.text)) == set(names), record
        assert record.text.startswith("ADD $")
        assert record.text.endswith(" ; YIELD $-1$")
        assert list(record.roles)[:2] == ["Reactants", "Product"]
        assert (record.roles["Reactants"][0], record.roles["Product"]) == ("$1$", ("$-1$",))


def test_records_are_numbered_and_ask_different_questions(some_records):
    asked = set()
    for task in {record.task for record in some_records}:
        records = [record for record in some_records if record.task == task]
        assert [record.place for record in records] == [str(number) for number in range(1, len(records) + 1)]
        shown = [TASKS[task].record_input.format(components=r.molecules, **r.molecules) for r in records]
        asked.update(
            (task, r.instruction, text, r.subset * (task == "homo_lumo"))
            for r, text in zip(records, shown, strict=True)
        )
    assert len(asked) == len(some_records)
    assert {record.task for record in some_records} == set(SOURCE.tasks) == set(TASKS) - {"yield_regression"}


def test_repeats_are_counted():
    with ThreadPoolExecutor(1) as executor:
        drops = Counter()
        kept = Counter(record.task for record in records(300, executor, drops))
    repeats = Counter()
    for (task, _, reason), count in drops.items():
        if reason == "the same question was asked before":
            repeats[task] += count
    assert repeats
    assert kept["forward_prediction"] + repeats["forward_prediction"] == (
        kept["experiment_procedure"] + repeats["experiment_procedure"]
    ), "each reaction asks both questions"
