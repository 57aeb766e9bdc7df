"""An even sample of everything seen."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from clkd.memory.offered import Offered, only
from clkd.signals import Batch, Signals

if TYPE_CHECKING:
    from clkd.context import Context
    from clkd.models.student import Student


class Reservoir(Offered):
    """Keeps `size` rows such that each row seen so far is kept with the same probability, `size / seen`.

    Vitter 1985, "Random Sampling with a Reservoir", algorithm R: row t (from 0) takes slot t while there is room, and
    after that a slot drawn evenly from 0 … t, if there is such a slot. Each row draws one number from the memory's own
    generator, so the outcome does not depend on how rows come in batches.

    Rows without a label are not offered to it, unless `unlabelled`: then they count and are kept like any other.
    """

    purpose: ClassVar[str] = "reservoir"

    def __init__(
        self,
        size: int | str = 500,
        seed: int = 0,
        device: torch.device | str = "cpu",
        store: Collection[str] = (),
        class_names: tuple[str, ...] = (),
        context: Context | None = None,
        student: Student | None = None,
        rewrite: float | None = None,
        epochs: Literal["first", "all"] = "first",
        unlabelled: bool = False,
    ) -> None:
        super().__init__(size, seed, device, store, class_names, context, student, rewrite, epochs)
        self.unlabelled = unlabelled

    def observe(self, batch: Batch, signals: Signals) -> None:
        slots, rows = self._places(batch.new)
        if not len(rows):
            return
        at = rows.to(batch.y.device, non_blocking=True)
        self.table.write(slots, only(batch, at), self._beside(batch, signals, at))

    def _places(self, arriving: int) -> tuple[Tensor, Tensor]:
        """Which of the arriving rows stay, and in which slots (each slot once)."""
        t = torch.arange(self.seen, self.seen + arriving)
        self.seen += arriving
        drawn = (torch.rand(arriving, generator=self.draws, dtype=torch.float64) * (t + 1)).long()
        if self.seen - arriving < self.size:
            drawn = torch.where(t < self.size, t, drawn)
        # The loop is for few numbers, and quicker than as many calls of torch as it would take.
        stays = {row: slot for row, slot in enumerate(drawn.tolist()) if slot < self.size}
        if len(self.table) < min(self.seen - arriving, self.size):
            stays = dict(zip(stays, self._next_free(stays.values()), strict=True))
        last = {slot: row for row, slot in stays.items()}  # a later row takes an earlier one's slot
        return torch.tensor(list(last), dtype=torch.long), torch.tensor(list(last.values()), dtype=torch.long)

    def _next_free(self, slots: Iterable[int]) -> list[int]:
        """A memory that became larger has empty slots after the filled ones: rows for any of them take the next."""
        count, found = len(self.table), []
        for slot in slots:
            found.append(min(slot, count))
            count += slot >= count
        return found
