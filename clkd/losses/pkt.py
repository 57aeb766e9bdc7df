"""Probabilistic knowledge transfer."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.losses.related import Related
from clkd.signals import Batch, Signals

EPS = 1e-7
"""Added to probabilities before their logarithm, as in the authors' code."""


class PKT(Related):
    """`Σ_j p_ij log (p_ij / q_ij)` for each row i: how likely teacher (p) and student (q) take row j for its neighbour.

    Passalis & Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer", eq. 3-8 with the
    cosine kernel `K = (cos + 1) / 2` and `p_ij = K_ij / Σ_{k≠i} K_ik`. RepDistiller's (and the authors') code lets j be
    i as well and takes the mean over all pairs, a B-th of the sum, which explains its weight of 30,000: `variant:
    repdistiller`. Maps are averaged over positions. A block with fewer than two rows adds 0.

    >>> f, g = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> divergence(f, g, itself=False)
    tensor([0.1811, 0.1811, 0.0000])
    """

    def __init__(self, variant: Literal["paper", "repdistiller"] = "paper", mix: bool = False) -> None:
        super().__init__(mix)
        self.variant = variant

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """`[B]`."""
        paper = self.variant == "paper"
        values = [
            divergence(f, g, itself=not paper) / (1 if paper else max(len(f), 1)) for f, g in self.vectors(batch, a, b)
        ]
        return torch.cat(values)


def divergence(f: Tensor, g: Tensor, itself: bool) -> Tensor:
    """`[n]`: from the teacher's `g` to the student's `f`, each row's over the others, or over `itself` as well."""
    p, q = neighbours(g, itself), neighbours(f, itself)
    return (p * ((p + EPS) / (q + EPS)).log()).sum(1)


def neighbours(rows: Tensor, itself: bool) -> Tensor:
    """`[n, n]`: how likely each row takes another one for its neighbour."""
    unit = F.normalize(rows, dim=1)
    near = ((unit @ unit.T + 1) / 2).clamp(min=0)
    if not itself:
        near = near * (1 - torch.eye(len(rows), device=rows.device, dtype=rows.dtype))
    return near / near.sum(1, keepdim=True).clamp(min=EPS)
