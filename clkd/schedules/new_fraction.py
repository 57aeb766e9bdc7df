"""What `old_fraction` leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.schedules.base import Progress, Schedule

if TYPE_CHECKING:
    from clkd.signals import Signals


class NewFraction(Schedule):
    """`value · (1 − |old classes| / |classes seen|)`, the weight of labels beside `old_fraction` in BiC and WA.

    >>> NewFraction()(Progress(old_classes=4, seen_classes=6))
    0.3333
    """

    needs_boundaries = True

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def __call__(self, progress: Progress, signals: Signals | None = None) -> float:
        return self.value * (1 - progress.old_classes / max(progress.seen_classes, 1))
