"""Learning the order of a teacher's preferences, and not their sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from clkd.losses.divergence import log_softmax
from clkd.losses.logits import Answers, LogitLoss

if TYPE_CHECKING:
    from clkd.losses import RowChoice
    from clkd.schedules.base import Schedule


class DIST(LogitLoss):
    """Distillation from a stronger teacher: `T² · [β · (1 − mean r(rows)) + γ · (1 − mean r(columns))]`.

    Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher", §3. r is Pearson's correlation between the two
    models' probabilities at temperature T: within each row over the classes, and within each class over the rows of the
    batch. The T² is the authors' code's, not their paper's; at the default T = 1 it makes no difference. Where nothing
    varies, as where all probabilities are equal, r counts as 0.

    A batch of one row has no correlation over rows, and that part is then 0. Small batches know it badly.

    >>> from clkd.signals import Batch, Signals, Spec
    >>> loss, side, i = DIST(), Spec(class_ids=(0, 1, 2), born=(0, 0, 0)), torch.tensor([0])
    >>> loss.bind(side, side)
    >>> z, v = (Signals(torch.tensor([row]).log(), torch.arange(3)) for row in ([0.2, 0.3, 0.5], [0.5, 0.3, 0.2]))
    >>> loss(Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=1), z, v)  # 1 − r = 1 + 13/14
    tensor([1.9286])
    """

    name: ClassVar[str] = "dist"

    def __init__(
        self,
        temperature: float | Schedule = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        rows: RowChoice = "all",
        convention: Literal["t2", "plain"] = "t2",
        few_classes: Literal["refuse", "kd"] = "refuse",
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__(temperature, rows, few_classes, convention == "t2", min_confidence)
        self.beta, self.gamma = beta, gamma

    def vacuous(self) -> str:
        return "the correlation over two classes is always 1 or -1, without a gradient"

    def compare(self, said: Answers, temperature: float | Tensor) -> Tensor:
        p, q = (log_softmax(x / temperature, said.known).exp() for x in (said.z, said.v))
        value = self.beta * apart(p, q, 1, said.known)[0] + self.gamma * self._intra(p, q, said)
        return value * (temperature * temperature if self.t2 else 1.0)

    def _intra(self, p: Tensor, q: Tensor, said: Answers) -> Tensor:
        """A scalar: over the classes that at least two of the rows know."""
        taken = said.known
        if said.rows is not None:
            taken = said.rows[:, None].expand_as(p) if taken is None else taken & said.rows[:, None]
        values, related = apart(p, q, 0, taken)
        return values.sum() / related.sum().clamp(min=1)


def apart(x: Tensor, y: Tensor, dim: int, taken: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """1 − r along a dimension, 0 where fewer than two entries are taken; and where at least two are."""
    r = correlation(x, y, dim, taken)
    count = torch.full_like(r, x.shape[dim]) if taken is None else taken.sum(dim)
    return (1 - r).where(count > 1, 0.0), count > 1


def correlation(x: Tensor, y: Tensor, dim: int, taken: Tensor | None = None) -> Tensor:
    """Pearson's r along a dimension of two matrices, over the entries that are taken (`[N, K]` bool; None means all).

    >>> correlation(torch.tensor([[1.0, 2.0, 3.0, 9.0]]), torch.tensor([[6.0, 4.0, 2.0, 9.0]]), 1,
    ...             torch.tensor([[True, True, True, False]]))
    tensor([-1.])
    """
    x, y = _centred(x, dim, taken), _centred(y, dim, taken)
    norms: Tensor = torch.linalg.vector_norm(x, dim=dim) * torch.linalg.vector_norm(y, dim=dim)
    return (x * y).sum(dim) / (norms + 1e-8)


def _centred(x: Tensor, dim: int, taken: Tensor | None) -> Tensor:
    if taken is None:
        return x - x.mean(dim, keepdim=True)
    mean = x.where(taken, 0.0).sum(dim, keepdim=True) / taken.sum(dim, keepdim=True).clamp(min=1)
    return (x - mean).where(taken, 0.0)
