"""What the student said when a row was new, said again whenever the row is replayed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.signals import Batch, Needs, Signals, Spec
from clkd.teachers.base import Teacher

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student

LOGITS = "logits"
"""Where in `Batch.extra` a memory leaves them; a feature lies there under its tap's name."""


class Stored(Teacher):
    """The teacher of Dark Experience Replay: the logits, and features, that a memory stored beside its rows.

    Buzzega et al. 2020, "Dark Experience for General Continual Learning: a Strong, Simple Baseline". A row knows the
    classes that had come by its own experience; `known` says which, wherever the student has grown since. With
    `classes: all` it knows every column, as in the paper, whose head has all classes from the start. About new rows it
    says nothing: they are not `valid`, and their logits and features are 0.
    """

    contract_optouts: ClassVar[dict[str, str]] = {
        "honest": "what was stored of a row is about that very row, whatever its label"
    }
    partial = True
    needs_boundaries = False
    """It only looks up which classes have come."""

    def __init__(self, class_names: tuple[str, ...], classes: Literal["known", "all"] = "known") -> None:
        self.classes = classes
        self.born = (-1,) * len(class_names)
        self._gaps = False
        """Whether the student has columns that a row may know nothing of."""
        self._shapes: dict[str, tuple[int, ...] | None] = {}
        self._class_ids = torch.arange(len(class_names))
        self._since = torch.zeros(len(class_names), dtype=torch.long)

    def begin(self, experience: Experience, student: Student) -> None:
        came = dict(zip(student.class_ids, student.born, strict=True))
        device = student.class_ids_tensor.device
        self.born = tuple(came.get(c, -1) for c in range(len(self.born)))
        self._gaps = self.classes == "known" and (max(self.born) > 0 or min(student.born, default=0) < 0)
        self._class_ids = self._class_ids.to(device)
        self._shapes = {name: student.spec(name).shape for name in self._shapes}
        self._since = torch.tensor([sys.maxsize if born < 0 else born for born in self.born], device=device)

    def spec(self, feature: str | None = None) -> Spec:
        shape = None if feature is None else self._shapes.get(feature)
        return Spec(tuple(range(len(self.born))), self.born, feature=feature, shape=shape)

    def request(self, features: tuple[str, ...]) -> None:
        self._shapes = dict.fromkeys(features)

    def signals(self, batch: Batch, needs: Needs) -> Signals:
        logits = self._padded(batch, LOGITS, (len(self.born),)) if needs.logits else None
        features = {name: self._padded(batch, name, self._shapes[name] or ()) for name in needs.features}
        told = batch.y >= 0  # nobody knows the class of the others
        if batch.new:
            told[: batch.new] = False
        return Signals(logits, self._class_ids, features, valid=told, known=self._known(batch))

    def _padded(self, batch: Batch, name: str, shape: tuple[int, ...]) -> Tensor:
        """What lies beside the replayed rows, and zeros for the new ones."""
        if batch.new == len(batch):
            return torch.zeros(len(batch), *shape, device=batch.y.device)
        kept = batch.extra[name]
        return kept if not batch.new else F.pad(kept, (0, 0) * (kept.dim() - 1) + (batch.new, 0))

    def _known(self, batch: Batch) -> Tensor | None:
        """None where every row knows all that the student has columns for, as in domain streams."""
        return self._since <= batch.experience[:, None] if self._gaps else None
