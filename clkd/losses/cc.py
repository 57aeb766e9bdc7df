"""Correlation congruence."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.losses.related import Related, pairs_of
from clkd.signals import Batch, Signals

Kernel = Literal["taylor", "gaussian", "bilinear"]


class CC(Related):
    """`‖ψ(F) − ψ(G)‖²_F / B²`: the two models' correlations of rows, `ψ_ij = k(f_i, f_j)`, are to agree.

    Peng et al. 2019, "Correlation Congruence for Knowledge Distillation", eq. 4-9, for rows of unit length: `taylor` is
    `Σ_p e^{−2γ} (2γ)^p / p! · (f_i·f_j)^p` for p from 0 to `order`, `gaussian` its limit `e^{−γ‖f_i − f_j‖²}`,
    `bilinear` the cosine. As in torchdistill and the Knowledge-Distillation-Zoo; what RepDistiller calls CC, products
    of neighbouring rows' differences, depends on the order of the batch and is not offered. Maps are averaged over
    positions.

    >>> correlation(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), "taylor", 0.4, 2)
    tensor([[0.9526, 0.4493],
            [0.4493, 0.9526]])
    """

    def __init__(self, kernel: Kernel = "taylor", gamma: float = 0.4, order: int = 2, mix: bool = False) -> None:
        super().__init__(mix)
        self.kernel, self.gamma, self.order = kernel, gamma, order

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """A scalar: a correlation belongs to no single row."""
        blocks = self.vectors(batch, a, b)
        return torch.stack([(self._of(f) - self._of(g)).square().sum() for f, g in blocks]).sum() / pairs_of(blocks)

    def _of(self, rows: Tensor) -> Tensor:
        return correlation(rows, self.kernel, self.gamma, self.order)


def correlation(rows: Tensor, kernel: Kernel, gamma: float, order: int) -> Tensor:
    """`[n, n]`."""
    unit = F.normalize(rows, dim=1)
    cosine = unit @ unit.T
    if kernel == "bilinear":
        return cosine
    if kernel == "gaussian":
        return (2 * gamma * (cosine - 1)).exp()
    terms = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1)]
    return torch.stack(terms).sum(0)
