"""The order of training rows: tasks by weight, batches of similar length, the same for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from omnimol_hf.selection import RowSelection


class MixtureSampler(Sampler[int]):
    """Draws tasks by weight and rows of a task in shuffled rounds; then groups rows of similar length into batches.

    An epoch has as many draws as there are rows. Within a task no row comes a second time before all have come once.
    The order depends on the seed and the epoch alone, so every process computes the same one and a resumed run goes on
    in it; the global batch is the same whatever the number of processes.

    Args:
        tasks: the task of each row.
        lengths: the tokens of each row.
        batch_size: rows of one optimiser step over all processes and micro-batches.
        weights: task -> weight, need not sum to 1; None: every row is drawn once an epoch.
        seed: of the order.

    Raises:
        ValueError: when a weight is negative or not given, or names a task without rows.
    """

    window = 64  # batches that are sorted together: large enough to group, small enough to keep the order random

    def __init__(
        self,
        tasks: Sequence[str],
        lengths: Sequence[int],
        batch_size: int,
        weights: dict[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        names = sorted(set(tasks))
        number = {name: i for i, name in enumerate(names)}
        of_row = torch.tensor([number[task] for task in tasks])
        self.rows = [torch.nonzero(of_row == i).flatten() for i in range(len(names))]
        self.weights = None
        if weights is not None:
            if set(weights) != set(names) or min(weights.values()) < 0 or sum(weights.values()) <= 0:
                raise ValueError(f"mixture weights {weights} do not fit the tasks of the training rows: {names}")
            self.weights = torch.tensor([float(weights[name]) for name in names])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order `iter` gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = self._draw(generator)
        shuffled: list[torch.Tensor] = []
        for part in order.split(self.window * self.batch_size):
            batches = part[self.lengths[part].argsort(stable=True)].split(self.batch_size)
            shuffled += [batches[i] for i in torch.randperm(len(batches), generator=generator)]
        # A short batch must come last, or all batches after it would be cut in two.
        shuffled.sort(key=lambda batch: len(batch) < self.batch_size)
        return iter(torch.cat(shuffled).tolist())

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        total = len(self.lengths)
        if self.weights is None:
            return torch.randperm(total, generator=generator)
        drawn = torch.multinomial(self.weights, total, replacement=True, generator=generator)
        order = torch.empty(total, dtype=torch.long)
        for task, rows in enumerate(self.rows):
            places = torch.nonzero(drawn == task).flatten()
            rounds = -(-len(places) // max(len(rows), 1))
            shuffled = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(rounds)]
            if shuffled:
                order[places] = torch.cat(shuffled)[: len(places)]
        return order


class SelectionSampler(MixtureSampler):
    """The order of the rows in a selection's rounds; an epoch of the sampler is one of the selection's units.

    A round goes through all rows drawn so far M times, each time shuffled anew; the order depends on the seed, the
    rows drawn and the unit alone. The steps that fill up the last unit take rows of one more pass.

    Args:
        selection: Draws a round before the sampler is asked for its rows.
        lengths: The tokens of each row to select from.
        batch_size: Rows of one optimiser step over all processes and micro-batches.
        seed: Of the order.
    """

    def __init__(self, selection: RowSelection, lengths: Sequence[int], batch_size: int, seed: int = 0) -> None:
        super().__init__(selection.tasks[selection.of_row].tolist(), lengths, batch_size, seed=seed)
        self.selection = selection

    def __len__(self) -> int:
        return self.selection.unit_steps(self.batch_size) * self.batch_size

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        round_ = self.selection.round_of(self.epoch)
        rows = np.concatenate(self.selection.rows(1, round_))
        start = (self.epoch - self.selection.first_unit(round_)) * len(self)
        shuffle = np.random.default_rng([self.seed, 1, round_])
        passes = -(-(start + len(self)) // len(rows))
        order = np.concatenate([shuffle.permutation(rows) for _ in range(passes)])
        return torch.from_numpy(order[start : start + len(self)])
