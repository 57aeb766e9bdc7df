"""Several teachers that speak as one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from clkd.errors import UserError
from clkd.signals import Batch, Needs, Signals, Spec
from clkd.teachers.base import Teacher

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class Ensemble(Teacher):
    """The mean of its members' probabilities (given as their logarithm) or logits, over the classes all of them know.

    Members that are not ready yet stay silent; the ensemble is ready with its first ready member.
    """

    def __init__(
        self,
        members: tuple[str, ...],
        teachers: Mapping[str, Teacher],
        mean: Literal["probabilities", "logits"] = "probabilities",
    ) -> None:
        for name in members:
            if teachers[name].partial:
                raise UserError(f"members: '{name}' does not know all its classes of every row: it cannot be averaged")
        self.members = [teachers[name] for name in members]
        self.mean = mean
        self._columns: list[Tensor] = []
        self._class_ids: Tensor | None = None

    @property
    def ready(self) -> bool:
        return any(member.ready for member in self.members)

    def begin(self, experience: Experience, student: Student) -> None:
        """Who speaks, and with which columns, is settled when the experience's first batch comes."""
        self._columns, self._class_ids = [], None

    def spec(self, feature: str | None = None) -> Spec:
        if feature is not None:
            raise UserError(
                f"an ensemble has no features, so '{feature}' cannot be read of it: name one of its members"
            )
        first, *rest = [member.spec() for member in self._speakers()]
        common = [c for c in first.class_ids if all(c in other.class_ids for other in rest)]
        if not common:
            raise UserError("the members of the ensemble share no class: there is nothing they could say together")
        born = dict(zip(first.class_ids, first.born, strict=True))
        return Spec(class_ids=tuple(common), born=tuple(born[c] for c in common))

    def signals(self, batch: Batch, needs: Needs) -> Signals:
        class_ids = self._settle(batch.y.device)
        said = [
            _logits(member, batch).index_select(1, columns)
            for member, columns in zip(self._speakers(), self._columns, strict=True)
        ]
        return Signals(self._average(torch.stack(said)), class_ids, {}, torch.isin(batch.y, class_ids))

    def _settle(self, device: torch.device) -> Tensor:
        if self._class_ids is None:
            common = self.spec().class_ids
            self._class_ids = torch.tensor(common, device=device)
            for member in self._speakers():
                place = {c: i for i, c in enumerate(member.spec().class_ids)}
                self._columns.append(torch.tensor([place[c] for c in common], device=device))
        return self._class_ids

    def _average(self, logits: Tensor) -> Tensor:
        """`[members, B, C]` → `[B, C]`."""
        if self.mean == "logits":
            return logits.mean(0)
        return torch.logsumexp(torch.log_softmax(logits, -1), 0) - math.log(len(logits))

    def _speakers(self) -> list[Teacher]:
        return [member for member in self.members if member.ready]


def _logits(member: Teacher, batch: Batch) -> Tensor:
    logits = member.signals(batch, Needs()).logits
    assert logits is not None, "logits were asked for"
    return logits.float()
