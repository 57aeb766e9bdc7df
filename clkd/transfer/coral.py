"""Bringing second-order statistics together."""

from __future__ import annotations

import torch
from torch import Tensor

from clkd.signals import Batch, Needs, Signals
from clkd.transfer.base import Transfer


class Coral(Transfer):
    """`‖C_S − C_T‖²_F / (4 d²)`: replayed rows are the source domain, new rows the target.

    Sun & Saenko 2016, "Deep CORAL", eq. 1-3. With `mean`, `mean (μ_S − μ_T)²` is added, as the Transfer Learning
    Library does. None where new or replayed rows are fewer than two.
    """

    def __init__(self, feature: str = "penultimate", mean: bool = False) -> None:
        super().__init__()
        self.feature, self.mean = feature, mean

    def reads(self) -> Needs:
        return Needs(logits=False, features=(self.feature,))

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        if min(batch.new, len(batch) - batch.new) < 2:
            return None
        rows = _vectors(a.features[self.feature])
        source, target = rows[batch.new :], rows[: batch.new]
        value = coral(source, target)
        return value + (source.mean(0) - target.mean(0)).square().mean() if self.mean else value


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


def _vectors(features: Tensor) -> Tensor:
    """`[B, D]` in float32 (float64 stays)."""
    features = features if features.dtype == torch.float64 else features.float()
    return features if features.dim() == 2 else features.flatten(2).mean(2)
