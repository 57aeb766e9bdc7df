"""A student that is a member of an ensemble while it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clkd.signals import Batch, Needs, Signals, Spec
from clkd.teachers.base import Teacher

if TYPE_CHECKING:
    from clkd.models.student import Student


class Member(Teacher):
    """Says again what a student has just said in this step, without its gradient: no second forward pass.

    Of a batch that is not the one under way, the student is asked.
    """

    frozen = False

    def __init__(self, student: Student) -> None:
        self.student = student
        self._heard: tuple[Batch, Signals] | None = None

    def hear(self, batch: Batch, said: Signals) -> None:
        """What the student said of a batch, perhaps in a view of its own."""
        self._heard = batch, said.detached()

    def spec(self, feature: str | None = None) -> Spec:
        return self.student.spec(feature)

    def signals(self, batch: Batch, needs: Needs) -> Signals:
        if self._heard and self._heard[0] is batch:
            return self._heard[1]
        with torch.no_grad():
            return self.student.signals(batch.x, needs, batch.domain)
