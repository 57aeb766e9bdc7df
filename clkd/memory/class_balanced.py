"""The same number of rows of every class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clkd.memory.tabled import Tabled
from clkd.signals import Batch

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student

KEY = "key"
"""The extra column with each row's random key."""


class ClassBalanced(Tabled):
    """Keeps `size` rows, split evenly over the classes seen, chosen at random at the end of each experience.

    Every row draws a random key once, when its experience ends, and a class keeps its rows with the smallest keys. So
    what is kept of a class is an even sample of all its rows, from whichever experiences, and making room for new
    classes drops a random part of it. Unlabelled rows are not kept.
    """

    def __init__(self, size: int = 500, seed: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(size, seed, device, "class_balanced")

    def end(self, experience: Experience, student: Student) -> None:
        arriving = experience.train
        key = torch.rand(len(arriving), generator=self.draws, dtype=torch.float64)
        kept, count = self._everything(), len(self)
        old_y, old_key = (kept.y.cpu(), kept.extra[KEY].cpu()) if kept else (arriving.y[:0].cpu(), key[:0])
        stays = smallest(torch.cat([old_y, arriving.y.cpu()]), torch.cat([old_key, key]), experience.seen, self.size)
        chosen = stays[stays >= count] - count
        old = self.table.read(stays[stays < count]) if kept else None
        new = arriving.gather(chosen.to(arriving.y.device), self.table.device)
        self._refill(old, new, key[chosen])

    def _everything(self) -> Batch | None:
        return self.table.read(torch.arange(len(self.table))) if len(self.table) else None

    def _refill(self, old: Batch | None, new: Batch, key: Tensor) -> None:
        count = len(old) if old else 0
        self.table.count = 0
        if old:
            self.table.write(torch.arange(count), old, old.extra)
        self.table.write(torch.arange(count, count + len(new)), new, {KEY: key})


def smallest(y: Tensor, key: Tensor, classes: tuple[int, ...], size: int) -> Tensor:
    """Positions of the rows that stay: each class's share of `size`, those with the smallest keys. In row order.

    >>> y, key = torch.tensor([0, 0, 0, 1]), torch.tensor([0.3, 0.1, 0.2, 0.9])
    >>> smallest(y, key, classes=(0, 1), size=3)
    tensor([1, 2, 3])
    """
    rows = {c: (y == c).nonzero().squeeze(1) for c in classes}
    share = shares({c: len(at) for c, at in rows.items()}, size)
    return torch.cat([at[key[at].argsort()[: share[c]]] for c, at in rows.items()]).sort().values


def shares(available: Mapping[int, int], size: int) -> dict[int, int]:
    """How many rows of each class fit into `size`: equal shares, and what a small class leaves goes to the others.

    >>> shares({0: 100, 1: 2, 2: 100}, 10)
    {1: 2, 0: 4, 2: 4}
    """
    share = {}
    for place, (c, rows) in enumerate(sorted(available.items(), key=lambda item: item[1])):
        share[c] = min(rows, size // (len(available) - place))
        size -= share[c]
    return share
