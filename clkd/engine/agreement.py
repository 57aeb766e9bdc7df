"""Where a teacher and the student say the same, and who of them is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.errors import UserError
from clkd.losses.base import common_columns, logits_of
from clkd.losses.divergence import kd_rows
from clkd.signals import Batch, Signals, Spec, confined

FEWEST = 2
"""Classes that both have to know: of one, everybody says the same."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comparing a teacher with the student says of some rows, `[B]` each.

    Attributes:
        counts: whether the row is compared at all: both know its class, and the teacher speaks of it.
        agreed: both name the same class.
        right: the teacher names the row's.
        kl: KL(teacher ‖ student) in nats.
    """

    counts: Tensor
    agreed: Tensor
    right: Tensor
    kl: Tensor


class Agreement:
    """Compares a teacher with the student over the classes that both know.

    Args:
        student, teacher: as they are at an experience's end.
        classes: how many global class ids there are.

    Raises:
        UserError: they share fewer than two classes.
    """

    def __init__(self, student: Spec, teacher: Spec, classes: int, device: torch.device) -> None:
        at_student, at_teacher = common_columns(student, teacher)
        shared = [student.class_ids[i] for i in at_student.tolist()]
        if len(shared) < FEWEST:
            told = f"only class {shared[0]}" if shared else "no class"
            raise UserError(f"it shares {told} with the student, and comparing answers takes two")
        self.class_ids = torch.tensor(shared, device=device)
        self.at_student, self.at_teacher = at_student.to(device), at_teacher.to(device)
        self.place = torch.full((classes,), -1, device=device)
        self.place[self.class_ids] = torch.arange(len(shared), device=device)

    def __call__(self, batch: Batch, said: Signals, heard: Signals, task: Tensor | None = None) -> Verdict:
        """What student (`said`) and teacher (`heard`) made of `batch`; `task` holds the only classes that compete.

        Raises:
            UserError: the teacher gives no logits, or dense ones.
        """
        if heard.logits is None or heard.logits.dim() != 2:
            raise UserError("it gives no logits, or dense ones, which a report does not compare")
        known = self._known(heard, task, len(batch))
        z = logits_of(said).index_select(1, self.at_student)
        v = logits_of(heard).index_select(1, self.at_teacher)
        target = self.place[batch.y]
        counts = (target >= 0) & known.gather(1, target.clamp(min=0)[:, None]).squeeze(1) & (known.sum(1) >= FEWEST)
        counts = counts if heard.valid is None else counts & heard.valid
        ours, theirs = (confined(x, known).argmax(1) for x in (z, v))
        return Verdict(counts, ours == theirs, theirs == target, kd_rows(z, v, 1.0, known=known))

    def _known(self, heard: Signals, task: Tensor | None, rows: int) -> Tensor:
        """`[B, K]` bool: which of the shared classes compete in which row."""
        competes = torch.isin(self.class_ids, self.class_ids if task is None else task)
        if heard.known is None:
            return competes.expand(rows, -1)
        return heard.known.index_select(1, self.at_teacher) & competes


class Tally:
    """Sums of `[B]` columns, class by class."""

    def __init__(self, names: tuple[str, ...], classes: int, device: torch.device) -> None:
        self.names = names
        self.sums = torch.zeros(len(names), classes, dtype=torch.float64, device=device)

    def add(self, y: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Every column by name. (A product sums in the same order on every device, where scattering need not.)"""
        rows = torch.stack([columns[name].double() for name in self.names])
        self.sums += rows @ F.one_hot(y, self.sums.shape[1]).double()


@dataclass(frozen=True, slots=True)
class Answers:
    """Where the student is right now, and what became of it, `[B]` bool each.

    Attributes:
        gained, lost: wrong before and right now, and the reverse.
    """

    right: Tensor
    gained: Tensor
    lost: Tensor

    @classmethod
    def since(cls, before: Tensor | None, now: Tensor, old: Tensor) -> Answers:
        """`old` are rows of classes that the student knew before: no other can have changed sides."""
        before = now if before is None else torch.where(old, before, now)
        return cls(now, now & ~before, before & ~now)
