"""The newest rows of every class, experience or domain."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.memory.offered import Offered, only
from clkd.memory.table import EXTRA
from clkd.signals import Batch, Signals

if TYPE_CHECKING:
    from clkd.context import Context
    from clkd.models.student import Student

ARRIVAL = "arrival"
"""The extra column that says when a row came: so many rows were before it."""
ARRIVAL_BYTES = 8
COLUMN = {"class": "y", "experience": "experience", "domain": "domain"}


class Ring(Offered):
    """A first-in-first-out queue for every class (experience, domain), all of the same length: together `size` rows.

    Chaudhry et al. 2019, "On Tiny Episodic Memories in Continual Learning" (ring buffer), which A-GEM uses, too;
    there the number of queues is known and each has its fixed share. Here the queues share what there is: a new one
    shortens the others, whose oldest rows go, and what a short one leaves is the others'. One row more or less goes to
    the lower class id. Unlabelled rows are not offered to it.

    Which rows stay follows from the rows seen, not from how they came in batches, and nothing waits for the device.
    """

    purpose: ClassVar[str] = "ring"
    own_bytes: ClassVar[int] = ARRIVAL_BYTES

    def __init__(
        self,
        size: int | str = 500,
        per: Literal["class", "experience", "domain"] = "class",
        seed: int = 0,
        device: torch.device | str = "cpu",
        store: Collection[str] = (),
        class_names: tuple[str, ...] = (),
        context: Context | None = None,
        student: Student | None = None,
        rewrite: float | None = None,
        epochs: Literal["first", "all"] = "first",
    ) -> None:
        super().__init__(size, seed, device, store, class_names, context, student, rewrite, epochs)
        self.group = COLUMN[per]

    @property
    def needs_boundaries(self) -> bool:
        return self.group == COLUMN["experience"] or super().needs_boundaries

    def observe(self, batch: Batch, signals: Signals) -> None:
        for at in self.pieces(batch):
            self._take(batch, signals, at.to(batch.y.device, non_blocking=True))

    def _take(self, batch: Batch, signals: Signals, at: Tensor) -> None:
        """Rows that stay take the slots of those that go. How many do is known to the device alone: as many slots are
        written as rows came, and the ones that are not needed are given what they hold."""
        held, coming, columns = len(self), len(at), self.table.columns
        arrival = torch.arange(self.seen, self.seen + coming, device=at.device)
        self.seen += coming
        group = getattr(batch, self.group)[at]
        if held:
            group = torch.cat([columns[self.group][:held], group])
            arrival = torch.cat([columns[EXTRA + ARRIVAL][:held], arrival])
        count = min(self.size, held + coming)
        stays = newest(group, arrival, count)
        slots = _first(F.pad(~stays[:held], (0, count - held), value=True))[:coming]
        rows = _first(stays[held:])
        where = torch.arange(coming, device=at.device) < stays[held:].sum()
        beside = {**self._beside(batch, signals, at[rows]), ARRIVAL: arrival[held:][rows]}
        self.table.put(slots, only(batch, at[rows]), beside, count, where)

    def staying(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The newest of each queue."""
        return newest(rows[self.group], rows[EXTRA + ARRIVAL], self.size).nonzero().squeeze(1)


def newest(group: Tensor, arrival: Tensor, count: int) -> Tensor:
    """`[N]` bool: the `count` rows that stay where every group keeps its newest, all groups equally many.

    Row r of a group, from its newest, goes before row r + 1 of any: as many rows deep as they fit.

    >>> newest(torch.tensor([5, 5, 5, 7]), torch.tensor([0, 1, 2, 3]), 3)
    tensor([False,  True,  True,  True])
    """
    order = arrival.argsort(descending=True)
    order = order[group[order].argsort(stable=True)]  # group by group, the newest first
    place = torch.arange(len(group), device=group.device)
    starts = F.pad(group[order][1:] != group[order][:-1], (1, 0), value=True)
    depth = place - torch.where(starts, place, 0).cummax(0).values
    kept = order[depth.argsort(stable=True)[:count]]
    return torch.zeros_like(group, dtype=torch.bool).index_fill_(0, kept, True)


def _first(wanted: Tensor) -> Tensor:
    """All positions of a mask, those where it is True first, without asking the device how many there are."""
    return wanted.byte().argsort(descending=True, stable=True)
