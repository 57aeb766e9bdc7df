"""The base of regularisers that follow the way on which parameters are learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from clkd.losses.regulariser import Regulariser, Vectors, copied

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student

Which = Literal["task", "total"]


class Path(Regulariser):
    """Tells `moved` of each step that was taken: the gradient g at its begin, and the true change of the parameters.

    g is that of the terms about rows (`task`), or the one that the optimizer was given (`total`): with what all
    regularisers add, projected and clipped. The way ends where the last of these steps led to, `kept["last"]`: what
    moves the student later, such as fusion with past selves, is no part of it, though that is where it is then held.
    """

    def __init__(self, gradient: Which = "task") -> None:
        super().__init__()
        self.gradient = gradient
        self._before: Vectors = {}
        self._gradient: Vectors = {}

    def begin(self, experience: Experience, student: Student) -> None:
        super().begin(experience, student)
        self.kept["last"] = copied(self.parameters_now)

    def after_backward(self, student: Student) -> None:
        self._before = copied(self.parameters_now)
        self._gradient = self._gradients() if self.gradient == "task" else {}

    @torch.no_grad()
    def after_step(self, student: Student) -> None:
        gradient = self._gradient or self._gradients()
        change = {name: parameter.detach() - self._before[name] for name, parameter in self.parameters_now.items()}
        self._before, self._gradient = {}, {}
        self.kept["last"] = copied(self.parameters_now)
        self.moved(gradient, change)

    def moved(self, gradient: Vectors, change: Vectors) -> None:
        """Once a step was taken; parameters without a gradient have none here."""
        raise NotImplementedError

    def _gradients(self) -> Vectors:
        # One that a phase does not train keeps the gradient of an earlier step.
        moving = {name: p for name, p in self.parameters_now.items() if p.requires_grad}
        return copied({name: p.grad for name, p in moving.items() if p.grad is not None})
