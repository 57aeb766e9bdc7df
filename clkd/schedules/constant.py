"""A schedule that stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.schedules.base import Progress, Schedule

if TYPE_CHECKING:
    from clkd.signals import Signals


class Constant(Schedule):
    """`value`, always.

    >>> Constant(0.5)(Progress())
    0.5
    """

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def __call__(self, progress: Progress, signals: Signals | None = None) -> float:
        return self.value
