from __future__ import annotations

import random

import pytest
import torch

from clkd.memory.reservoir import Reservoir
from clkd.signals import Batch, Signals

SILENT = Signals(None, torch.arange(0))


def rows(start: int, stop: int) -> Batch:
    i = torch.arange(start, stop)
    return Batch(x=i.to(torch.uint8)[:, None], y=i % 5, sample_id=i, domain=i * 0, experience=i * 0, new=len(i))


def filled(size: int, seen: int, feed: int, seed: int) -> Reservoir:
    memory = Reservoir(size, seed=seed)
    for start in range(0, seen, feed):
        memory.observe(rows(start, min(start + feed, seen)), SILENT)
    return memory


def ids(memory: Reservoir) -> torch.Tensor:
    return memory.table.columns["sample_id"][: len(memory)]


K, N, RUNS = 10, 40, 2500


def worst(counts: torch.Tensor) -> float:
    """How far the frequencies of kept positions are from even, in sigmas: of each row, and of each ten rows."""
    found = []
    for together in (1, 10):
        p = together / N
        sigma = (RUNS * K * p * (1 - p) * (N - K) / (N - 1)) ** 0.5  # hypergeometric
        found.append((counts.reshape(-1, together).sum(1) - RUNS * K * p).abs().max() / sigma)
    return float(max(found))


@pytest.mark.parametrize("feed", [13, 40])
def test_each_row_is_kept_with_probability_k_over_n(feed):
    counts = torch.zeros(N)
    for seed in range(RUNS):
        counts[ids(filled(K, N, feed, seed))] += 1
    assert worst(counts) < 5


@pytest.mark.parametrize(("off", "seen"), [(0, False), (-1, True), (1, True)])
def test_that_test_sees_an_off_by_one(off, seen):
    """Algorithm R in plain Python where row t draws its slot from one number too few or too many."""
    draw, counts = random.Random(0), torch.zeros(N)
    for _ in range(RUNS):
        slots = list(range(K))
        for t in range(K, N):
            if (slot := draw.randrange(t + 1 + off)) < K:
                slots[slot] = t
        counts[slots] += 1
    assert (worst(counts) > 5) == seen


@pytest.mark.parametrize("feed", [1, 7, 13, 200])
def test_how_rows_come_in_batches_changes_nothing(feed):
    one, other = filled(10, 200, 1, seed=3), filled(10, 200, feed, seed=3)
    assert torch.equal(ids(one), ids(other))
    assert torch.equal(one.draws.get_state(), other.draws.get_state())


@pytest.mark.parametrize("seed", range(10))
def test_it_is_algorithm_r_row_by_row(seed):
    """The same draws, one row at a time, in plain Python."""
    draws, slots = Reservoir(10, seed=seed).draws, []
    for t in range(60):
        j = int(torch.rand(1, generator=draws, dtype=torch.float64).item() * (t + 1))
        if t < 10:
            slots.append(t)
        elif j < 10:
            slots[j] = t
    assert ids(filled(10, 60, 23, seed)).tolist() == slots


def test_in_which_epochs_rows_are_offered_is_an_option():
    assert not Reservoir(4).every_epoch
    assert Reservoir(4, epochs="all").every_epoch


@pytest.mark.parametrize("seen", [1, 9, 10, 11, 500])
def test_it_fills_and_never_exceeds_its_size(seen):
    memory = filled(10, seen, 7, seed=0)
    assert len(memory) == min(10, seen)
    assert memory.seen == seen
    assert len(set(ids(memory).tolist())) == len(memory)


def test_a_state_goes_on_as_the_original_does():
    memory, other = filled(10, 50, 7, seed=0), Reservoir(10, seed=99)
    other.load_state_dict(memory.state_dict())
    for start in range(50, 400, 8):
        memory.observe(rows(start, start + 8), SILENT)
        other.observe(rows(start, start + 8), SILENT)
    assert torch.equal(ids(memory), ids(other))
    assert other.seen == memory.seen == 402
    assert torch.equal(memory.draws.get_state(), other.draws.get_state())


def enlarged(size: int, feed: int) -> Reservoir:
    """Of ten rows' size until it had seen fifty."""
    memory = Reservoir(size)
    memory.load_state_dict(filled(10, 50, 7, seed=0).state_dict())
    for start in range(50, 450, feed):
        memory.observe(rows(start, min(start + feed, 450)), SILENT)
        kept = ids(memory).tolist()
        assert len(set(kept)) == len(kept), "a place that nobody took would be a row of zeros"
    return memory


@pytest.mark.parametrize("size", [30, 100])
@pytest.mark.parametrize("feed", [7, 400])
def test_one_that_became_larger_has_no_gaps_however_rows_come_in_batches(size, feed):
    memory = enlarged(size, feed)
    assert 2 * size / 3 < len(memory) <= size
    assert torch.equal(ids(memory), ids(enlarged(size, 1)))


def test_seeds_differ_and_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert not torch.equal(ids(filled(10, 200, 7, seed=0)), ids(filled(10, 200, 7, seed=1)))
    assert torch.equal(torch.get_rng_state(), before)
