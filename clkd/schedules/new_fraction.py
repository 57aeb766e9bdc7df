"""What `old_fraction` leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from clkd.schedules.base import Progress, Schedule
from clkd.schedules.old_fraction import OldFraction

if TYPE_CHECKING:
    from clkd.signals import Signals


class NewFraction(Schedule):
    """`value · (1 − |old classes| / |classes seen|)`, the weight of labels beside `old_fraction` in BiC and WA.

    With `of: experiences` it is `value / c` in the c-th one.

    >>> NewFraction()(Progress(old_classes=4, seen_classes=6))
    0.3333
    """

    needs_boundaries = True

    def __init__(self, value: float = 1.0, of: Literal["classes", "experiences"] = "classes") -> None:
        self.value, self.old = value, OldFraction(of=of)

    def __call__(self, progress: Progress, signals: Signals | None = None) -> float:
        return self.value * (1 - self.old(progress, signals))
