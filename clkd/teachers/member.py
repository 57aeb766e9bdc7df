"""A student that is a member of an ensemble while it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.signals import Batch, Needs, Signals, Spec
from clkd.teachers.base import Teacher

if TYPE_CHECKING:
    from clkd.models.student import Student


class Member(Teacher):
    """Says again what a student has just said in this step, without its gradient: no second forward pass.

    Attributes:
        said: of the batch under way, in training mode and in the student's own view; set in each step.
    """

    frozen = False

    def __init__(self, student: Student) -> None:
        self.student = student
        self.said: Signals | None = None

    def spec(self, feature: str | None = None) -> Spec:
        return self.student.spec(feature)

    def signals(self, batch: Batch, needs: Needs) -> Signals:
        assert self.said is not None, "asked before the student has spoken"
        return self.said
