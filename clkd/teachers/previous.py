"""The previous self: the student as it was when the last experience ended (Li & Hoiem 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.teachers.network import Snapshot

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class Previous(Snapshot):
    """A frozen copy of the student, or of its peer `of`, taken at each experience's end.

    It says nothing in the first experience.
    """

    def __init__(self, of: str = "student") -> None:
        super().__init__()
        self.of = of

    def end(self, experience: Experience, student: Student) -> None:
        super().end(experience, student)
        self.network = student.frozen_copy()
