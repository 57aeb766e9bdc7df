"""Learning from another model's answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.errors import UserError
from clkd.losses.base import Loss, among, common_columns, is_prefix, logits_of, take
from clkd.signals import Batch, Signals, Spec

if TYPE_CHECKING:
    from clkd.schedules.base import Schedule


class KD(Loss):
    """Knowledge distillation: `T² · KL(softmax(v/T) ‖ softmax(z/T))`, teacher v, student z, over common classes.

    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", §2: with the T² the gradient keeps its
    size while T changes. Columns are matched by global class id; a class that only one side knows takes no part. With
    `scope: per_task` each task's classes have their own softmax and the tasks' values are added, as Learning without
    Forgetting does it (Li & Hoiem 2016, eq. 3; the implementations of Avalanche and of van de Ven).
    """

    reads_known: ClassVar[bool] = True
    a_columns: Tensor
    b_columns: Tensor

    def __init__(
        self,
        temperature: float | Schedule = 2.0,
        variant: Literal["kl", "ce", "mse"] = "kl",
        convention: Literal["t2", "plain"] = "t2",
        scope: Literal["auto", "joint", "per_task"] = "auto",
        rows: Literal["all", "valid"] = "all",
    ) -> None:
        super().__init__()
        self.temperature, self.variant, self.convention = temperature, variant, convention
        self.scope, self.rows = scope, rows

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Match the classes of both sides.

        Raises:
            UserError: they have no class in common, or so few that the softmax says nothing (design rule: never a
                silent zero).
        """
        assert b is not None, "kd has two sides"
        at_a, at_b = common_columns(a, b)
        if not len(at_a):
            raise UserError(
                f"kd: student and teacher have no class in common (student {list(a.class_ids)}, teacher "
                f"{list(b.class_ids)}): distil from a teacher that knows the student's classes, or compare features"
            )
        per_task = a.task_aware if self.scope == "auto" else self.scope == "per_task"
        task = torch.tensor(a.born)[at_a] if per_task else torch.zeros_like(at_a)
        at_a, at_b, self.sizes = self._grouped(at_a, at_b, task)
        self.register_buffer("a_columns", at_a, persistent=False)
        self.register_buffer("b_columns", at_b, persistent=False)
        self.a_prefix, self.b_prefix = is_prefix(at_a), is_prefix(at_b)

    def _grouped(self, at_a: Tensor, at_b: Tensor, task: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """The columns with each task's together, and how many each has; tasks where there is nothing to say go."""
        least = 1 if self.variant == "mse" else 2
        counts = {t: n for t, n in sorted(Counter(task.tolist()).items()) if n >= least}
        if not counts:
            raise UserError(
                f"kd: a softmax over a single class is always 1, so variant '{self.variant}' teaches nothing here: "
                "give the first experience at least two classes, or use variant 'mse', or 'features' instead of kd"
            )
        order = task.argsort(stable=True)
        order = order[torch.isin(task[order], torch.tensor(list(counts)))]
        return at_a[order], at_b[order], list(counts.values())

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """`[B]`. With `rows: valid`, scaled so that the mean is the mean over the rows the teacher knows."""
        assert b is not None, "kd has two sides"
        z = take(logits_of(a), self.a_columns, self.a_prefix)
        v = take(logits_of(b).detach(), self.b_columns, self.b_prefix)
        temperature, t2 = self._temperature(a), self.convention == "t2"
        tasks = zip(*(self._split(columns) for columns in (z, v, self._known(b))), strict=True)
        each = [kd_rows(zt, vt, temperature, self.variant, t2, known) for zt, vt, known in tasks]
        rows = each[0] if len(each) == 1 else torch.stack(each).sum(0)
        return rows if self.rows == "all" or b.valid is None else among(rows, b.valid)

    def _known(self, b: Signals) -> Tensor | None:
        return None if b.known is None else take(b.known, self.b_columns, self.b_prefix)

    def _split(self, columns: Tensor | None) -> Sequence[Tensor | None]:
        """Each task's columns."""
        if columns is None or len(self.sizes) == 1:
            return [columns] * len(self.sizes)
        return torch.split(columns, self.sizes, 1)

    def _temperature(self, a: Signals) -> float | Tensor:
        if not callable(self.temperature):
            return self.temperature
        assert self.progress is not None, "whoever gives kd a schedule also sets loss.progress before each step"
        return self.temperature(self.progress, a)


def kd_rows(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor = 2.0,
    variant: Literal["kl", "ce", "mse"] = "kl",
    t2: bool = True,
    known: Tensor | None = None,
) -> Tensor:
    """Distillation of each row.

    Args:
        student_logits, teacher_logits: `[B, K]`, columns already matched.
        temperature: T, a number or a scalar tensor.
        variant: `kl` is `Σ p_v (log p_v − log p_z)`; `ce` is `−Σ p_v log p_z`; `mse` is `mean (z − v)²`, which knows
            no temperature (and is, up to the factor 2 and the rows' means, the limit of T²·KL at high T).
        t2: multiply `kl` and `ce` by T².
        known: `[B, K]` bool, the columns that take part in each row; None for all. A row without any gets 0.

    Returns:
        `[B]`.

    >>> kd_rows(torch.zeros(1, 3), torch.tensor([[2.0, 0.0, 9.0]]), known=torch.tensor([[True, True, False]]))
    tensor([0.4438])
    >>> z, v = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    >>> kd_rows(z, v, temperature=2.0), kd_rows(z, v, temperature=2.0, t2=False)
    (tensor([0.4438]), tensor([0.1109]))
    """
    if variant == "mse":
        return _mean((student_logits - teacher_logits).square(), known)
    log_p = _log_softmax(student_logits / temperature, known)
    log_q = _log_softmax(teacher_logits / temperature, known)
    rows = log_q.exp() * (log_q - log_p if variant == "kl" else -log_p)
    rows = rows if known is None else rows.masked_fill(~known, 0.0)
    return rows.sum(1) * (temperature * temperature if t2 else 1.0)


def _mean(columns: Tensor, known: Tensor | None) -> Tensor:
    """`[B]`: over the columns that are known."""
    if known is None:
        return columns.mean(1)
    return columns.masked_fill(~known, 0.0).sum(1) / known.sum(1).clamp(min=1)


def _log_softmax(logits: Tensor, known: Tensor | None) -> Tensor:
    """Over the columns that are known. (The lowest number and not -inf, since a row may know none of them.)"""
    return F.log_softmax(logits if known is None else logits.masked_fill(~known, torch.finfo(logits.dtype).min), dim=1)
