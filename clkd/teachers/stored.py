"""What the student said when a row was new, said again whenever the row is replayed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from clkd.errors import UserError
from clkd.signals import Batch, Needs, Signals, Spec
from clkd.teachers.base import Teacher

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student

LOGITS = "logits"
"""Where in `Batch.extra` a memory leaves them."""


class Stored(Teacher):
    """The teacher of Dark Experience Replay: the logits that a memory stored beside its rows.

    Buzzega et al. 2020, "Dark Experience for General Continual Learning: a Strong, Simple Baseline". A row knows the
    classes that had come by its own experience; `known` says which, wherever the student has grown since. About new
    rows it says nothing: they are not `valid`, and their logits are 0.
    """

    partial = True

    def __init__(self, class_names: tuple[str, ...]) -> None:
        self.born = (-1,) * len(class_names)
        self._class_ids = torch.arange(len(class_names))
        self._since = torch.zeros(len(class_names), dtype=torch.long)

    def begin(self, experience: Experience, student: Student) -> None:
        came = dict(zip(student.class_ids, student.born, strict=True))
        device = student.class_ids_tensor.device
        self.born = tuple(came.get(c, -1) for c in range(len(self.born)))
        self._class_ids = self._class_ids.to(device)
        self._since = torch.tensor([sys.maxsize if born < 0 else born for born in self.born], device=device)

    def spec(self, feature: str | None = None) -> Spec:
        return Spec(tuple(range(len(self.born))), self.born)

    def request(self, features: tuple[str, ...]) -> None:
        if features:
            raise UserError(f"a stored teacher has logits, but no features: it cannot say '{features[0]}'")

    def signals(self, batch: Batch, needs: Needs) -> Signals:
        if batch.new == len(batch):
            logits = torch.zeros(len(batch), len(self.born), device=batch.y.device)
        else:
            logits = F.pad(batch.extra[LOGITS], (0, 0, batch.new, 0))
        return Signals(logits, self._class_ids, valid=batch.is_replay, known=self._known(batch))

    def _known(self, batch: Batch) -> torch.Tensor | None:
        """None where no class came after the first experience, so that nothing is masked in domain streams."""
        return self._since <= batch.experience[:, None] if max(self.born) > 0 else None
