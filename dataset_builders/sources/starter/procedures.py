"""Procedures: a reaction's declared conditions as ReactXT's action sequence over `$k$` names."""

import json
from collections.abc import Callable

from rdkit import rdBase

from dataset_builders.sources.starter.agents import AGENTS
from dataset_builders.sources.starter.reactions import Reaction


def label_source(reaction: Reaction) -> str:
    """Which template computed a reaction's rows."""
    return f"computed:{reaction.template.name} (reaction template, RDKit {rdBase.rdkitVersion})"


def procedure(reaction: Reaction, selfies: Callable[[str], str]) -> tuple[str, str, str]:
    """Input, output and components of the `experiment_procedure` row.

    The input lists every component with its role and its `$k$` name (the product is `$-1$`); the output adds solvents,
    reactants, reagents and catalysts with the template's amounts, and ends with run, work-up and yield.
    """
    roles = reaction.template.roles
    conditions = reaction.conditions
    reactants = [substance.smiles for substance in reaction.reactants]
    by_role = {
        "Reactants": reactants + [AGENTS[name] for name in conditions.reagents],
        "Product": [reaction.product],
        "Catalysts": [AGENTS[name] for name in conditions.catalysts],
        "Solvents": [AGENTS[name] for name in conditions.solvents],
    }
    names: dict[str, str] = {}
    for role, components in by_role.items():
        for smiles in components:
            names[smiles] = (
                "$-1$" if role == "Product" else names.get(smiles, f"${len(names) + (role == 'Reactants')}$")
            )
    listed = " ".join(
        f"{role}:"
        + " ".join(f"{names[smiles]}:[START_SELFIES]{selfies(smiles)}[END_SELFIES]" for smiles in components)
        for role, components in by_role.items()
        if components
    )
    amounts = [(smiles, role.amount) for smiles, role in zip(reactants, roles, strict=True)]
    amounts += [(AGENTS[name], amount) for name, amount in (conditions.reagents | conditions.catalysts).items()]
    actions = [
        *(f"ADD {names[AGENTS[name]]}" for name in conditions.solvents),
        *(f"ADD {names[smiles]} ({amount})" for smiles, amount in amounts),
        conditions.run,
        conditions.workup,
        "YIELD $-1$",
    ]
    components = json.dumps({name: smiles for smiles, name in names.items()})
    return listed, " ; ".join(actions), components
