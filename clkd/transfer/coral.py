"""Bringing second-order statistics together."""

from __future__ import annotations

from torch import Tensor

from clkd.transfer.domains import Between, Target


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


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Squared Frobenius distance of the covariances of `[n, d]` and `[m, d]`, divided by `4 d²`. A scalar.

    >>> import torch
    >>> coral(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    tensor(0.5000)
    """
    return (covariance(source) - covariance(target)).square().sum() / (4 * source.shape[1] ** 2)


def covariance(rows: Tensor) -> Tensor:
    """`[d, d]`, with the divisor n − 1."""
    centred = rows - rows.mean(0)
    return centred.T @ centred / (len(rows) - 1)
