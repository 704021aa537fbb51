"""What a reaction template is, and the named reactions of the starter data.

A template applies where its reacting group occurs exactly once in each reactant and nothing competes with it
(`Role.single`, `Role.forbid`, `Conditions.forbid`). Conditions are the textbook ones; several sets are alternatives.
"""

from dataclasses import dataclass, field

from dataset_builders.sources.starter.groups import REACTIVE


@dataclass(frozen=True)
class Role:
    """A reactant: what it must contain once, what it must not contain, and which building blocks can stand in."""

    single: tuple[str, ...]
    """Groups that occur exactly once; the first one reacts."""
    forbid: tuple[str, ...] = ()
    """Groups that would compete or not survive. `REACTIVE` is always forbidden, apart from `single`."""
    blocks: str = ""
    """Kind of building block in `agents.BLOCKS`, or `""`."""
    only_blocks: bool = False
    amount: str = "1 equiv"

    def accepts(self, groups: dict[str, int]) -> bool:
        """Whether a molecule with these group counts can play the role."""
        return all(groups.get(name) == 1 for name in self.single) and not any(
            name in groups for name in (*self.forbid, *REACTIVE) if name not in self.single
        )


@dataclass(frozen=True)
class Conditions:
    """One usual way of running a reaction; names are keys of `agents.AGENTS`, amounts are the procedure's."""

    reagents: dict[str, str] = field(default_factory=dict)
    catalysts: dict[str, str] = field(default_factory=dict)
    solvents: tuple[str, ...] = ()
    run: str = "STIR for 12 hours at 25 C"
    workup: str = ""
    forbid: tuple[str, ...] = ()
    """Groups that this way of running it does not tolerate in any reactant."""


@dataclass(frozen=True)
class Template:
    """A named reaction: reaction SMARTS with one reactant template a role, in order."""

    name: str
    smarts: str
    roles: tuple[Role, ...]
    conditions: tuple[Conditions, ...]


EXTRACT = (
    "ADD water ; EXTRACT with ethyl acetate ; WASH with brine ; DRYSOLUTION over sodium sulfate ; "
    "FILTER keep filtrate ; CONCENTRATE"
)
ACIDIFY = "CONCENTRATE ; PH with hydrochloric acid to 3 ; " + EXTRACT.removeprefix("ADD water ; ")
BASIFY = "CONCENTRATE ; PH with aqueous sodium bicarbonate to 8 ; " + EXTRACT.removeprefix("ADD water ; ")
FILTER = "FILTER keep filtrate ; CONCENTRATE"
WARM = "STIR for 4 hours at 60 C"
