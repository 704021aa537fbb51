"""What is in a task of a built dataset: lengths, values, licences and an example, gathered table by table."""

from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builders.schema import SPLITS, stable_hash
from omnimol_hf.tasks import Task

QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
_NUMBER = r"(?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_DIGITS = 6
"""Significant digits of a value's quantiles."""


def read_numbers(outputs: pa.ChunkedArray) -> np.ndarray:
    """The first number of each answer, `(rows,)` float64; NaN where there is none."""
    numbers = pc.struct_field(pc.extract_regex(outputs, _NUMBER), "number")
    return pc.fill_null(pc.cast(numbers, pa.float64()), np.nan).to_numpy()


def count_symbols(sequences: pa.ChunkedArray) -> pa.ChunkedArray:
    """SELFIES symbols of each sequence; the marks around a procedure's components are none."""
    return pc.subtract(pc.count_substring(sequences, "["), pc.count_substring(sequences, "_SELFIES]"))


class Lengths:
    """How often each length occurs: exact quantiles, in memory that does not grow with the rows."""

    def __init__(self) -> None:
        self.counts = np.zeros(1, np.int64)

    def add(self, lengths: pa.ChunkedArray) -> None:
        """Counts some more."""
        new = np.bincount(lengths.to_numpy())
        self.counts = np.pad(self.counts, (0, max(0, len(new) - len(self.counts))))
        self.counts[: len(new)] += new

    def quantiles(self) -> dict[str, int]:
        """The smallest length that the given share of rows does not exceed."""
        reached = self.counts.cumsum()
        return {name: int(np.searchsorted(reached, max(share * reached[-1], 1))) for name, share in QUANTILES.items()}


class _Split:
    def __init__(self) -> None:
        self.rows = self.num_bytes = 0
        self.lengths: dict[str, Lengths] = defaultdict(Lengths)
        self.inputs: list[np.ndarray] = []
        self.values: dict[str, list[np.ndarray]] = defaultdict(list)


class TaskStatistics:
    """Everything about one task.

    Attributes:
        splits: Split -> its counts, for the splits that were met.
        licenses: (source, licence) -> rows.
        label_sources: Where labels come from -> rows.
        example: A row of the first split that was met, with input and output of a usual length.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.splits: dict[str, _Split] = {}
        self.licenses: Counter = Counter()
        self.label_sources: Counter = Counter()
        self.example: dict = {}

    def add(self, split: str, table: pa.Table, values: np.ndarray | None) -> None:
        """Takes in some rows of a split.

        Args:
            values: for a number task, the numbers in the rows' answers, NaN where there is none.
        """
        found = self.splits.setdefault(split, _Split())
        found.rows += len(table)
        found.num_bytes += table.nbytes
        for column in ("input", "output"):
            found.lengths[f"{column}_characters"].add(pc.utf8_length(table[column]))
        if self.task.graph_rule != "none":  # else the input is text
            found.lengths["input_symbols"].add(count_symbols(table["input"]))
        if self.task.answer == "molecule":
            found.lengths["output_symbols"].add(count_symbols(table["output"]))
        found.inputs.append(np.array([stable_hash(text) for text in table["input"].to_pylist()], np.uint64))
        if values is not None:
            self._add_values(found, table, values)
        for source, license_, rows in _counted(table, "source", "license"):
            self.licenses[source, license_] += rows
        for label_source, rows in _counted(table, "label_source"):
            self.label_sources[label_source] += rows
        if not self.example:
            self.example = _usual_row(table)

    def _add_values(self, found: _Split, table: pa.Table, values: np.ndarray) -> None:
        """Values of one kind together: those of a subset where the task has any, else of a source."""
        subsets = any(table["subset"].unique().to_pylist())
        kinds = np.array(table["subset" if subsets else "source"].to_pylist())
        for kind in np.unique(kinds):
            here = values[kinds == kind]
            found.values[str(kind)].append(here[np.isfinite(here)])

    def lengths(self, name: str) -> np.ndarray:
        """`input_characters` and the like over all splits: how often each length occurs."""
        return _summed([split.lengths[name].counts for split in self.splits.values()])

    def values(self) -> dict[str, np.ndarray]:
        """The numbers of all splits, by subset or source."""
        kinds = sorted({kind for split in self.splits.values() for kind in split.values})
        return {
            kind: np.concatenate([part for split in self.splits.values() for part in split.values.get(kind, [])])
            for kind in kinds
        }

    def summary(self) -> dict:
        """As plain data for the report, always in the same order."""
        return {
            "splits": {split: self._split(self.splits[split]) for split in SPLITS if split in self.splits},
            "licenses": [
                {"source": source, "license": name, "rows": rows}
                for (source, name), rows in sorted(self.licenses.items())
            ],
            "label_sources": dict(sorted(self.label_sources.items(), key=lambda item: (-item[1], item[0]))),
            "example": self.example,
        }

    def _split(self, split: _Split) -> dict:
        summary = {
            "rows": split.rows,
            "num_bytes": split.num_bytes,
            "distinct_inputs": len(np.unique(np.concatenate(split.inputs))),
            **{name: lengths.quantiles() for name, lengths in split.lengths.items()},
        }
        if split.values:
            summary["values"] = {kind: _quantiles(np.concatenate(split.values[kind])) for kind in sorted(split.values)}
        return summary


def _counted(table: pa.Table, *columns: str) -> list[tuple]:
    counts = table.select(columns).group_by(list(columns)).aggregate([([], "count_all")])
    return list(zip(*(counts[name].to_pylist() for name in (*columns, "count_all")), strict=True))


def _usual_row(table: pa.Table) -> dict:
    """The row whose input and output together are of median length; the first of equals."""
    lengths = pc.add(pc.utf8_length(table["input"]), pc.utf8_length(table["output"])).to_numpy()
    place = np.argsort(lengths, kind="stable")[(len(lengths) - 1) // 2]
    return table.slice(int(place), 1).to_pylist()[0]


def _summed(counts: list[np.ndarray]) -> np.ndarray:
    longest = max(map(len, counts), default=0)
    return sum((np.pad(one, (0, longest - len(one))) for one in counts), np.zeros(longest, np.int64))


def _quantiles(values: np.ndarray) -> dict[str, float | int]:
    if not len(values):
        return {"rows": 0}
    quantiles = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
    named = dict(zip(QUANTILES, quantiles, strict=True)) | {"mean": values.mean()}
    return {"rows": len(values)} | {name: float(f"{value:.{_DIGITS}g}") for name, value in named.items()}
