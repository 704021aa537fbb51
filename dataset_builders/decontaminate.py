"""Which rows stay: exact repeats go, and train rows whose molecule or reaction stands in a test or validation split.

All splits of all tasks are compared with one another (B.2 of the paper). Publishers' own test and validation rows are
never removed. Two rows overlap

- as molecules (captions, questions, properties): if the whole molecule is the same;
- as reactions: if the product is the same and all other molecules that one row gives occur in the other row, given or
  answered. So a retrosynthesis row overlaps with a forward row of the same reaction, whatever reagents that lists;
- as yields, two of them: if the reaction with all its conditions is the same.

"The same" is canonical isomeric SMILES at level `exact`. Level `strict` compares the connectivity part of InChIKeys,
and of reactions the product alone; between two yields still reaction and conditions: their sets vary in little else.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LEVELS = ("exact", "strict", "none")
YIELDS = "yield_regression"
Matrix = dict[str, dict[str, int]]
"""Task of train rows -> task of test or validation rows -> train rows that overlap with at least one of them."""


@dataclass(frozen=True)
class Decision:
    """What `decide` finds.

    Attributes:
        keep: `(rows,)` bool.
        repeats: `(rows,)` bool, rows that repeat an earlier one of their split.
        leaks: `(rows,)` bool, train rows that overlap with a held-out row; removed unless the level is `none`.
        before, after: Overlaps among rows without repeats, and among those kept.
    """

    keep: np.ndarray
    repeats: np.ndarray
    leaks: np.ndarray
    before: Matrix
    after: Matrix


def decide(keys: pa.Table, level: str, tasks: list[str]) -> Decision:
    """Decides for every row whether it stays.

    Args:
        keys: a row each, columns `parts.KEYS`; `strict` needs skeletons.
        tasks: all tasks, in the order of the matrix.
    """
    rows = _Rows(keys, level == "strict", tasks)
    repeats = rows.repeats()
    overlaps = rows.overlaps(~repeats)
    leaks = overlaps.any(axis=1)
    keep = ~repeats if level == "none" else ~(repeats | leaks)
    return Decision(
        keep, repeats, leaks, rows.matrix(overlaps), rows.matrix(rows.overlaps(keep) if level != "none" else overlaps)
    )


class _Rows:
    def __init__(self, keys: pa.Table, strict: bool, tasks: list[str]) -> None:
        self.strict = strict
        self.tasks = tasks
        self.task = pc.index_in(keys["task"].cast(pa.string()), pa.array(tasks)).to_numpy()
        split = keys["split"].cast(pa.string())
        self.train = pc.equal(split, "train").to_numpy()
        self.split = pc.index_in(split, pa.array(["train", "validation", "test"])).to_numpy()
        self.published = keys["published"].to_numpy()
        self.repeat = keys["repeat"].to_numpy()
        self.reaction = keys["reaction"].to_numpy()
        self.subject = keys["subject_skeleton" if strict else "subject"].to_numpy()
        self.given = _Lists(keys["given_skeletons" if strict else "given"])
        self.known = _Lists(keys["known"])

    def repeats(self) -> np.ndarray:
        """Rows equal to an earlier one of the same split, but none that a publisher put in test or validation."""
        order = np.lexsort((self.repeat, self.split))  # stable: equal rows keep their order
        same = np.zeros(len(order), dtype=bool)
        same[order[1:]] = (self.repeat[order[1:]] == self.repeat[order[:-1]]) & (
            self.split[order[1:]] == self.split[order[:-1]]
        )
        return same & (self.train | ~self.published)

    def overlaps(self, present: np.ndarray) -> np.ndarray:
        """`(rows, tasks)` bool: this train row overlaps with a held-out row of that task; both rows are `present`."""
        found = np.zeros((len(present), len(self.tasks)), dtype=bool)
        train, held_out = present & self.train, present & ~self.train
        for number in range(len(self.tasks)):
            subjects = self.subject[held_out & ~self.reaction & (self.task == number)]
            found[:, number] = train & ~self.reaction & np.isin(self.subject, subjects)
        for row, number in self._reaction_overlaps(train & self.reaction, held_out & self.reaction):
            found[row, number] = True
        return found

    def _reaction_overlaps(self, train: np.ndarray, held_out: np.ndarray) -> Iterator[tuple[int, int]]:
        candidates = np.flatnonzero(train & np.isin(self.subject, self.subject[held_out]))
        held_out &= np.isin(self.subject, self.subject[candidates])
        yields = self.tasks.index(YIELDS)
        conditions = set()  # of yields: a set is looked up at once, where a few products make all pairs too many
        by_product: dict[int, list[tuple[int, frozenset, frozenset]]] = defaultdict(list)
        for row in np.flatnonzero(held_out):
            given = self.given[row]
            if self.task[row] == yields:
                conditions.add((self.subject[row], given))
            by_product[self.subject[row]].append((self.task[row], given, self.known[row]))
        for row in candidates:
            number, product, given, known = self.task[row], self.subject[row], self.given[row], self.known[row]
            if number == yields and (product, given) in conditions:
                yield row, yields
            for other, other_given, other_known in by_product[product]:
                if number == yields == other:
                    continue
                if self.strict or given <= other_known or other_given <= known:
                    yield row, other

    def matrix(self, overlaps: np.ndarray) -> Matrix:
        present = [number for number in range(len(self.tasks)) if (self.task == number).any()]
        return {
            self.tasks[row]: {self.tasks[column]: int(overlaps[self.task == row, column].sum()) for column in present}
            for row in present
        }


class _Lists:
    """A column of lists of integers: row -> frozenset, without a Python object for every row."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        self.offsets, self.values = array.offsets.to_numpy(), array.values.to_numpy()

    def __getitem__(self, row: int) -> frozenset:
        return frozenset(self.values[self.offsets[row] : self.offsets[row + 1]].tolist())
