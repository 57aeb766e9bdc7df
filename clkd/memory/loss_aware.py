"""A reservoir that lets go of what has been learned."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from clkd.memory.offered import Offered, only
from clkd.memory.table import EXTRA
from clkd.signals import Batch, Needs, Signals, confined

if TYPE_CHECKING:
    pass

LOSS, SLOT = "loss", "slot"
LOSS_BYTES = 4


class LossAware(Offered):
    """A row gets in as into a reservoir; the row that it replaces is drawn among those with a low loss.

    Buzzega et al. 2020, "Rethinking Experience Replay: a Bag of Tricks for Continual Learning" (loss-aware
    reservoir sampling). Row t (from 0) gets in with probability `size / (t + 1)`. A kept row goes with probability in
    proportion to `(highest loss - own loss)`, so that the row with the highest loss stays. Losses are the student's
    cross-entropy, all columns of its head competing (those of the row's own task, where the student is told it), at the
    latest time that it saw the row: when the row was new, or in the first epoch of an experience that replayed it.

    Rows that get in with one batch replace different ones. Nothing waits for the device.
    """

    compares: ClassVar[bool] = True
    purpose: ClassVar[str] = "loss_aware"
    own_bytes: ClassVar[int] = LOSS_BYTES
    reads: ClassVar[Needs | None] = Needs()

    def sample(self, n: int, generator: torch.Generator) -> Batch | None:
        """With the slot of each row, so that its loss finds its place."""
        at = self.table.draw(n, generator)
        if at is None:
            return None
        rows = self.table.read(at)
        return replace(rows, extra={**rows.extra, SLOT: at.to(self.table.device, non_blocking=True)})

    def observe(self, batch: Batch, signals: Signals) -> None:
        assert signals.logits is not None, "`needs` asks for logits"
        logits = confined(signals.logits.detach(), signals.competes)
        loss = row_losses(logits, signals.class_ids, batch.y)
        if SLOT in batch.extra:
            # Two draws may have brought the same row, so that which of its two losses stays must not be left to chance.
            kept = self.table.columns[EXTRA + LOSS]
            kept.scatter_reduce_(0, batch.extra[SLOT], loss[batch.new :], "amax", include_self=False)
        for at in torch.split(self._entering(batch.new), self.size):
            room = min(self.size - len(self), len(at))
            free = torch.arange(len(self), len(self) + room)
            self._keep(batch, signals, at[:room], free.to(self.table.device, non_blocking=True), loss)
            if room < len(at):
                self._keep(batch, signals, at[room:], self._leaving(len(at) - room), loss)

    def _entering(self, arriving: int) -> Tensor:
        """Positions of the rows that a reservoir would take."""
        t = torch.arange(self.seen, self.seen + arriving)
        self.seen += arriving
        drawn = torch.rand(arriving, generator=self.draws, dtype=torch.float64) * (t + 1)
        return (drawn < self.size).nonzero().squeeze(1)

    def _leaving(self, n: int) -> Tensor:
        """`n` different slots of a full table, each next one drawn by its weight among those left."""
        loss = self.table.columns[EXTRA + LOSS]
        uniform = torch.rand(self.size, generator=self.draws).to(loss.device, non_blocking=True)
        return drawn_by(expendable(loss), uniform, n)

    def _keep(self, batch: Batch, signals: Signals, rows: Tensor, slots: Tensor, loss: Tensor) -> None:
        if len(rows):
            at = rows.to(batch.y.device, non_blocking=True)
            count = min(len(self) + len(rows), self.size)
            beside = {**self._beside(batch, signals, at), LOSS: loss[at]}
            self.table.put(slots, only(batch, at), beside, count)


def row_losses(logits: Tensor, class_ids: Tensor, y: Tensor) -> Tensor:
    """`[B]` float32 cross-entropy over all columns; 0 for a row whose class has none.

    >>> row_losses(torch.zeros(2, 2), torch.tensor([7, 3]), torch.tensor([3, -1]))
    tensor([0.6931, 0.0000])
    """
    own = y[:, None] == class_ids
    return logits.float().log_softmax(1).neg().masked_fill(~own, 0.0).sum(1)


def expendable(loss: Tensor) -> Tensor:
    """`[n]` weights: 0 for the row with the highest loss, 1 for that with the lowest; 1 for all where all are alike.

    >>> expendable(torch.tensor([0.0, 1.0, 4.0])).tolist()
    [1.0, 0.75, 0.0]
    """
    spread = loss.max() - loss.min()
    return torch.where(spread > 0, (loss.max() - loss) / spread, 1.0)


def drawn_by(weight: Tensor, uniform: Tensor, n: int) -> Tensor:
    """`[n]` different positions, as if drawn one after another with probabilities in proportion to `weight`.

    Efraimidis and Spirakis 2006, "Weighted Random Sampling with a Reservoir": those with the largest `u ** (1 / w)`.
    `uniform` has one number from [0, 1) for each. Rows of weight 0 come last.
    """
    return (uniform.log() / weight).topk(n).indices
