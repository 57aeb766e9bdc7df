"""A schedule that is a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from clkd.schedules.base import Progress, Schedule

if TYPE_CHECKING:
    from clkd.signals import Signals


class PerExperience(Schedule):
    """`values[i]` in experience i; past the list's end its last value, or the list again.

    >>> [PerExperience((0.0, 1.0, 0.5))(Progress(experience=i)) for i in range(5)]
    [0.0, 1.0, 0.5, 0.5, 0.5]
    >>> [PerExperience((0.0, 1.0, 0.5), past="repeat")(Progress(experience=i)) for i in range(5)]
    [0.0, 1.0, 0.5, 0.0, 1.0]
    """

    needs_boundaries = True

    def __init__(self, values: tuple[float, ...], past: Literal["last", "repeat"] = "last") -> None:
        self.values, self.past = values, past

    def __call__(self, progress: Progress, signals: Signals | None = None) -> float:
        i, count = progress.experience, len(self.values)
        return self.values[i % count if self.past == "repeat" else min(i, count - 1)]
