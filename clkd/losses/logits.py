"""The base of losses between two models' logits: which columns, rows and positions are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from clkd.errors import UserError
from clkd.losses.base import Loss, among, common_columns, is_prefix, logits_of, take
from clkd.losses.divergence import kd_rows, log_softmax
from clkd.signals import Batch, Signals, Spec

if TYPE_CHECKING:
    from clkd.losses import RowChoice
    from clkd.schedules.base import Schedule


@dataclass(frozen=True, slots=True)
class Answers:
    """What student and teacher said, column by column about the same classes. N rows, or positions of dense logits.

    Attributes:
        z, v: `[N, K]` logits of student and teacher in full precision; no gradient goes into v.
        known: `[N, K]` bool, which columns take part in which row; None means all.
        rows: `[N]` bool, which rows take part at all; None means all. Others are taken out of the mean afterwards, but
            a term that relates rows to each other must leave them out itself.
        target: `[N]` the label's column, -1 where the label is none of these classes or is not known of this row; None
            for a loss that is not `labelled`.
    """

    z: Tensor
    v: Tensor
    known: Tensor | None
    rows: Tensor | None
    target: Tensor | None = None

    @property
    def label(self) -> tuple[Tensor, Tensor]:
        """`[N, 1]` the label's column, 0 where there is none; and `[N]` bool, whether there is one."""
        assert self.target is not None, "the loss is `labelled`"
        return self.target.clamp(min=0)[:, None], self.target >= 0


class LogitLoss(Loss):
    """Compares two models' logits. Override `compare`; classes, tasks, rows and positions are seen to here.

    Columns are matched by global class id, and a class that only one side knows takes no part. For a student that is
    told its task, each task's columns are compared by themselves and the tasks' values are added.

    Logits may be dense: `[B, C, H, W]`, or `[B, L, V]` with the classes last. Each position then is a row. Labels of
    the same shape without the classes, `[B, H, W]` or `[B, L]`, say which positions count: those labelled -1 (padding,
    regions to ignore) take no part. The mean is over all positions of the batch that do. Labels `[B]` are about whole
    rows, and say nothing of positions.

    With `min_confidence`, a row counts 0 if the teacher's greatest probability, over the matched columns at temperature
    1, is lower. The mean stays over all rows, those included, as in FixMatch (Sohn et al. 2020, eq. 4).
    """

    reads_known: ClassVar[bool] = True
    name: ClassVar[str]
    """What a scenario calls it, for errors."""
    labelled: ClassVar[bool] = False
    """Whether it needs to know the label's column: rows whose class the teacher does not know, and those without a
    label, are then left out."""
    a_columns: Tensor
    b_columns: Tensor
    place: Tensor
    """`[ids + 1]` each class id's place among the matched columns, -1 for none; the last entry answers for -1."""

    def __init__(
        self,
        temperature: float | Schedule = 1.0,
        rows: RowChoice = "all",
        few_classes: Literal["refuse", "kd"] = "refuse",
        t2: bool = True,
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__()
        self.temperature, self.rows, self.few_classes, self.t2 = temperature, rows, few_classes, t2
        self.min_confidence = min_confidence

    @property
    def fewest(self) -> int:
        """Between how few common classes there is still something to learn. Those of a smaller task are left out."""
        return 2

    def vacuous(self) -> str:
        """Why it has nothing to teach, or loses its point, where sides share but two classes; '' if it does not."""
        return ""

    def per_task(self, a: Spec) -> bool:
        return a.task_aware

    @property
    def own_task(self) -> bool:
        """Whether a row is about its own task's classes alone, where the student is told the task."""
        return False

    def common(self, a: Spec, b: Spec) -> tuple[Tensor, Tensor]:
        return common_columns(a, b)

    def compare(self, said: Answers, temperature: float | Tensor) -> Tensor:
        """`[N]`, one value a row. Terms that belong to no single row are added to every one."""
        raise NotImplementedError

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Match the classes of both sides.

        Raises:
            UserError: they have no class in common, or so few that nothing would be taught (never a silent zero).
        """
        assert b is not None, f"{self.name} has two sides"
        at_a, at_b = self.common(a, b)
        if not len(at_a):
            raise UserError(
                f"{self.name}: student and teacher have no class in common (student {list(a.class_ids)}, teacher "
                f"{list(b.class_ids)}): distil from a teacher that knows the student's classes, or compare features"
            )
        task = torch.tensor(a.born)[at_a] if self.per_task(a) else torch.zeros_like(at_a)
        at_a, at_b, self.sizes = self._grouped(a, at_a, at_b, task)
        self.plain = bool(self.vacuous()) and min(self.sizes) < 3
        if self.plain and self.few_classes == "refuse":
            raise UserError(self._too_few(a, at_a))
        ids = torch.tensor(a.class_ids)[at_a]
        place = torch.full((max(a.class_ids) + 2,), -1)
        place[ids] = torch.arange(len(ids))
        self.register_buffer("a_columns", at_a, persistent=False)
        self.register_buffer("b_columns", at_b, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.a_prefix, self.b_prefix = is_prefix(at_a), is_prefix(at_b)

    def _grouped(self, a: Spec, at_a: Tensor, at_b: Tensor, task: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """The columns with each task's together, and how many each has; tasks where there is nothing to say go."""
        counts = {t: n for t, n in sorted(Counter(task.tolist()).items()) if n >= self.fewest}
        if not counts:
            raise UserError(
                f"{self.name}: {_here(a, at_a)}, and a softmax over a single class is always 1, so it teaches nothing: "
                "give the first experience at least two classes, or use kd with variant 'mse', or 'features' instead"
            )
        order = task.argsort(stable=True)
        order = order[torch.isin(task[order], torch.tensor(list(counts)))]
        return at_a[order], at_b[order], list(counts.values())

    def _too_few(self, a: Spec, at_a: Tensor) -> str:
        where = _here(a, at_a) if len(self.sizes) == 1 else f"{_here(a, at_a)}, in tasks of {self.sizes}"
        return (
            f"{self.name}: {where}, and {self.vacuous()}: set few_classes: kd to use plain kd in such experiences, or "
            "use a teacher that shares at least three classes, or put more classes into each experience"
        )

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """`[B]`, scaled so that its mean is the mean over the rows (or positions) that take part."""
        assert b is not None, f"{self.name} has two sides"
        said = self._answers(batch, a, b)
        temperature = self.now(self.temperature, a)
        each = [self._gated(part, temperature) for part in self._tasks(said)]
        values = each[0] if len(each) == 1 else torch.stack(each).sum(0)
        values = values if said.rows is None else among(values, said.rows)
        return values if len(values) == len(batch) else values.reshape(len(batch), -1).mean(1)

    @property
    def reads_labels(self) -> bool:
        return self.labelled or self.rows != "all"

    def takes(self, batch: Batch) -> Tensor | None:
        if batch.y.dim() > 1:
            return None
        labelled = self.place[batch.y] >= 0 if self.labelled else None
        return batch.y < 0 if self.rows == "unlabelled" else labelled

    def _gated(self, said: Answers, temperature: float | Tensor) -> Tensor:
        compare = self._as_kd if self.plain else self.compare
        if not self.min_confidence:
            return compare(said, temperature)
        sure = log_softmax(said.v, said.known).amax(1).exp() >= self.min_confidence
        rows = sure if said.rows is None else said.rows & sure
        return compare(replace(said, rows=rows), temperature).where(sure, 0.0)

    def _as_kd(self, said: Answers, temperature: float | Tensor) -> Tensor:
        values = kd_rows(said.z, said.v, temperature, t2=self.t2, known=said.known)
        return values if said.target is None else values.where(said.target >= 0, 0.0)

    def _answers(self, batch: Batch, a: Signals, b: Signals) -> Answers:
        z, v = logits_of(a), logits_of(b).detach()
        dense = z.shape if z.dim() > 2 else None
        z, v = take(flat(z), self.a_columns, self.a_prefix), take(flat(v), self.b_columns, self.b_prefix)
        known = None if b.known is None else take(_spread(b.known, dense, classes=True), self.b_columns, self.b_prefix)
        if self.own_task and a.competes is not None:
            own = take(a.competes, self.a_columns, self.a_prefix)
            known = own if known is None else known & own
        target = self._target(batch.y, dense, known) if self.labelled else None
        return Answers(z, v, known, self._rows(batch, b, dense, target), target)

    def _target(self, y: Tensor, dense: torch.Size | None, known: Tensor | None) -> Tensor:
        target = self.place[_spread(y, dense)]
        if known is None:
            return target
        return target.where(known.gather(1, target.clamp(min=0)[:, None]).squeeze(1), -1)

    def _rows(self, batch: Batch, b: Signals, dense: torch.Size | None, target: Tensor | None) -> Tensor | None:
        conditions = [] if target is None else [target >= 0]
        if dense is not None and batch.y.dim() > 1:
            conditions.append(batch.y.flatten() >= 0)
        if b.valid is not None and (self.labelled or self.rows == "valid"):
            conditions.append(_spread(b.valid, dense))
        if self.rows == "unlabelled":
            conditions.append(_spread(batch.y, dense) < 0)
        return reduce(torch.logical_and, conditions) if conditions else None

    def _tasks(self, said: Answers) -> Sequence[Answers]:
        """The answers of each task's classes."""
        if len(self.sizes) == 1:
            return [said]
        parts, start = [], 0
        for size in self.sizes:
            cut = slice(start, start + size)
            known = None if said.known is None else said.known[:, cut]
            target = None if said.target is None else _within(said.target, start, size)
            parts.append(Answers(said.z[:, cut], said.v[:, cut], known, said.rows, target))
            start += size
        return parts


def flat(logits: Tensor) -> Tensor:
    """`[N, C]`: every position of dense logits, `[B, C, H, W]` or `[B, L, V]`, as a row; `[B, C]` as it is.

    >>> flat(torch.arange(8).reshape(1, 2, 2, 2))
    tensor([[0, 4],
            [1, 5],
            [2, 6],
            [3, 7]])
    """
    if logits.dim() == 2:
        return logits
    return (logits.movedim(1, -1) if logits.dim() == 4 else logits).flatten(0, -2)


def _spread(said: Tensor, dense: torch.Size | None, classes: bool = False) -> Tensor:
    """What is said of rows, of each of their positions; what is said of positions stays."""
    if dense is None:
        return said
    if said.dim() > 1 + classes:
        return flat(said) if classes else said.flatten()
    positions = dense[2] * dense[3] if len(dense) == 4 else dense[1]
    return said.repeat_interleave(positions, 0)


def _within(target: Tensor, start: int, size: int) -> Tensor:
    """Places counted from `start`; -1 for those that are not among the `size` from there."""
    return (target - start).where((target >= start) & (target < start + size), -1)


def _here(a: Spec, at_a: Tensor) -> str:
    """The experience, and what both sides know in it."""
    latest = max(a.born)
    new = [c for c, born in zip(a.class_ids, a.born, strict=True) if born == latest]
    shared = sorted(a.class_ids[i] for i in at_a.tolist())
    return f"when experience {latest} brings the classes {new}, student and teacher share {shared}"
