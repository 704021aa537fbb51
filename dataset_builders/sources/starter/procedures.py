"""Procedures: a reaction's declared conditions as ReactXT's action sequence over `$k$` names."""

from rdkit import rdBase

from dataset_builders.sources.starter.agents import AGENTS
from dataset_builders.sources.starter.reactions import Reaction


def label_source(reaction: Reaction) -> str:
    """Which template computed a reaction's rows."""
    return f"computed:{reaction.template.name} (reaction template, RDKit {rdBase.rdkitVersion})"


def procedure(reaction: Reaction) -> tuple[dict[str, str], dict[str, tuple[str, ...]], str]:
    """Components (`$k$` name -> SMILES), roles (-> names) and actions of the `experiment_procedure` record.

    The product is `$-1$`. The actions add solvents, reactants, reagents and catalysts with the template's amounts, and
    end with run, work-up and yield.
    """
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
    roles = {role: tuple(names[smiles] for smiles in components) for role, components in by_role.items() if components}
    amounts = list(zip(reactants, (role.amount for role in reaction.template.roles), strict=True))
    amounts += [(AGENTS[name], amount) for name, amount in (conditions.reagents | conditions.catalysts).items()]
    actions = [
        *(f"ADD {names[AGENTS[name]]}" for name in conditions.solvents),
        *(f"ADD {names[smiles]} ({amount})" for smiles, amount in amounts),
        conditions.run,
        conditions.workup,
        "YIELD $-1$",
    ]
    return {name: smiles for smiles, name in names.items()}, roles, " ; ".join(actions)
