"""Synaptic intelligence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.losses.path import Path, Which
from clkd.losses.regulariser import Vectors, copied, zeros

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class SI(Path):
    """`Σ_i Ω_i (θ_i − θ_i*)²`, `Ω ← max(0, Ω + w / (Δ² + ξ))` at each experience's end; the term's weight is c.

    Zenke et al. 2017, "Continual Learning Through Synaptic Intelligence", eq. 3-5: `w = −Σ g · δ` is what each
    parameter contributed to the fall of the loss, over all steps of the experience, δ the true change of the parameter
    in a step, Δ that from the experience's begin to the last of these steps, ξ the damping. g is the gradient without
    any regulariser, as in the authors' code, which also cuts Ω off at 0: where it were negative, the loss would have no
    minimum. Not so where it may be `negative`, as in the code of van de Ven et al. 2022.
    """

    def __init__(self, damping: float = 0.1, gradient: Which = "task", negative: bool = False) -> None:
        super().__init__(gradient)
        self.damping, self.negative = damping, negative
        self.start: Vectors = {}

    def begin(self, experience: Experience, student: Student) -> None:
        super().begin(experience, student)
        self.start = copied(self.parameters_now)
        self.kept["path"] = zeros(self.parameters_now)

    def moved(self, gradient: Vectors, change: Vectors) -> None:
        for name, g in gradient.items():
            self.kept["path"][name] -= g * change[name]

    def end(self, experience: Experience, student: Student) -> None:
        last, path = self.kept.pop("last"), self.kept.pop("path")
        self.consolidate({n: w / ((last[n] - self.start[n]).square() + self.damping) for n, w in path.items()})
        for importance in () if self.negative else self.kept["importance"].values():
            importance.clamp_(min=0)
