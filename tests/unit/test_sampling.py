"""The order of training rows: weights, rounds, lengths, and the same for any number of processes."""

from collections import Counter

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from omnimol_hf.sampling import MixtureSampler

TASKS = ["a"] * 700 + ["b"] * 200 + ["c"] * 100
LENGTHS = torch.randint(10, 200, (1000,), generator=torch.Generator().manual_seed(0)).tolist()


def epoch(sampler: MixtureSampler, number: int) -> list[int]:
    sampler.set_epoch(number)
    return list(sampler)


def test_without_weights_each_row_comes_once():
    sampler = MixtureSampler(TASKS, LENGTHS, batch_size=8)
    assert len(sampler) == 1000
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert first != second
    assert first != sorted(first)


def test_weights_are_respected():
    weights = {"a": 1.0, "b": 1.0, "c": 2.0}
    sampler = MixtureSampler(TASKS, LENGTHS, 8, weights)
    counts = Counter(TASKS[i] for number in range(10) for i in epoch(sampler, number))
    assert sum(counts.values()) == 10_000
    for task, weight in weights.items():
        assert counts[task] / 10_000 == pytest.approx(weight / 4, abs=0.02)
    scaled = MixtureSampler(TASKS, LENGTHS, 8, {task: 7 * weight for task, weight in weights.items()})
    assert list(scaled) == epoch(sampler, 0)


def test_a_weight_of_zero_leaves_a_task_out():
    order = list(MixtureSampler(TASKS, LENGTHS, 8, {"a": 0, "b": 1, "c": 0}))
    assert {TASKS[i] for i in order} == {"b"}


def test_no_row_comes_twice_before_all_of_its_task_have_come_once():
    sampler = MixtureSampler(TASKS, LENGTHS, 8, {"a": 1, "b": 1, "c": 2})
    counts = Counter(list(sampler))
    for task, low in (("a", 0), ("b", 1), ("c", 5)):
        times = [counts[i] for i in range(1000) if TASKS[i] == task]
        assert max(times) - min(times) <= 1, task
        assert abs(min(times) - low) <= 1


def test_the_order_depends_on_seed_and_epoch_alone():
    weights = {"a": 1, "b": 2, "c": 3}
    sampler = MixtureSampler(TASKS, LENGTHS, 8, weights, seed=3)
    epochs = [epoch(sampler, number) for number in range(3)]
    torch.manual_seed(99)
    resumed = MixtureSampler(TASKS, LENGTHS, 8, weights, seed=3)  # a run that goes on at epoch 2
    assert epoch(resumed, 2) == epochs[2]
    assert epoch(MixtureSampler(TASKS, LENGTHS, 8, weights, seed=4), 0) != epochs[0]
    state = torch.get_rng_state()
    list(sampler)
    assert torch.equal(state, torch.get_rng_state())  # dropout's random numbers are not touched


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 4), (2, 1), (2, 2), (4, 1)])
def test_an_optimiser_step_has_the_same_rows_however_it_is_shared(processes, accumulation):
    """As `Trainer` and accelerate deal the sampler's rows out to processes and micro-batches."""
    whole = list(MixtureSampler(TASKS, LENGTHS, 16))
    steps = [set(whole[i : i + 16]) for i in range(0, 1000, 16)]
    micro = 16 // processes // accumulation
    dealt = []
    for rank in range(processes):
        batches = BatchSampler(
            MixtureSampler(TASKS, LENGTHS, processes * accumulation * micro), micro, drop_last=False
        )
        dealt.append(list(BatchSamplerShard(batches, processes, rank, even_batches=True)))
    for number, rows in enumerate(steps[:-1]):  # the last one is filled up
        mine = [dealt[rank][number * accumulation + i] for rank in range(processes) for i in range(accumulation)]
        assert {row for batch in mine for row in batch} == rows


def test_grouping_by_length_saves_padding():
    def padded(order: list[int]) -> int:
        batches = [order[i : i + 8] for i in range(0, len(order), 8)]
        return sum(max(LENGTHS[i] for i in batch) * len(batch) for batch in batches)

    real = sum(LENGTHS)
    grouped = padded(list(MixtureSampler(TASKS, LENGTHS, 8)))
    plain = padded(torch.randperm(1000, generator=torch.Generator().manual_seed(0)).tolist())
    assert plain > 1.5 * real
    assert grouped < 1.05 * real


def test_batches_of_all_lengths_are_mixed():
    """Grouped, but not sorted: a run does not go from short to long rows."""
    order = list(MixtureSampler(TASKS, LENGTHS, 8))
    means = torch.tensor([float(LENGTHS[i]) for i in order[:496]]).view(-1, 8).mean(1)
    correlation = torch.corrcoef(torch.stack([means, torch.arange(len(means), dtype=torch.float)]))[0, 1]
    assert abs(correlation) < 0.4
    assert means.std() > 30


def test_a_short_batch_comes_last():
    lengths = [10 * (i // 7) for i in range(700 * 7)]
    order = list(MixtureSampler(["a"] * 4900, lengths, 64))
    batches = [order[i : i + 64] for i in range(0, 4900, 64)]
    spans = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches[:-1]]
    assert max(spans) < 1000  # no batch is put together from two
    assert len(batches[-1]) == 4900 % 64


@pytest.mark.parametrize(
    "weights",
    [{"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1, "d": 1}, {"a": -1, "b": 1, "c": 1}, {"a": 0, "b": 0, "c": 0}],
)
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match=r"mixture weights .* do not fit the tasks .*\['a', 'b', 'c'\]"):
        MixtureSampler(TASKS, LENGTHS, 8, weights)
