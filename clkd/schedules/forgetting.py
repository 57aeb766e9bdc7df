"""A schedule that follows how much was forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.schedules.base import Progress, Schedule

if TYPE_CHECKING:
    from clkd.signals import Signals


class Forgetting(Schedule):
    """`value · (1 + gain · F)`, F the forgetting before this experience, measured on validation rows.

    F is the mean over earlier experiences of the best accuracy that was ever reached on their validation rows, minus
    the latest (Chaudhry et al. 2018, "Riemannian Walk", §4). It moves only from one experience to the next, and is 0 in
    the first two, before which nothing can have been forgotten.

    >>> Forgetting(value=0.5, gain=4.0)(Progress(forgetting=0.25))
    1.0
    """

    needs_boundaries = True

    def __init__(self, value: float = 1.0, gain: float = 1.0) -> None:
        self.value, self.gain = value, gain

    def __call__(self, progress: Progress, signals: Signals | None = None) -> float:
        return self.value * (1.0 + self.gain * progress.forgetting)
