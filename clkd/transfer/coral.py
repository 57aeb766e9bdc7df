"""Bringing second-order statistics together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from clkd.signals import Batch, Signals, confined
from clkd.transfer.domains import Between, Target, places, read

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


def make(
    feature: str = "penultimate",
    form: Literal["deep", "closed"] = "deep",
    mean: bool = False,
    ridge: float = 1.0,
    target: Target = "new",
) -> Between:
    """CORAL in one of its two forms."""
    return Coral(feature, mean, target) if form == "deep" else Recolour(ridge, target)


class Coral(Between):
    """`‖C_S − C_T‖²_F / (4 d²)`: replayed rows are the source domain, new rows the target.

    Sun & Saenko 2016, "Deep CORAL", eq. 1-3. With `mean`, `mean (μ_S − μ_T)²` is added, as the Transfer Learning
    Library does. None where one side has fewer than two rows.
    """

    least = 2

    def __init__(self, feature: str = "penultimate", mean: bool = False, target: Target = "new") -> None:
        super().__init__((feature,), target)
        self.mean = mean

    def compare(self, source: list[Tensor], target: list[Tensor]) -> Tensor:
        value = coral(source[0], target[0])
        return value + (source[0].mean(0) - target[0].mean(0)).square().mean() if self.mean else value


class Recolour(Between):
    """`CE(head((f_s − μ_S) C_S^{-½} C_T^{½} + μ_T), y_s)`: the head learns source rows that look like the target's.

    Sun, Feng & Saenko 2016, "Return of Frustratingly Easy Domain Adaptation" (CORAL), algorithm 1: the covariances are
    those of the batch, with `ridge` on their diagonals, and are taken as given. Of penultimate features alone, since
    the head has to read what comes of it. Source rows need a label; those without are left out.
    """

    least = 2
    needs_boundaries = False

    def __init__(self, ridge: float = 1.0, target: Target = "new") -> None:
        super().__init__(("penultimate",), target)
        self.ridge = ridge
        self._head: list[nn.Module] = []  # in a list: it is the student's

    def begin(self, experience: Experience, student: Student) -> None:
        self._head = [student.head]

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        source, target = places(batch, self.target)
        rows = read(a, "penultimate")
        if min(len(rows[source]), len(rows[target])) < self.least:
            return None
        logits: Tensor = self._head[0](recoloured(rows[source], rows[target].detach(), self.ridge))
        logits = confined(logits, None if a.competes is None else a.competes[source])
        hit = batch.y[source, None] == a.class_ids  # [n, C]
        return -(logits.log_softmax(1) * hit).sum() / hit.sum().clamp(min=1)


def recoloured(source: Tensor, target: Tensor, ridge: float) -> Tensor:
    """`[n, d]` source rows with the mean and the covariance of the target's `[m, d]`.

    >>> rows = torch.tensor([[1.0], [3.0]])
    >>> recoloured(rows, 10 * rows, 1e-6)
    tensor([[10.0000],
            [30.0000]])
    """
    identity = ridge * torch.eye(source.shape[1], dtype=source.dtype, device=source.device)
    white = _power(covariance(source.detach()) + identity, -0.5)
    colour = _power(covariance(target) + identity, 0.5)
    return (source - source.detach().mean(0)) @ white @ colour + target.mean(0)


def _power(symmetric: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    powered: Tensor = (vectors * values.clamp(min=torch.finfo(values.dtype).tiny) ** exponent) @ vectors.T
    return powered


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Squared Frobenius distance of the covariances of `[n, d]` and `[m, d]`, divided by `4 d²`. A scalar.

    >>> coral(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    tensor(0.5000)
    """
    return (covariance(source) - covariance(target)).square().sum() / (4 * source.shape[1] ** 2)


def covariance(rows: Tensor) -> Tensor:
    """`[d, d]`, with the divisor n − 1."""
    centred = rows - rows.mean(0)
    return centred.T @ centred / (len(rows) - 1)
