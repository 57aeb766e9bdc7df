"""A ring is a queue for each class: compared with real queues, row by row."""

from __future__ import annotations

from collections import deque

import pytest
import torch

from clkd.memory.ring import Ring, newest
from clkd.signals import Batch, Signals

SILENT = Signals(None, torch.arange(0))


def stream(n: int = 120) -> Batch:
    """Five classes, one rare and one late, some rows unlabelled, in three experiences."""
    draws, i = torch.Generator().manual_seed(3), torch.arange(n)
    y = torch.where(i < 60, torch.randint(3, (n,), generator=draws), torch.randint(5, (n,), generator=draws))
    y[(y == 1) & (i % 4 > 0)] = 0
    y[::17] = -1
    return Batch(x=i[:, None].to(torch.uint8), y=y, sample_id=i, domain=i * 0, experience=i // 40, new=n)


def queues(rows: Batch, group: torch.Tensor, size: int) -> set[int]:
    """Every row joins its queue; without room, the longest one's oldest row goes (of two, the higher id's)."""
    held: dict[int, deque[int]] = {}
    for row, each in zip(rows.sample_id.tolist(), group.tolist(), strict=True):
        held.setdefault(each, deque()).append(row)
        if sum(map(len, held.values())) > size:
            held[max(held, key=lambda each: (len(held[each]), each))].popleft()
    return {row for queue in held.values() for row in queue}


def filled(size: int, feed: int, per: str = "class") -> Ring:
    memory, rows = Ring(size, per), stream()
    for start in range(0, len(rows), feed):
        memory.observe(rows.rows(start, min(start + feed, len(rows))), SILENT)
        assert len(memory) == min(size, start + feed, len(rows))
    return memory


def ids(memory: Ring) -> list[int]:
    return memory.table.columns["sample_id"][: len(memory)].tolist()


@pytest.mark.parametrize("per", ["class", "experience"])
@pytest.mark.parametrize("size", [1, 2, 5, 11, 12, 60, 500])
@pytest.mark.parametrize("feed", [1, 7, 32, 120])
def test_it_is_a_queue_for_every_class_however_rows_come_in_batches(size, feed, per):
    rows, kept = stream(), ids(filled(size, feed, per))
    assert len(kept) == len(set(kept))
    assert set(kept) == queues(rows, rows.y if per == "class" else rows.experience, size)


def test_rows_keep_their_columns():
    memory, rows = filled(20, 7), stream()
    kept = memory.sample(20, torch.Generator())
    for name in ("x", "y", "experience"):
        assert torch.equal(getattr(kept, name), getattr(rows, name)[kept.sample_id]), name
    assert torch.equal(kept.extra["arrival"], kept.sample_id)


def test_a_smaller_one_takes_over_the_newest_of_each():
    small = Ring(8)
    small.load_state_dict(filled(30, 7).state_dict())
    assert set(ids(small)) == queues(stream(), stream().y, 8)


def test_equal_shares_and_the_newest():
    group, arrival = torch.tensor([3, 3, 3, 3, 9, 9, 4]), torch.tensor([10, 11, 12, 13, 7, 8, 20])
    assert newest(group, arrival, 4).tolist() == [False, False, True, True, False, True, True]
