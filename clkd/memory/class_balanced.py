"""The same number of rows of every class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clkd.memory.table import EXTRA, PIECE
from clkd.memory.tabled import Tabled

if TYPE_CHECKING:
    from clkd.context import Context
    from clkd.experience import Experience
    from clkd.models.student import Student

KEY = "key"
"""The extra column with each row's random key."""
KEY_BYTES = 8


class ClassBalanced(Tabled):
    """Keeps `size` rows, split evenly over the classes seen, chosen at random at the end of each experience.

    Every row draws a random key once, when its experience ends, and a class keeps its rows with the smallest keys. So
    what is kept of a class is an even sample of all its rows, from whichever experiences, and making room for new
    classes drops a random part of it. Unlabelled rows are not kept.
    """

    def __init__(
        self,
        size: int | str = 500,
        seed: int = 0,
        device: torch.device | str = "cpu",
        context: Context | None = None,
    ) -> None:
        super().__init__(size, seed, device, "class_balanced", context, KEY_BYTES)

    def end(self, experience: Experience, student: Student) -> None:
        arriving, count = experience.train, len(self)
        key = torch.rand(len(arriving), generator=self.draws, dtype=torch.float64)
        all_y = torch.cat([*self._column("y"), arriving.y.cpu()])
        stays = smallest(all_y, torch.cat([*self._column(EXTRA + KEY), key]), experience.seen, self.size)
        self.table.keep(stays[stays < count])
        for some in torch.split(stays[stays >= count] - count, PIECE):
            rows = arriving.gather(some.to(arriving.y.device), self.table.device)
            slots = torch.arange(len(self), len(self) + len(some))
            self.table.write(slots, rows, {KEY: key[some]})

    def staying(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Each class's share of a larger memory's rows."""
        y = rows["y"].cpu()
        return smallest(y, rows[EXTRA + KEY].cpu(), tuple(torch.unique(y).tolist()), self.size)

    def _column(self, name: str) -> list[Tensor]:
        """What is kept, on the CPU; nothing at first."""
        return [self.table.columns[name][: len(self)].cpu()] if len(self) else []


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
