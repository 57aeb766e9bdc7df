"""A schedule that rises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.schedules.base import Progress, Schedule

if TYPE_CHECKING:
    from clkd.signals import Signals


class Warmup(Schedule):
    """`value · min(1, t / length)`, t the steps taken in this experience: 0 at its first step, and anew in each.

    The length is given in `epochs` or `steps`; by default it is the whole experience.

    >>> rise = Warmup(value=2.0, steps=4)
    >>> [rise(Progress(epoch_step=t, epoch_steps=10)) for t in (0, 1, 4, 9)]
    [0.0, 0.5, 2.0, 2.0]
    """

    def __init__(self, value: float = 1.0, epochs: float | None = None, steps: int | None = None) -> None:
        self.value, self.epochs, self.steps = value, epochs, steps

    def __call__(self, progress: Progress, signals: Signals | None = None) -> float:
        return self.value * min(1.0, progress.experience_step / self._length(progress))

    def _length(self, progress: Progress) -> float:
        if self.steps is not None:
            return self.steps
        return progress.experience_steps if self.epochs is None else self.epochs * progress.epoch_steps
