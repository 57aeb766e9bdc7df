"""Schedules that go from one value to another, and how far they have come."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from clkd.schedules.base import Progress, Schedule

if TYPE_CHECKING:
    from clkd.signals import Signals


class Ramp(Schedule):
    """From `start` to `end` along `shape`, then it stays.

    The length is given in `epochs` or `steps`, counted anew in every experience, or in `experiences`, counted over the
    whole stream; by default it is the whole experience.
    """

    def __init__(
        self,
        start: float,
        end: float,
        epochs: float | None = None,
        steps: int | None = None,
        experiences: float | None = None,
    ) -> None:
        self.start, self.end = start, end
        self.epochs, self.steps, self.experiences = epochs, steps, experiences

    @property
    def needs_boundaries(self) -> bool:
        """Unless it is one way over the whole stream, it begins anew in each experience."""
        return self.experiences is None

    def __call__(self, progress: Progress, signals: Signals | None = None) -> float:
        return self.start + (self.end - self.start) * self.shape(self._share(progress))

    def shape(self, share: float) -> float:
        """What part of the way is made once this share of the length is over; both from 0 to 1."""
        raise NotImplementedError

    def _share(self, progress: Progress) -> float:
        if self.experiences is not None:
            within = 1.0 if progress.phase else progress.experience_step / progress.experience_steps
            return min(1.0, (progress.experience + within) / self.experiences)
        return min(1.0, progress.experience_step / self._length(progress))

    def _length(self, progress: Progress) -> float:
        if self.steps is not None:
            return self.steps
        return progress.experience_steps if self.epochs is None else self.epochs * progress.epoch_steps


class Linear(Ramp):
    """`start + (end − start) · s`, a straight line, s = min(1, t / length).

    >>> fall = Linear(start=4.0, end=1.0, steps=3)
    >>> [fall(Progress(epoch_step=t, epoch_steps=10)) for t in (0, 1, 3, 9)]
    [4.0, 3.0, 1.0, 1.0]
    >>> Linear(start=0.0, end=1.0, experiences=4)(Progress(experience=2, epoch_step=5, epoch_steps=10))
    0.625
    """

    def shape(self, share: float) -> float:
        return share


class Cosine(Ramp):
    """`start + (end − start) · (1 − cos πs) / 2`, s = min(1, t / length): slow at both ends.

    Loshchilov & Hutter 2017, "SGDR", eq. 5, without restarts within an experience.

    >>> fall = Cosine(start=1.0, end=0.0, steps=4)
    >>> [round(fall(Progress(epoch_step=t, epoch_steps=10)), 4) for t in (0, 1, 2, 4, 9)]
    [1.0, 0.8536, 0.5, 0.0, 0.0]
    """

    def shape(self, share: float) -> float:
        return (1.0 - math.cos(math.pi * share)) / 2.0
