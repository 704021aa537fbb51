"""Active-learning data selection (Section 3.3): in rounds, more rows of the tasks that are still answered badly.

Round j of J draws B/J rows that no round has drawn yet, divided among the tasks by pi, and trains M epochs on all rows
drawn so far. Then the model answers rows of the round, and a row's score is nu = max rho - rho (Eq. 1), where rho is
the task's normalised metric (`omnimol_hf.metrics.normalised`) and max rho its largest possible value, 1. A task's
rating mu is the mean of its rows' scores (Eq. 2), and pi is multiplied by it (Eq. 3).

Where the paper leaves it open: a task none of whose rows were scored keeps its share; when every answer is perfect pi
stays as it is; a task that runs out of rows passes its share to the others in proportion.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

import numpy as np

KINDS = ("active", "random", "all")


@dataclass(frozen=True)
class SelectionSettings:
    """How training rows are selected.

    Attributes:
        kind: `"active"` (Eq. 1-3); `"random"`, the same rounds and steps with pi proportional to the remaining rows;
            or `"all"`, every row once an epoch: with a budget, for the steps that a selection of it would take.
        budget: B, as a number of rows (an int) or a share of them (a float above 0 and up to 1).
        rounds: J.
        epochs: M.
        scored_rows: Rows a task, of those drawn in a round, that are answered to rate it.
        smoothing: How much of the uniform distribution is mixed into pi, in [0, 1]; the paper has none.

    Raises:
        ValueError: Naming the setting that is impossible.
    """

    kind: str
    budget: float | None = None
    rounds: int = 5
    epochs: int = 1
    scored_rows: int = 200
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"selection: kind is {self.kind!r}; expected one of {', '.join(KINDS)}")
        for name in ("rounds", "epochs", "scored_rows"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"selection: {name} is {value!r}; expected a whole number from 1")
        if not isinstance(self.smoothing, int | float) or not 0 <= self.smoothing <= 1:
            raise ValueError(f"selection: smoothing is {self.smoothing!r}; expected a number from 0 to 1")
        if self.kind == "all" and self.budget is None:
            return
        rows = type(self.budget) is int and self.budget >= 1
        share = type(self.budget) is float and 0 < self.budget <= 1
        if not rows and not share:
            raise ValueError(
                f"selection: budget is {self.budget!r}; expected a number of rows such as 4000, or a share such as 0.4"
            )
        if rows and self.rounds > self.budget:
            raise ValueError(f"selection: {self.rounds} rounds cannot share a budget of {self.budget} rows")

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> SelectionSettings:
        """Settings from YAML; a misspelt name is told with the nearest known one."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                raise ValueError(
                    f"selection has an unknown setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
                )
        if "kind" not in given:
            raise ValueError(f"selection needs a kind, one of {', '.join(KINDS)}")
        return cls(**given)

    def budget_of(self, rows: int) -> int:
        """B in rows, out of so many.

        Raises:
            ValueError: If there are not that many, or fewer than one a round.
        """
        budget = self.budget if isinstance(self.budget, int) else round(self.budget * rows)
        if budget > rows:
            raise ValueError(f"selection: the budget of {budget:,} rows is larger than the {rows:,} rows to draw from")
        if self.rounds > budget:
            raise ValueError(f"selection: {self.rounds} rounds cannot share a budget of {budget:,} rows")
        return budget


def reweight(pi: np.ndarray, mu: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """The next distribution over the tasks (Eq. 3): pi' ~ mu * pi, then `smoothing` of the uniform one mixed in.

    Args:
        pi: Shape `(n_tasks,)`, sums to 1.
        mu: Ratings, shape `(n_tasks,)`; NaN for a task that was not scored, which keeps its share.
    """
    scored = np.isfinite(mu)
    total = pi[scored] @ mu[scored]
    if total > 0:
        pi = pi * np.where(scored, mu, total / pi[scored].sum())
        pi = pi / pi.sum()
    return (1 - smoothing) * pi + smoothing / len(pi)


def allocate(total: int, shares: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Divide `total` rows among tasks by `shares`, rounded by largest remainder, the earlier task first among equals.

    Args:
        shares: At least 0, shape `(n_tasks,)`, need not sum to 1.
        available: Rows that each task has left; together at least `total`. A task that is asked for all it has or more
            gives all, and the rest of its share goes to the others in proportion.

    Returns:
        Rows of each task, int64, which sum to `total`.
    """
    counts = np.zeros(len(available), dtype=np.int64)
    while True:
        left = total - counts.sum()
        weights = np.where(counts < available, shares, 0.0)
        if weights.sum() == 0:  # those with a share are exhausted
            weights = (available - counts).astype(float)
        if left == 0 or weights.sum() == 0:
            return counts
        quotas = left * weights / weights.sum()
        full = (weights > 0) & (quotas >= available)
        if not full.any():
            break
        counts[full] = available[full]
    whole = np.floor(quotas + 1e-9).astype(np.int64)  # 2.9999999 is a three that floating point has missed
    largest = np.argsort(-(quotas - whole).round(9), kind="stable")
    whole[largest[: left - whole.sum()]] += 1
    return counts + whole


class RowSelection:
    """Which rows the rounds draw, and the distribution over the tasks that they are drawn by.

    The rows of a task are drawn in one shuffled order, which the seed decides: no row comes twice, and the numbers of
    rows drawn say which ones they were. So `history`, one JSON object a round, is the whole state:
    `{"round", "pi": {task: share}, "drawn": {task: rows}}`, and once it is scored `"scored": {task: rows}`,
    `"mu": {task: rating, or None}` and `"seconds"`, what the scoring took.

    Args:
        tasks: The task of each row to select from.
        settings: `kind` is not `"all"`.
        seed: Of the order.

    Raises:
        ValueError: If the budget does not fit the rows.
    """

    def __init__(self, tasks: Sequence[str], settings: SelectionSettings, seed: int = 0) -> None:
        self.settings = settings
        self.seed = seed
        self.budget = settings.budget_of(len(tasks))
        tasks = list(map(str, tasks))
        self.tasks, self.of_row = np.unique(tasks, return_inverse=True)
        self.order = [
            np.random.default_rng([seed, 0, number]).permutation(np.flatnonzero(self.of_row == number))
            for number in range(len(self.tasks))
        ]
        self.history: list[dict[str, Any]] = []
        self._digest = hashlib.blake2b(repr((settings, seed, tasks)).encode(), digest_size=16).hexdigest()

    # --- the schedule: a unit is a fixed number of steps, and round j takes j * M of them ----------------------------

    @property
    def round(self) -> int:
        """The round that was drawn last, counted from 1; 0 before the first."""
        return len(self.history)

    @property
    def units(self) -> int:
        """The units of all rounds: M * (1 + 2 + ... + J)."""
        return self.settings.epochs * self.settings.rounds * (self.settings.rounds + 1) // 2

    def unit_steps(self, batch_size: int) -> int:
        """The optimiser steps of a unit: one pass over a round's B/J rows, the last step filled up.

        Raises:
            ValueError: If a round draws fewer rows than a step trains on.
        """
        portion = -(-self.budget // self.settings.rounds)
        if portion < batch_size:
            raise ValueError(
                f"selection: a round draws {portion} rows (budget {self.budget:,}, {self.settings.rounds} rounds), "
                f"fewer than the {batch_size} of one step; take a larger budget, fewer rounds or a smaller batch"
            )
        return -(-portion // batch_size)

    def steps(self, batch_size: int) -> int:
        """The optimiser steps of all rounds."""
        return self.units * self.unit_steps(batch_size)

    def round_of(self, unit: int) -> int:
        """The round, from 1, that the unit (from 0) belongs to."""
        return next(j for j in range(1, self.settings.rounds + 1) if unit < self.first_unit(j + 1))

    def first_unit(self, round_: int) -> int:
        """The first unit of a round."""
        return self.settings.epochs * round_ * (round_ - 1) // 2

    # --- the rounds --------------------------------------------------------------------------------------------------

    def _counts(self, entry: Mapping[str, Any]) -> np.ndarray:
        return np.array([entry["drawn"][task] for task in self.tasks])

    def _used(self, rounds: int) -> np.ndarray:
        return sum((self._counts(entry) for entry in self.history[:rounds]), np.zeros(len(self.tasks), dtype=np.int64))

    def next_pi(self) -> np.ndarray:
        """The distribution that the next round draws by, shape `(n_tasks,)`, in the order of `tasks`."""
        if self.settings.kind == "random":
            remaining = np.array([len(rows) for rows in self.order]) - self._used(self.round)
            return remaining / remaining.sum()
        if not self.history:
            return np.full(len(self.tasks), 1 / len(self.tasks))
        last = self.history[-1]
        mu = [last.get("mu", {}).get(task) for task in self.tasks]
        pi = np.array([last["pi"][task] for task in self.tasks])
        return reweight(pi, np.array([np.nan if one is None else one for one in mu]), self.settings.smoothing)

    def draw(self) -> None:
        """Begin the next round: draw its rows."""
        done, rounds = self.round, self.settings.rounds
        if done == rounds:
            raise ValueError(f"all {rounds} rounds are drawn")
        portion = self.budget * (done + 1) // rounds - self.budget * done // rounds
        pi = self.next_pi()
        drawn = allocate(portion, pi, np.array([len(rows) for rows in self.order]) - self._used(done))
        self.history.append(
            {
                "round": done + 1,
                "pi": dict(zip(self.tasks.tolist(), pi.tolist(), strict=True)),
                "drawn": dict(zip(self.tasks.tolist(), drawn.tolist(), strict=True)),
            }
        )

    def rows(self, first: int, last: int) -> list[np.ndarray]:
        """The rows that the rounds from `first` to `last` drew, an array for each task."""
        start, end = self._used(first - 1), self._used(last)
        return [rows[a:b] for rows, a, b in zip(self.order, start, end, strict=True)]

    def rows_to_score(self) -> np.ndarray:
        """The rows of the current round by which the tasks are rated; none for a random selection."""
        if self.settings.kind == "random":
            return np.zeros(0, dtype=np.int64)
        return np.concatenate([rows[: self.settings.scored_rows] for rows in self.rows(self.round, self.round)])

    def rate(self, rho: Sequence[float], seconds: float = 0.0) -> None:
        """End the current round with the metric of each of `rows_to_score` (Eq. 1 and 2).

        Args:
            rho: In [0, 1]; NaN for a row that cannot be scored, which is left out.
            seconds: What the scoring took, for the log.
        """
        nu = 1.0 - np.asarray(rho, dtype=np.float64)
        of_row = self.of_row[self.rows_to_score()]
        by_task = {str(task): nu[(of_row == i) & np.isfinite(nu)] for i, task in enumerate(self.tasks)}
        self.history[-1] |= {
            "scored": {task: len(values) for task, values in by_task.items()},
            "mu": {task: float(values.mean()) if len(values) else None for task, values in by_task.items()},
            "seconds": round(seconds, 3),
        }

    # --- the state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a checkpoint has to keep, as JSON."""
        return {"pool": self._digest, "history": copy.deepcopy(self.history)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state.

        Raises:
            ValueError: If it was that of a selection from other rows, or with other settings.
        """
        if state["pool"] != self._digest:
            raise ValueError(
                "selection: the checkpoint selects from other rows, or by other settings or another seed; its rows "
                "could be drawn twice. Choose another output_dir, or go back to the data of that run"
            )
        self.history = copy.deepcopy(state["history"])
