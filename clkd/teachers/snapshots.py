"""Past selves: the student as it was at several experiences' ends."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

from clkd.teachers.ensemble import Ensemble
from clkd.teachers.previous import Previous

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class Snapshots(Ensemble):
    """An ensemble of the last `last` past selves (or of all), the oldest first; says nothing in the first experience.

    Each is a frozen copy that travels with a checkpoint, so device memory and checkpoints grow by one student for each
    that is kept. By default a row hears those that know its class, so old selves do not narrow what new ones say.
    """

    def __init__(
        self,
        last: int | None = 3,
        mean: Literal["probabilities", "logits"] = "probabilities",
        by: Literal["weight", "entropy", "class"] = "class",
        of: str = "student",
    ) -> None:
        super().__init__((), {}, mean, None, by)
        self.last, self.of = last, of

    def begin(self, experience: Experience, student: Student) -> None:
        super().begin(experience, student)
        for member in self.members:
            member.begin(experience, student)

    def end(self, experience: Experience, student: Student) -> None:
        newest = Previous()
        newest.end(experience, student)
        self.members = [*self.members, newest][-self.last if self.last else 0 :]

    def fingerprint(self) -> str:
        told = "/".join(member.fingerprint() for member in self.members)
        return hashlib.sha256(told.encode()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Within an experience, selves that are there already take their weights back. Of more than `last`, which a run
        that this one goes on from may have kept, the newest."""
        saved = state.get("members", [])[-self.last if self.last else 0 :]
        if len(self.members) != len(saved):
            self.members = [Previous() for _ in saved]
        for member, each in zip(self.members, saved, strict=True):
            member.load_state_dict(each)
