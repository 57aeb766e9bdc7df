"""Learning from labels."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.errors import UserError
from clkd.losses.base import Loss, among, is_prefix, logits_of, take
from clkd.signals import Batch, Signals, Spec

if TYPE_CHECKING:
    from collections.abc import Set

    from clkd.experience import Experience
    from clkd.models.student import Student

IGNORE = -100
"""The target of a row that does not take part; PyTorch's own word for it."""


class CrossEntropy(Loss):
    """`-log softmax(z)_y` over the classes that compete; unlabelled rows (`y` -1) do not take part.

    A row whose class is not among the competing ones is left out, and the mean is over the others; so `over: new`
    trains new classes only, whatever is replayed, and `over: old` those of the past alone. With `over: batch` those
    compete that are a label of the rows which the term is about (of `student@new`: Caccia et al. 2022, "ER-ACE").
    Values come as `[B]`, scaled so that their mean is that mean; of a batch without any label it is 0, with the
    gradient 0. A row that is mixed of two has `λ·CE(own label) + (1 − λ)·CE(other label)` (Zhang et al. 2018, section
    2), and takes part if both labels do.

    >>> from clkd.signals import Batch
    >>> loss, i = CrossEntropy(), torch.zeros(2, dtype=torch.long)
    >>> loss.bind(Spec(class_ids=(7, 3), born=(0, 0)), None)
    >>> batch = Batch(x=i, y=torch.tensor([3, -1]), sample_id=i, domain=i, experience=i, new=2)
    >>> loss(batch, Signals(torch.tensor([[0.0, 0.0], [9.0, 1.0]]), torch.tensor([7, 3]))).mean()
    tensor(0.6931)
    """

    sides: ClassVar[int] = 1
    reads_mixed: ClassVar[bool] = True
    by_task: ClassVar[bool] = True
    """Whether it can tell tasks apart, so that the columns of a row's own compete alone."""
    columns: Tensor
    """`[K]` the columns that compete."""
    target: Tensor
    """`[ids + 1]` each class id's place among them; the last entry answers for -1."""
    task: Tensor
    """`[K]` the experience that brought each of them."""
    certain: bool
    """Whether every row of the experience is known to take part."""

    def __init__(
        self,
        over: Literal["auto", "all", "seen", "new", "old", "own", "batch"] = "auto",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.over, self.label_smoothing = over, label_smoothing

    @property
    def needs_boundaries(self) -> bool:
        return self.over in ("new", "old", "own")

    def bind(self, a: Spec, b: Spec | None) -> None:
        self.spec = a
        self.chosen = answering(a, self.by_task) if self.over == "auto" else self.over
        born, latest = dict(zip(a.class_ids, a.born, strict=True)), max(a.born)
        newest = {c for c in born if born[c] == latest}
        self._compete(self._chosen(newest) if self.over in ("new", "old") else set(born))

    def formula(self, sides: str) -> str:
        own = sides.removeprefix("student")
        return f"CE({self.chosen}{own if own != sides else f' {sides}'})"

    def begin(self, experience: Experience, student: Student) -> None:
        """In a domain stream no column is new: what counts are the classes of the experience's data."""
        if self.over in ("new", "old"):
            device = self.columns.device
            self._compete(self._chosen(set(experience.classes)))
            self.to(device)
            if self.over == "old" and not self.competing:
                raise UserError("cross_entropy: over: old: no class came before this experience alone")

    def _chosen(self, new: set[int]) -> set[int]:
        """The classes `new` in this experience, or the `old` ones."""
        old = {c for c, born in zip(self.spec.class_ids, self.spec.born, strict=True) if born >= 0} - new
        return old if self.over == "old" else new

    def _compete(self, classes: set[int]) -> None:
        spec = self.spec
        unseen = self.chosen == "all"
        columns = [i for i, c in enumerate(spec.class_ids) if c in classes and (unseen or spec.born[i] >= 0)]
        self.competing = {spec.class_ids[i] for i in columns}
        self.certain = False
        target = torch.full((max(spec.class_ids) + 2,), IGNORE)
        for place, column in enumerate(columns):
            target[spec.class_ids[column]] = place
        born = [spec.born[i] for i in columns]
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.long), persistent=False)
        self.register_buffer("target", target, persistent=False)
        self.register_buffer("task", torch.tensor(born, dtype=torch.long), persistent=False)
        self.prefix = is_prefix(self.columns)

    def foresee(self, labels: Set[int]) -> None:
        """Where every row will take part, those that do not are not looked for in each step."""
        self.certain = self.chosen not in ("new", "old") and labels <= self.competing

    def takes(self, batch: Batch) -> Tensor:
        return reduce(torch.logical_and, [target != IGNORE for target in self._targets(batch)])

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        logits, targets = take(logits_of(a), self.columns, self.prefix), self._targets(batch)
        if self.chosen == "batch":
            logits = present_only(logits, targets[0] if len(targets) == 1 else torch.cat(targets))
        rows = self._rows(logits, targets[0])
        if (mixed := batch.mixed) is not None:
            rows = mixed.share * rows + (1 - mixed.share) * self._rows(logits, targets[1])
        return rows if self.certain else among(rows, self.takes(batch))

    def _targets(self, batch: Batch) -> list[Tensor]:
        """The column of each row's label, and of the other's where it is mixed of two."""
        mixed = batch.mixed
        labels = [batch.y] if mixed is None else [mixed.y, mixed.other]
        return [self.target.index_select(0, y) if self.certain else self.target[y] for y in labels]

    def _rows(self, logits: Tensor, target: Tensor) -> Tensor:
        """`[B]`, whatever the rows' targets are worth."""
        if self.chosen == "own":
            return own_task_rows(logits, target, self.task, self.label_smoothing)
        return F.cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing)


def answering(student: Spec, by_task: bool = True) -> Literal["own", "all", "seen"]:
    """Those among which the student's answer is looked for: all columns, which a head that grows has seen."""
    return "own" if by_task and student.task_aware else "all" if min(student.born) < 0 else "seen"


def present_only(logits: Tensor, target: Tensor) -> Tensor:
    """`[B, K]`: the logits, with those of columns that are no row's target out of the race.

    >>> present_only(torch.zeros(2, 3), torch.tensor([2, IGNORE]))[0].softmax(0)
    tensor([0., 0., 1.])
    """
    present = torch.zeros(logits.shape[1] + 1, dtype=torch.bool, device=logits.device)
    present[torch.where(target == IGNORE, logits.shape[1], target)] = True
    return logits.masked_fill(~present[:-1], torch.finfo(logits.dtype).min)


def own_task_rows(logits: Tensor, target: Tensor, task: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """`[B]` cross-entropy where only the columns of the target's own task compete.

    Args:
        logits: `[B, K]`.
        target: `[B]` columns; rows with a negative one get a value that means nothing.
        task: `[K]` the task of each column.
        label_smoothing: share of the target spread over the task's columns.

    >>> own_task_rows(torch.tensor([[1.0, 1.0, 9.0]]), torch.tensor([0]), torch.tensor([0, 0, 1]))
    tensor([0.6931])
    """
    target = target.clamp(min=0)
    competes = task == task[target][:, None]
    log_p = logits.masked_fill(~competes, -torch.inf).log_softmax(1)
    hard = -log_p.gather(1, target[:, None]).squeeze(1)
    if not label_smoothing:
        return hard
    even = -log_p.masked_fill(~competes, 0.0).sum(1) / competes.sum(1)
    return (1 - label_smoothing) * hard + label_smoothing * even
