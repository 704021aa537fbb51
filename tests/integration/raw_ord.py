"""What the Open Reaction Database's protobuf says about a row: each role by itself, without the source's reader."""

import re
from collections import Counter, defaultdict

from ord_schema.proto import reaction_pb2
from rdkit import Chem

from tests.integration.raw_values import fragments, from_selfies, raw_ord, row_sides

ROLE = reaction_pb2.ReactionRole.ReactionRoleType
SMILES = reaction_pb2.CompoundIdentifier.SMILES
MAPPED = (reaction_pb2.ReactionIdentifier.REACTION_CXSMILES, reaction_pb2.ReactionIdentifier.REACTION_SMILES)


def faults_of_ord_row(row: dict, file: str, place: str, publisher_id: str) -> list[str]:
    """What the row says and the record does not, or the other way round."""
    reaction = raw_ord(file)[int(place) - 1]
    by_role, unnamed = _inputs(reaction)
    asked = "SOLVENT" if row["task"] == "solvent_prediction" else "CATALYST"
    left, product = (set(side) for side in row_sides(row))
    answer = set(from_selfies(row["output"]))
    solvents = {one for compound in by_role["SOLVENT"] for one in compound}
    called = {one for compound in by_role[asked] for one in compound}
    missing = called - answer - left - product
    # A mixed solvent is split; of a catalyst's salt a fragment may come several times.
    whole_compounds = _distinct(by_role[asked], answer)
    whole = Counter(answer) if asked == "SOLVENT" else sum(map(Counter, whole_compounds), Counter())
    reactants, mapped = by_role["REACTANT"], _mapped(reaction)
    if mapped is not None:
        reactants = [compound for compound in reactants if mapped & set(compound)]
    # By compounds: water of a hydrate and counter-ions may stand on both sides.
    question = {tuple(sorted(compound)) for compound in reactants} | {tuple(sorted(row_sides(row)[1]))}
    alone = {(one,) for one in answer if asked == "SOLVENT"}
    faults = {
        "reaction id": publisher_id != reaction.reaction_id,
        "product": product not in _products(reaction),
        "the product stands among the inputs": product in [set(one) for role in by_role.values() for one in role],
        "reactants": left != {one for compound in reactants for one in compound},
        "a reactant of the mapped reaction is not there": bool((mapped or set()) - left),
        "the role has a molecule without SMILES": asked in unnamed,
        "no answer": not answer,
        "something in the answer has another role": not answer <= called,
        "a compound of the answer is in the question": bool(question & (alone or whole_compounds)),
        "a compound twice in the answer, or in part": Counter(from_selfies(row["output"])) != whole,
    }
    if asked == "SOLVENT":
        faults["a solvent that is no ion is left out"] = not all(map(_charge, missing))
        faults["an ion is a solvent"] = any(map(_charge, answer))
    else:
        faults["a solvent is a catalyst"] = bool(_distinct(by_role["SOLVENT"], answer) & whole_compounds)
        faults["a catalyst is left out that is no solvent"] = any(map(_heavy, missing - solvents))
    return [what for what, wrong in faults.items() if wrong]


def _inputs(reaction) -> tuple[dict[str, list[tuple[str, ...]]], set[str]]:
    """Role -> the fragments of each compound; roles of compounds that have no SMILES."""
    by_role, unnamed = defaultdict(list), set()
    for mixture in reaction.inputs.values():
        for compound in mixture.components:
            texts = [one.value for one in compound.identifiers if one.type == SMILES]
            role = ROLE.Name(compound.reaction_role)
            if texts:
                by_role[role].append(fragments(texts[0]))
            else:
                unnamed.add(role)
    return by_role, unnamed


def _distinct(compounds: list[tuple[str, ...]], among: set[str]) -> set[tuple[str, ...]]:
    return {tuple(sorted(compound)) for compound in compounds if set(compound) <= among}


def _products(reaction) -> list[set[str]]:
    compounds = [product for outcome in reaction.outcomes for product in outcome.products]
    return [set(fragments(one.value)) for compound in compounds for one in compound.identifiers if one.type == SMILES]


def _mapped(reaction) -> set[str] | None:
    """The fragments with mapped atoms left of the first `>` of the mapped reaction SMILES, if there is one."""
    for identifier in reaction.identifiers:
        if identifier.type in MAPPED and identifier.is_mapped:
            left = identifier.value.split(">")[0].split(".")
            return {fragments(one)[0] for one in left if re.search(r":[1-9]\d*\]", one)}
    return None


def _charge(smiles: str) -> bool:
    return Chem.GetFormalCharge(Chem.MolFromSmiles(smiles)) != 0


def _heavy(smiles: str) -> bool:
    """More than ten atoms, or a metal: then it is no common solvent or water that was called a catalyst by mistake."""
    atoms = [atom.GetAtomicNum() for atom in Chem.MolFromSmiles(smiles).GetAtoms()]
    return len(atoms) > 10 or any(19 < number < 32 or 36 < number < 51 or number > 53 for number in atoms)
