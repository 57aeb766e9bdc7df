"""The student as it was when a phase began: what a phase is not to undo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.teachers.network import Snapshot

if TYPE_CHECKING:
    from clkd.models.student import Student


class BeforePhase(Snapshot):
    """A frozen copy of the student, taken where a phase begins and gone where it ends; at other times it says nothing.

    Castro et al. 2018, "End-to-End Incremental Learning" (EEIL): fine-tuning on balanced rows distils what the outputs
    of new classes were before it, lest it forget what the many rows that are left out of it had taught.
    """

    def begin_phase(self, student: Student) -> None:
        copy = student.frozen_copy()
        if self._saved:  # a run that was stopped within the phase
            self._fill(copy, self._saved)
        self.network, self._saved = copy, {}

    def end_phase(self) -> None:
        self.network = None
