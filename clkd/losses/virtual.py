"""Learning from a teacher that needs no network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from clkd.losses.base import Loss, among, logits_of, take
from clkd.losses.classification import IGNORE, CrossEntropy
from clkd.losses.divergence import kd_rows
from clkd.signals import Batch, Signals

if TYPE_CHECKING:
    from clkd.schedules.base import Schedule


class VirtualTeacher(CrossEntropy):
    """Teacher-free distillation: `T² · KL(u_T ‖ softmax(z/T))`, where u gives the label's class probability `correct`.

    Yuan et al. 2020, "Revisiting Knowledge Distillation via Label Smoothing Regularization", §5 (Tf-KD_reg). The other
    classes share the rest evenly, and u_T is u at temperature T: `u^(1/T)` brought to sum 1. (Where code puts u itself
    through a softmax, u_T is nearly even for any T.) At T = 1 the gradient is that of label smoothing. Classes compete
    as in `cross_entropy`, to which this is added; rows without a competing label are left out of the mean.

    >>> from clkd.signals import Batch, Spec
    >>> loss, i = VirtualTeacher(correct=0.8, temperature=1.0), torch.tensor([0])
    >>> loss.bind(Spec(class_ids=(0, 1), born=(0, 0)), None)
    >>> z = Signals(torch.tensor([[0.0, 0.0]]), torch.arange(2))
    >>> loss(Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=1), z)
    tensor([0.1927])
    """

    sides: ClassVar[int] = 1
    reads_mixed: ClassVar[bool] = False

    def __init__(
        self,
        correct: float = 0.99,
        temperature: float | Schedule = 20.0,
        over: Literal["auto", "all", "seen", "new", "own"] = "auto",
        convention: Literal["t2", "plain"] = "t2",
    ) -> None:
        super().__init__(over)
        self.correct, self.temperature, self.t2 = correct, temperature, convention == "t2"

    def formula(self, sides: str) -> str:
        return Loss.formula(self, sides)

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        z = take(logits_of(a), self.columns, self.prefix)
        target = self.target[batch.y]
        label = target.clamp(min=0)[:, None]
        competing = self.task == self.task[label] if self.chosen == "own" else None
        count = torch.full_like(label, z.shape[1]) if competing is None else competing.sum(1, keepdim=True)
        u = ((1 - self.correct) / (count - 1).clamp(min=1).to(z.dtype)).log().expand_as(z)
        u = u.scatter(1, label, math.log(self.correct))
        rows = kd_rows(z, u, self.now(self.temperature, a), t2=self.t2, known=competing)
        return among(rows, target != IGNORE)
