from __future__ import annotations

from collections import Counter

import pytest
import torch

from clkd.experience import Experience, Rows
from clkd.memory.balanced import shares
from clkd.memory.class_balanced import ClassBalanced


def experience(index: int, labels: torch.Tensor, start: int, seen: tuple[int, ...], warp=None) -> Experience:
    n = len(labels)
    i = torch.arange(start, start + n)
    x = torch.zeros(start + n, 1, 2, 2, dtype=torch.uint8)
    x[i, 0, 0, 0] = (i % 256).to(torch.uint8)
    rows = Rows(x, labels, i, i, domain=index, experience=index, warp=warp)
    none = rows.select(torch.arange(0))
    return Experience(index, tuple(labels.unique().tolist()), seen, rows, none, none, "", 9)


def ids(memory: ClassBalanced) -> torch.Tensor:
    return memory.table.columns["sample_id"][: len(memory)]


@pytest.mark.parametrize("size", [1, 7, 20, 100])
def test_every_class_has_an_equal_share_and_no_place_stays_empty(size):
    memory, start = ClassBalanced(size), 0
    for i in range(4):
        labels = torch.arange(60) % 2 + 2 * i
        memory.end(experience(i, labels, start, tuple(range(2 * i + 2))), None)
        start += 60
        counts = Counter(memory.histogram())
        assert len(memory) == sum(counts.values()) == min(size, start)
        share = [counts[c] for c in range(2 * i + 2)]
        assert max(share) - min(share) <= 1, share


def test_what_a_small_class_leaves_goes_to_the_others():
    memory = ClassBalanced(30)
    memory.end(experience(0, torch.tensor([0] * 3 + [1] * 50 + [2] * 50), 0, (0, 1, 2)), None)
    assert memory.histogram() == {0: 3, 1: 13, 2: 14}


@pytest.mark.parametrize("size", range(0, 40, 3))
def test_shares_are_the_largest_equal_level(size):
    available = {0: 5, 1: 0, 2: 9, 3: 2, 4: 9}
    given = shares(available, size)
    assert sum(given.values()) == min(size, sum(available.values()))
    assert all(given[c] <= available[c] for c in available)
    wanting = [given[c] for c in available if given[c] < available[c]]
    assert max(given.values()) - min(wanting, default=max(given.values())) <= 1, given


def test_making_room_only_drops_rows():
    memory = ClassBalanced(40)
    memory.end(experience(0, torch.zeros(100, dtype=torch.long), 0, (0,)), None)
    before = set(ids(memory).tolist())
    memory.end(experience(1, torch.ones(100, dtype=torch.long), 100, (0, 1)), None)
    old = {i for i in ids(memory).tolist() if i < 100}
    assert len(old) == 20
    assert old < before


def test_a_class_that_comes_in_two_experiences_is_sampled_evenly_from_both():
    """30 rows, then 60 more of the same class: each of the 90 is kept equally often, to 5 sigma."""
    runs, k = 2000, 9
    counts = torch.zeros(90)
    for seed in range(runs):
        memory = ClassBalanced(k, seed=seed)
        memory.end(experience(0, torch.zeros(30, dtype=torch.long), 0, (0,)), None)
        memory.end(experience(1, torch.zeros(60, dtype=torch.long), 30, (0,)), None)
        counts[ids(memory)] += 1
    p = k / 90
    sigma = (runs * p * (1 - p)) ** 0.5
    assert (counts - runs * p).abs().max() < 5 * sigma


def test_rows_of_a_warped_domain_are_kept_as_the_model_gets_them():
    memory = ClassBalanced(5)
    labels = torch.zeros(20, dtype=torch.long)
    memory.end(experience(0, labels, 0, (0,), warp=lambda x: 255 - x), None)
    rows = memory.sample(5, torch.Generator())
    assert torch.equal(rows.x[:, 0, 0, 0].long(), 255 - rows.sample_id)


def test_unlabelled_rows_are_not_kept():
    memory = ClassBalanced(30)
    memory.end(experience(0, torch.tensor([0, -1] * 10), 0, (0,)), None)
    assert memory.histogram() == {0: 10}


def test_it_replays_nothing_during_the_first_experience():
    assert ClassBalanced(5).sample(3, torch.Generator()) is None
