"""Rows whose gradients point in different directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.memory.loss_aware import drawn_by
from clkd.memory.offered import Offered, only
from clkd.memory.table import EXTRA
from clkd.signals import Batch, Needs, Signals, confined

if TYPE_CHECKING:
    pass

SCORE = "score"
"""The extra column: 1 + the largest cosine between a row's gradient and others', when it came; from 0 to 2."""
SCORE_BYTES = 4
PENULTIMATE = "penultimate"
FIRST = 0.1
"""The cosine of rows that came when there was nothing to compare them with, as in the authors' code."""


class GSS(Offered):
    """Greedy gradient-based selection: keeps a set of rows whose gradients are as unlike as can be.

    Aljundi et al. 2019, "Gradient based sample selection for online continual learning", algorithm 2 (GSS-Greedy). A
    row's score c is 1 + the largest cosine between its gradient and those of some kept rows. While there is room, all
    rows are kept. Then a row with c < 1 meets a kept row i, drawn in proportion to its score, and takes its place with
    probability `c_i / (c_i + c)`.

    The kept rows that a step's new rows are compared with are those that the step replays, which are drawn evenly: what
    the student says about them is at hand. The rows of one batch meet different kept rows. Gradients are those of the
    cross-entropy in the head's weight and bias, `(softmax(z) - onehot(y)) ⊗ [φ, 1]`: the cosine of two of them is the
    product of two cosines, so no gradient is ever made; where the student is told a row's task, its classes alone
    compete. Nothing waits for the device.
    """

    compares: ClassVar[bool] = True
    purpose: ClassVar[str] = "gss"
    own_bytes: ClassVar[int] = SCORE_BYTES
    reads: ClassVar[Needs | None] = Needs(features=(PENULTIMATE,))

    def observe(self, batch: Batch, signals: Signals) -> None:
        cosines = likeness(signals, batch.y)[: batch.new, batch.new :]
        score = 1 + (cosines.amax(1) if cosines.shape[1] else cosines.new_full((batch.new,), FIRST))
        for at in self.pieces(batch):
            room = min(self.size - len(self), len(at))
            if room:
                slots = torch.arange(len(self), len(self) + room).to(self.table.device, non_blocking=True)
                self._keep(batch, signals, at[:room], slots, score, None)
            if room < len(at):
                self._meet(batch, signals, at[room:], score)

    def _meet(self, batch: Batch, signals: Signals, rows: Tensor, score: Tensor) -> None:
        """Let rows that come to a full table replace others."""
        kept = self.table.columns[EXTRA + SCORE]
        draws = torch.rand(self.size + len(rows), generator=self.draws).to(kept.device, non_blocking=True)
        slots = drawn_by(kept, draws[: self.size], len(rows))
        theirs, own = kept[slots], score[rows.to(score.device, non_blocking=True)]
        wins = (own < 1) & (draws[self.size :] * (theirs + own) < theirs)
        self._keep(batch, signals, rows, slots, score, wins)

    def _keep(
        self, batch: Batch, signals: Signals, rows: Tensor, slots: Tensor, score: Tensor, where: Tensor | None
    ) -> None:
        at = rows.to(batch.y.device, non_blocking=True)
        count = min(len(self) + len(rows), self.size)
        self.table.put(slots, only(batch, at), {**self._beside(batch, signals, at), SCORE: score[at]}, count, where)


def likeness(signals: Signals, y: Tensor) -> Tensor:
    """`[B, B]` cosines between the rows' gradients in the last layer."""
    assert signals.logits is not None, "`needs` asks for logits"
    own = (y[:, None] == signals.class_ids).float()
    p = confined(signals.logits.detach().float(), signals.competes).softmax(1)
    error = F.normalize(p - own, dim=1)
    feature = F.normalize(F.pad(signals.features[PENULTIMATE].detach().float(), (0, 1), value=1.0), dim=1)
    return (error @ error.T) * (feature @ feature.T)
