"""Reactions: the templates of the catalogue applied to the real molecules and to common building blocks."""

import random
from collections import Counter
from dataclasses import dataclass

from rdkit import Chem, rdBase
from rdkit.Chem import rdChemReactions

from dataset_builders.sources.starter.agents import AGENTS, BLOCKS
from dataset_builders.sources.starter.groups import count_groups
from dataset_builders.sources.starter.molecules import Molecule, split_key, unsuitable
from dataset_builders.sources.starter.templates import Conditions, Role, Template

MAX_PER_TEMPLATE = 400
BLOCK = "building block"
BLOCK_LICENSE = "Apache-2.0"
"""Named in this package (`agents.BLOCKS`), so under its licence."""
SMALL = 12
"""Heavy atoms of a small molecule. They are drawn apart from the others, so that small products are common."""


@dataclass(frozen=True)
class Substance:
    """A molecule that can play a role in a reaction."""

    smiles: str
    source_id: str
    source: str
    heavy_atoms: int
    groups: dict[str, int]


@dataclass(frozen=True)
class Reaction:
    """One reaction with the conditions that were drawn for it; all molecules as canonical SMILES."""

    template: Template
    conditions: Conditions
    reactants: tuple[Substance, ...]
    product: str
    key: str

    @property
    def name(self) -> str:
        """The template's name."""
        return self.template.name

    def agents(self, kind: str) -> tuple[str, ...]:
        """The SMILES of the reagents, catalysts or solvents, in the order of the conditions."""
        return tuple(AGENTS[name] for name in getattr(self.conditions, kind))


def substances(molecules: list[Molecule]) -> list[Substance]:
    """The real molecules from which reactants are drawn: neutral, closed-shell, without isotopes."""
    return [
        Substance(molecule.smiles, molecule.source_id, molecule.source, molecule.heavy_atoms, molecule.groups)
        for molecule in molecules
        if molecule.closed_shell
    ]


def run_template(template: Template, pool: list[Substance]) -> tuple[list[Reaction], Counter]:
    """Up to `MAX_PER_TEMPLATE` reactions of one template, and the rejected draws by reason.

    The draw depends on the template's name and the pool alone: neither on the other templates nor on the process.
    """
    quiet = rdBase.BlockLogs()  # until the function ends: rejected products are counted, not printed
    draw = random.Random(template.name)
    partners = [_Candidates(role, pool) for role in template.roles]
    engine = rdChemReactions.ReactionFromSmarts(template.smarts)
    found: dict[str, Reaction] = {}
    drops: Counter = Counter()
    if not all(partner.all for partner in partners):
        return [], drops
    tried = set()
    for _ in range(4 * min(MAX_PER_TEMPLATE, max(len(partner.all) for partner in partners))):
        reactants = tuple(partner.draw(draw) for partner in partners)
        conditions = draw.choice(template.conditions)
        smiles = tuple(reactant.smiles for reactant in reactants)
        if smiles in tried:
            continue
        tried.add(smiles)
        if any(name in reactant.groups for name in conditions.forbid for reactant in reactants):
            drops["a group that these conditions do not tolerate"] += 1
            continue
        product, reason = react(engine, smiles)
        if reason:
            drops[reason] += 1
        elif product in found:
            drops["product already made by this template"] += 1
        else:
            key = split_key(Chem.MolFromSmiles(product))
            found[product] = Reaction(template, conditions, reactants, product, key)
        if len(found) == MAX_PER_TEMPLATE:
            break
    del quiet
    return list(found.values()), drops


def react(engine: rdChemReactions.ChemicalReaction, reactants: tuple[str, ...]) -> tuple[str, str]:
    """The one product as canonical SMILES, or `""` with the reason why the reaction is not used."""
    products = set()
    for (product,) in engine.RunReactants([Chem.MolFromSmiles(smiles) for smiles in reactants]):
        try:
            Chem.SanitizeMol(product)
        except Chem.MolSanitizeException:
            return "", "product cannot be sanitised"
        Chem.AssignStereochemistry(product, cleanIt=True, force=True)
        products.add(Chem.MolToSmiles(product))
    if len(products) != 1:
        return "", "no single product"
    mol = Chem.MolFromSmiles(products.pop())  # read back: what is written must be what is meant
    if mol is None:
        return "", "product cannot be read back"
    reason = unsuitable(mol)
    product = Chem.MolToSmiles(mol)
    return ("", reason) if reason else ("", "product equals a reactant") if product in reactants else (product, "")


class _Candidates:
    """The substances that can play one role, and how one is drawn."""

    def __init__(self, role: Role, pool: list[Substance]) -> None:
        self.blocks = [_block(smiles) for smiles in BLOCKS[role.blocks]] if role.blocks else []
        if role.only_blocks:
            real = []
        else:
            real = [substance for substance in pool if role.accepts(substance.groups)]
            self.blocks = [block for block in self.blocks if role.accepts(block.groups)]
        self.all = real + self.blocks
        small = [substance for substance in real if substance.heavy_atoms <= SMALL]
        self._lists = [kind for kind in (real, small, self.blocks) if kind]

    def draw(self, draw: random.Random) -> Substance:
        return draw.choice(draw.choice(self._lists))


def _block(smiles: str) -> Substance:
    mol = Chem.MolFromSmiles(smiles)
    canonical = Chem.MolToSmiles(mol)
    return Substance(canonical, f"block:{canonical}", BLOCK, mol.GetNumHeavyAtoms(), count_groups(mol))
