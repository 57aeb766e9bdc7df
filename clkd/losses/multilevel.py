"""Learning a teacher's answers at three levels: each row's own, how rows relate, and how classes do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from clkd.losses import RowChoice
from clkd.losses.divergence import kd_rows, log_softmax, standardized
from clkd.losses.logits import Answers, LogitLoss
from clkd.losses.response import STANDARD_PAIR


class MLKD(LogitLoss):
    """Multi-level logit distillation: over several temperatures T, the sum of three comparisons of probabilities P, Q.

    Jin, Wang, Lin 2023, "Multi-level Logit Distillation", §3: `T² · KL(q ‖ p)` of each row; `‖PPᵀ − QQᵀ‖² / B` between
    rows; `‖PᵀP − QᵀQ‖² / K` between classes; P and Q are `[B, K]`, student and teacher at temperature T. Each level's
    weight is an option. This is about one view: the authors' second, strongly augmented one is not part of it,; for
    the mask on the teacher's confidence that their code has, see `min_confidence`.

    Between rows it takes B² numbers; over dense logits every position is a row, so that is seldom affordable.

    >>> from clkd.signals import Batch, Signals, Spec
    >>> loss, side, i = MLKD(temperatures=(1.0,)), Spec(class_ids=(0, 1), born=(0, 0)), torch.tensor([0])
    >>> loss.bind(side, side)
    >>> z, v = (Signals(torch.tensor([row]).log(), torch.arange(2)) for row in ([0.5, 0.5], [0.8, 0.2]))
    >>> loss(Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=1), z, v)  # 0.1927 + 0.0324 + 0.1062
    tensor([0.3313])
    """

    name: ClassVar[str] = "mlkd"

    def __init__(
        self,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        instance: float = 1.0,
        batch: float = 1.0,
        classes: float = 1.0,
        standardize: bool = False,
        rows: RowChoice = "all",
        few_classes: Literal["refuse", "kd"] = "refuse",
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__(temperatures[0], rows, few_classes, min_confidence=min_confidence)
        self.temperatures, self.standardize = tuple(temperatures), standardize
        self.instance, self.batch, self.classes = instance, batch, classes

    def vacuous(self) -> str:
        return STANDARD_PAIR if self.standardize else ""

    def compare(self, said: Answers, temperature: float | Tensor) -> Tensor:
        z, v = said.z, said.v
        if self.standardize:
            z, v = standardized(z, said.known), standardized(v, said.known)
        return torch.stack([self._at(z, v, t, said) for t in self.temperatures]).sum(0)

    def _at(self, z: Tensor, v: Tensor, temperature: float, said: Answers) -> Tensor:
        p, q = (self._probabilities(x / temperature, said) for x in (z, v))
        between_rows = (p @ p.T - q @ q.T).square().sum(1)
        between_classes = (p.T @ p - q.T @ q).square().sum() / p.shape[1]
        rows = kd_rows(z, v, temperature, known=said.known)
        return self.instance * rows + self.batch * between_rows + self.classes * between_classes

    def _probabilities(self, logits: Tensor, said: Answers) -> Tensor:
        """0 in columns that a row does not know, and in rows that take no part."""
        p = log_softmax(logits, said.known).exp()
        p = p if said.known is None else p.where(said.known, 0.0)
        return p if said.rows is None else p.where(said.rows[:, None], 0.0)
