"""The ORD reader against the protobuf files themselves, and its rules on reactions made for the purpose."""

import gzip
import json
import random
from collections import Counter
from functools import cache

import pytest
from google.protobuf.json_format import MessageToJson
from ord_schema.proto.dataset_pb2 import Dataset
from ord_schema.proto.reaction_pb2 import CompoundIdentifier, Reaction, ReactionIdentifier, ReactionRole
from rdkit import Chem

from dataset_builders.schema import Drop, Record
from dataset_builders.sources import ord as source
from dataset_builders.sources.ord import CATALYSTS, SOLVENTS, read
from tests.conftest import SHARED


@pytest.fixture(scope="module")
def files():
    if SHARED is None:
        pytest.skip("no folder ../shared with real source data")
    return source.SOURCE.present(SHARED / "raw")


@pytest.fixture(scope="module")
def outcomes(files):
    return {path: list(read(path)) for path in files}


@cache
def reactions_of(path) -> list[dict]:
    """The reactions as JSON: a way round the reader's own use of the messages."""
    return json.loads(MessageToJson(Dataset.FromString(gzip.decompress(path.read_bytes()))))["reactions"]


def smiles_by_role(reaction: dict) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for group in reaction["inputs"].values():
        for compound in group["components"]:
            values = [item["value"].strip() for item in compound["identifiers"] if item["type"] == "SMILES"]
            found.setdefault(compound["reactionRole"], []).extend(values[:1])
    return found


@cache
def flat(smiles: str) -> set[str]:
    """The molecules in a SMILES; without atom maps."""
    mol = Chem.MolFromSmiles(smiles)
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    return set(Chem.MolToSmiles(mol).split("."))


# --- the real files --------------------------------------------------------------------------------------------------


def test_all_files_are_read(files):
    assert len(files) == 8


def test_every_reaction_gives_one_record_or_drop_for_each_task(outcomes):
    for path, found in outcomes.items():
        places = [str(number) for number in range(1, len(reactions_of(path)) + 1)]
        for task in (SOLVENTS, CATALYSTS):
            assert [outcome.place for outcome in found if outcome.task == task] == places


def test_counts(outcomes):
    found = [outcome for each in outcomes.values() for outcome in each]
    records = Counter(outcome.task for outcome in found if isinstance(outcome, Record))
    drops = Counter((outcome.task, outcome.reason) for outcome in found if isinstance(outcome, Drop))
    assert records == {SOLVENTS: 4394, CATALYSTS: 1760}
    assert drops[SOLVENTS, "the record names no solvent"] == 1010
    assert drops[CATALYSTS, "the record names no catalyst"] == 3724
    assert drops[SOLVENTS, "a solvent has a name but no SMILES"] == 79
    assert drops[SOLVENTS, "there are several products"] == 78
    assert sum(drops.values()) == 2 * 5591 - 4394 - 1760


@pytest.mark.parametrize(
    ("task", "answer", "role"), [(SOLVENTS, "solvents", "SOLVENT"), (CATALYSTS, "catalysts", "CATALYST")]
)
def test_random_records_against_the_messages(outcomes, task, answer, role):
    pool = [(path, record) for path, found in outcomes.items() for record in found if record.task == task]
    pool = [(path, record) for path, record in pool if isinstance(record, Record)]
    reactions = {path: reactions_of(path) for path in outcomes}
    for path, record in random.Random(0).sample(pool, 200):
        reaction = reactions[path][int(record.place) - 1]
        published = smiles_by_role(reaction)
        assert record.publisher_id == reaction["reactionId"]
        products = [
            item["value"]
            for outcome in reaction["outcomes"]
            for product in outcome["products"]
            for item in product["identifiers"]
            if item["type"] == "SMILES"
        ]
        assert record.molecules["product"] in products
        left, answers = record.molecules["reactants"].split("."), record.molecules[answer].split(".")
        assert set(left) <= {fragment for smiles in published["REACTANT"] for fragment in smiles.split(".")}
        fragments = [fragment for smiles in published[role] for fragment in smiles.split(".")]
        assert set(answers) <= set(fragments)
        # What the record lacks is a doublet, a salt or in the question.
        question = flat(record.molecules["reactants"]) | flat(record.molecules["product"])
        for fragment in set(fragments) - set(answers):
            charged = Chem.GetFormalCharge(Chem.MolFromSmiles(fragment)) != 0
            assert charged or flat(fragment) <= question | {one for each in answers for one in flat(each)}


def test_reactants_of_patents_are_those_with_mapped_atoms(outcomes):
    checked = 0
    for path, found in outcomes.items():
        reactions = reactions_of(path)
        for record in found:
            identifier = reactions[int(record.place) - 1]["identifiers"][0]
            if isinstance(record, Drop) or not identifier.get("isMapped"):
                continue
            left = identifier["value"].split(">")[0].split(".")
            mapped = {one for fragment in left if ":" in fragment for one in flat(fragment)}
            reactants = flat(record.molecules["reactants"])
            assert mapped <= reactants
            # Only the counter-ions and the other molecules of a salt or solvate come along unmapped.
            assert reactants - mapped <= {one for fragment in left for one in flat(fragment)}
            checked += 1
    assert checked > 3000


def test_golden_record(outcomes):
    path = next(path for path in outcomes if "0b70410902ae" in path.name)
    record = next(outcome for outcome in outcomes[path] if (outcome.task, outcome.place) == (SOLVENTS, "11"))
    assert record == Record(
        task=SOLVENTS,
        place="11",
        molecules={
            "reactants": "COC(=O)CC(=O)CC(=O)OC.FC(C#N)(F)F",
            "product": "OC1=C(C(=NC(=C1)O)C(F)(F)F)C(=O)OC",
            "solvents": "C(C)O",
        },
        publisher_id="ord-3f55da22bdb94cf3aba76b0db2de418f",
    )


# --- the rules, on reactions made for the purpose --------------------------------------------------------------------

NAMED = "name:"


def make(inputs, products=("CC(=O)NC",), mapped="", desired=()) -> Reaction:
    """A reaction of `inputs`, a list of stock solutions, each a list of (role, SMILES or "name:...")."""
    reaction = Reaction(reaction_id="ord-1")
    if mapped:
        reaction.identifiers.add(type=ReactionIdentifier.REACTION_CXSMILES, value=mapped, is_mapped=True)
    for number, solution in enumerate(inputs):
        group = reaction.inputs[f"m{number}"]
        for role, smiles in solution:
            compound = group.components.add(reaction_role=ReactionRole.ReactionRoleType.Value(role))
            identify(compound, smiles)
    outcome = reaction.outcomes.add()
    for smiles in products:
        product = outcome.products.add(reaction_role=ReactionRole.PRODUCT, is_desired_product=smiles in desired)
        identify(product, smiles)
    return reaction


def identify(compound, smiles: str) -> None:
    kind = CompoundIdentifier.NAME if smiles.startswith(NAMED) else CompoundIdentifier.SMILES
    compound.identifiers.add(type=CompoundIdentifier.NAME, value="a name that comes first")
    compound.identifiers.add(type=kind, value=smiles)


def outcome_of(tmp_path, reaction, task=SOLVENTS):
    path = tmp_path / "ord_dataset-1.pb.gz"
    path.write_bytes(gzip.compress(Dataset(reactions=[reaction]).SerializeToString()))
    return next(outcome for outcome in read(path) if outcome.task == task)


ACID, AMINE = ("REACTANT", "CC(=O)O"), ("REACTANT", "CN")


@pytest.mark.parametrize(
    ("solvents", "expected"),
    [
        ([[("SOLVENT", "ClCCl")]], "ClCCl"),
        ([[("SOLVENT", "ClCCl")], [("SOLVENT", "C(Cl)Cl")]], "ClCCl"),  # two stock solutions, two spellings
        ([[("SOLVENT", "CO.O")], [("SOLVENT", "O")]], "CO.O"),
        ([[("SOLVENT", "O.[Na+].[Cl-]")]], "O"),
        ([[("SOLVENT", "ClCCl"), ("SOLVENT", "[Na+].[OH-]")]], "ClCCl"),
        ([[("SOLVENT", "ClCCl"), ("SOLVENT", "C(C)(=O)O")]], "ClCCl"),  # a reactant too
        ([[("SOLVENT", "C[N+](=O)[O-]")]], "C[N+](=O)[O-]"),  # neutral as a whole
    ],
)
def test_solvents(tmp_path, solvents, expected):
    record = outcome_of(tmp_path, make([[ACID, AMINE], *solvents]))
    assert record.molecules == {"reactants": "CC(=O)O.CN", "product": "CC(=O)NC", "solvents": expected}


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([("CATALYST", "CC(=O)O.CC(=O)O.[Pd]"), ("CATALYST", "CP(C)C")], "CC(=O)O.CC(=O)O.[Pd].CP(C)C"),
        ([("CATALYST", "[Pd]"), ("CATALYST", "C(C)O")], "[Pd]"),  # a plain solvent
        ([("CATALYST", "[Pd]"), ("CATALYST", "CN(C)C=O"), ("SOLVENT", "O=CN(C)C")], "[Pd]"),  # the solvent used
        ([("CATALYST", "CN(C)C=O"), ("SOLVENT", "ClCCl")], "CN(C)C=O"),
    ],
)
def test_catalysts(tmp_path, others, expected):
    assert outcome_of(tmp_path, make([[ACID, AMINE, *others]]), CATALYSTS).molecules["catalysts"] == expected


@pytest.mark.parametrize(
    ("reaction", "reason"),
    [
        (make([[ACID, AMINE]]), "the record names no solvent"),
        (make([[ACID, AMINE, ("SOLVENT", "[Na+].[OH-]")]]), "nothing that is called one of the solvents can be one"),
        (make([[ACID, AMINE, ("SOLVENT", "CN")]]), "nothing that is called one of the solvents can be one"),
        (make([[ACID, ("SOLVENT", "O"), ("SOLVENT", NAMED + "hexanes")]]), "a solvent has a name but no SMILES"),
        (make([[ACID, ("REACTANT", NAMED + "amine"), ("SOLVENT", "O")]]), "a reactant has a name but no SMILES"),
        (make([[("REAGENT", "CN"), ("SOLVENT", "O")]]), "no reactant is known to give atoms to the product"),
        (make([[ACID, ("SOLVENT", "O")]], products=[NAMED + "oil"]), "no product has a SMILES"),
        (make([[ACID, ("SOLVENT", "O")]], products=["C(C)(=O)O"]), "the product is also an input"),
        (make([[ACID, ("SOLVENT", "O")]], products=["CC", "CCC"]), "there are several products"),
        (
            make([[ACID, ("SOLVENT", "O")]], mapped="[CH3:1][OH:2]>>[CH3:1][NH2:3]"),
            "the mapped reaction has a reactant that the inputs lack",
        ),
        (make([[ACID, ("SOLVENT", "O")]], mapped="CC(=O)O>>CN"), "no reactant is known to give atoms to the product"),
    ],
)
def test_reasons(tmp_path, reaction, reason):
    assert outcome_of(tmp_path, reaction) == Drop(SOLVENTS, "1", reason)


def test_mapped_atoms_decide_what_reacts(tmp_path):
    mapped = "[CH3:1][C:2](=[O:3])O.[CH3:4][NH2:5].[Na+].[OH-]>O>[CH3:1][C:2](=[O:3])[NH:5][CH3:4] |f:2.3|"
    inputs = [[ACID, AMINE], [("REACTANT", "[Na+].[OH-]"), ("REACTANT", NAMED + "ice"), ("SOLVENT", "O")]]
    assert outcome_of(tmp_path, make(inputs, mapped=mapped)).molecules["reactants"] == "CC(=O)O.CN"


def test_the_desired_product_counts(tmp_path):
    reaction = make([[ACID, AMINE, ("SOLVENT", "O")]], products=["CC(=O)NC", "CC"], desired=["CC(=O)NC"])
    assert outcome_of(tmp_path, reaction).molecules["product"] == "CC(=O)NC"


def test_a_recovered_reactant_and_a_standard_are_no_products(tmp_path):
    reaction = make([[ACID, AMINE, ("SOLVENT", "O")]], products=["CC(=O)NC", "NC"])
    standard = reaction.outcomes[0].products.add(reaction_role=ReactionRole.INTERNAL_STANDARD)
    identify(standard, "c1ccccc1")
    assert outcome_of(tmp_path, reaction).molecules["product"] == "CC(=O)NC"


def test_inputs_come_in_the_order_of_addition(tmp_path):
    reaction = make([[AMINE], [ACID], [("SOLVENT", "O")]])
    for name, order in (("m0", 3), ("m1", 2), ("m2", 1)):
        reaction.inputs[name].addition_order = order
    assert outcome_of(tmp_path, reaction).molecules["reactants"] == "CC(=O)O.CN"


# --- broken files ----------------------------------------------------------------------------------------------------

SOUND = Dataset(reactions=[make([[ACID, AMINE, ("SOLVENT", "O")]]) for _ in range(50)]).SerializeToString()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(gzip.compress(SOUND)[:-20], "ends or breaks", id="cut at its end"),
        pytest.param(gzip.compress(SOUND)[:40], "ends or breaks", id="cut early"),
        pytest.param(b"\x00\x01 not gzip", "ends or breaks", id="not gzip"),
        pytest.param(gzip.compress(bytes(range(256)) * 8), "no ORD dataset", id="other bytes"),
        pytest.param(gzip.compress(SOUND[:-7]), "no ORD dataset", id="message cut"),
        pytest.param(gzip.compress(b""), "no reactions", id="no message"),
    ],
)
def test_broken_files_are_named(tmp_path, data, message):
    path = tmp_path / "ord_dataset-broken.pb.gz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        list(read(path))
    assert "ord_dataset-broken.pb.gz" in str(caught.value)
