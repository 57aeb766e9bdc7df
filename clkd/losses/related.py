"""The base of losses that compare how the rows of a batch relate to each other."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from clkd.losses.aligner import averaged
from clkd.losses.base import Loss, full_precision
from clkd.losses.taps import TAP, taps_of
from clkd.signals import Batch, Needs, Signals, Spec

Blocks = list[tuple[Tensor, Tensor]]


class Related(Loss):
    """Works on the layer that `between` names, on the penultimate one if it names none.

    New and replayed rows are related among themselves only, unless `mix` is set: the shift between the two would
    otherwise be what is distilled.
    """

    needs: ClassVar[Needs] = Needs(logits=False, features=(TAP,))

    def __init__(self, mix: bool = False) -> None:
        super().__init__()
        self.mix = mix
        self.taps = TAP, TAP

    def bind(self, a: Spec, b: Spec | None) -> None:
        assert b is not None, f"{type(self).__name__.lower()} has two sides"
        self.taps = taps_of(a, b)

    def vectors(self, batch: Batch, a: Signals, b: Signals | None) -> Blocks:
        """Student and teacher for each block of rows, `[n, D]` and `[n, E]`; maps are averaged over positions."""
        f, g = self._sides(a, b)
        return self.blocks(batch, averaged(f, ()), averaged(g, ()))

    def activations(self, batch: Batch, a: Signals, b: Signals | None) -> Blocks:
        """The same with maps laid out as vectors, `[n, D·H·W]`."""
        f, g = self._sides(a, b)
        return self.blocks(batch, f.flatten(1), g.flatten(1))

    def _sides(self, a: Signals, b: Signals | None) -> tuple[Tensor, Tensor]:
        assert b is not None, f"{type(self).__name__.lower()} has two sides"
        return full_precision(a.features[self.taps[0]]), full_precision(b.features[self.taps[1]]).detach()

    def blocks(self, batch: Batch, f: Tensor, g: Tensor) -> Blocks:
        """The rows that are related to each other."""
        sizes = [len(f)] if self.mix else [batch.new, len(f) - batch.new]
        return list(zip(torch.split(f, sizes), torch.split(g, sizes), strict=True))


def pairs_of(blocks: Blocks) -> int:
    """How many ordered pairs there are, rows with themselves included; at least 1."""
    return max(sum(len(f) ** 2 for f, _ in blocks), 1)
