"""A schedule that follows how much there is to forget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from clkd.schedules.base import Progress, Schedule

if TYPE_CHECKING:
    from clkd.signals import Signals


class OldFraction(Schedule):
    """`value · |old classes| / |classes seen|`, the weight of old knowledge in class-incremental distillation.

    Wu et al. 2019, "Large Scale Incremental Learning" (BiC), λ = n / (n + m). It is 0 in the first experience; where
    later experiences bring no new class (domains, more data), every class is old and it is `value`. With `of:
    experiences` it is what is left of 1 / c in the c-th one, the weight of replay in van de Ven et al. 2022, whatever
    the experiences bring.

    >>> OldFraction()(Progress(old_classes=4, seen_classes=6))
    0.6667
    >>> OldFraction(of="experiences")(Progress(experience=3))
    0.75
    """

    needs_boundaries = True

    def __init__(self, value: float = 1.0, of: Literal["classes", "experiences"] = "classes") -> None:
        self.value, self.of = value, of

    def __call__(self, progress: Progress, signals: Signals | None = None) -> float:
        old, seen = progress.old_classes, progress.seen_classes
        if self.of == "experiences":
            old, seen = progress.experience, progress.experience + 1
        return self.value * old / max(seen, 1)
