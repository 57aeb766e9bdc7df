"""What a memory keeps beside its rows of what the student said about them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.memory.table import EXTRA
from clkd.signals import Batch, Needs, Signals, by_class

if TYPE_CHECKING:
    from clkd.models.student import Student

LOGITS = "logits"
"""What `store` calls the student's logits; its other words are taps."""
VIEW = 8
"""Bytes of a view's number."""


class Beside:
    """The student's logits by global class id (`extra["logits"]`, `[n, classes]` float32), its features under their
    tap's name (float32), and the number of the fixed view that both are about (`extra["view"]`).

    Classes that the student had no column for are 0: those are the ones born after the row's own experience.

    Args:
        store: `logits`, names of taps.
        class_names: of the data set, for logits.
        student: knows the shapes of its features, for a size in bytes.
    """

    def __init__(self, store: Collection[str], class_names: tuple[str, ...], student: Student | None = None) -> None:
        self.store = tuple(dict.fromkeys(store))
        self.classes = len(class_names)
        self._student = student

    def needs(self) -> Needs | None:
        """What it reads of the student; None for nothing."""
        taps = tuple(name for name in self.store if name != LOGITS)
        return Needs(LOGITS in self.store, taps) if self.store else None

    def nbytes(self) -> int:
        """Bytes beside each row."""
        student = self._student
        assert student is not None or self.store in ((), (LOGITS,)), "the engine offers it"
        widths = (
            self.classes if name == LOGITS or student is None else math.prod(student.spec(name).shape or ())
            for name in self.store
        )
        return 4 * sum(widths) + VIEW if self.store else 0

    def of(self, batch: Batch, signals: Signals, at: Tensor) -> dict[str, Tensor]:
        """What is kept beside the rows at positions `at`."""
        kept: dict[str, Tensor] = {}
        for name in self.store:
            said = signals.logits if name == LOGITS else signals.features[name]
            assert said is not None, "the memory's `needs` asks for logits"
            rows = said.detach()[at].float()
            kept[name] = by_class(rows, signals.class_ids, self.classes) if name == LOGITS else rows
        if kept and batch.view is not None:
            kept["view"] = batch.view[at]
        return kept

    @torch.no_grad()
    def asked(self, seen: Batch, student: Student) -> dict[str, Tensor]:
        """The same of all rows of a batch, of which the student says in eval mode what it thinks now."""
        needs = self.needs()
        if needs is None:
            return {}
        with student.teaching():
            said = student.signals(seen.x, needs, seen.domain)
        return self.of(seen, said, torch.arange(len(seen), device=seen.y.device))

    def fitting(self, table: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A table's state with a column for each class that there is now, 0 where it knew fewer."""
        rows, name = dict(table), EXTRA + LOGITS
        if name in rows:
            rows[name] = F.pad(rows[name], (0, max(self.classes - rows[name].shape[1], 0)))
        return rows
