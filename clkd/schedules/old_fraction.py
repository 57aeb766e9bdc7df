"""A schedule that follows how much there is to forget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.schedules.base import Progress, Schedule

if TYPE_CHECKING:
    from clkd.signals import Signals


class OldFraction(Schedule):
    """`value · |old classes| / |classes seen|`, the weight of old knowledge in class-incremental distillation.

    Wu et al. 2019, "Large Scale Incremental Learning" (BiC), λ = n / (n + m). It is 0 in the first experience; where
    later experiences bring no new class (domains, more data), every class is old and it is `value`.

    >>> OldFraction()(Progress(old_classes=4, seen_classes=6))
    0.6667
    """

    needs_boundaries = True

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def __call__(self, progress: Progress, signals: Signals | None = None) -> float:
        return self.value * progress.old_classes / max(progress.seen_classes, 1)
