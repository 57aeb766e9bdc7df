"""A schedule that follows how much more there is of old than of new."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Literal

from clkd.schedules.base import Progress, Schedule

if TYPE_CHECKING:
    from clkd.signals import Signals


class Imbalance(Schedule):
    """`value · √(n / |new classes|)`, n the `old` classes or those `seen`.

    `old` is LUCIR's (Hou et al. 2019, §3.3; as in the authors' code, since the paper prints the fraction upside down),
    `seen` PODNet's (Douillard et al. 2020, §4). Where an experience brings no new class it counts as bringing one.

    >>> Imbalance(5)(Progress(old_classes=8, seen_classes=10)), Imbalance(5, of="seen")(Progress())
    (10.0, 5.0)
    """

    needs_boundaries = True

    def __init__(self, value: float = 1.0, of: Literal["old", "seen"] = "old") -> None:
        self.value, self.of = value, of

    def __call__(self, progress: Progress, signals: Signals | None = None) -> float:
        old, seen = progress.old_classes, progress.seen_classes
        return self.value * sqrt((old if self.of == "old" else seen) / max(seen - old, 1))
