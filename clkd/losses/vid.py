"""Variational information distillation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.losses.aligner import Aligner, Shape, Taps
from clkd.losses.feature_options import Align
from clkd.losses.layered import Layered

EPS = 1e-5
"""The least variance."""


class VID(Layered):
    """`½ mean ((r(f) − g)² / s² + log s²)` with a variance `s² = softplus(θ) + 1e-5` for each teacher's channel.

    Ahn et al. 2019, "Variational Information Distillation for Knowledge Transfer", eq. 5-6, as a mean over channels and
    positions. It is the negative log-likelihood of the teacher under a Gaussian around r(f), up to a constant, so it
    may be negative. The variances θ are parameters: they are trained, moved and saved with the student. The paper's
    regressor has three layers; `align: mlp` has two, the default one.

    >>> loss = VID(variance=1.0)
    >>> loss.bind_pair(0, ("stage1", "stage1"), ((1,), (1,)))
    >>> loss.compare(0, torch.tensor([[3.0]]), torch.tensor([[1.0]])).item()
    2.0000
    """

    def __init__(
        self,
        align: Align = "auto",
        variance: float = 5.0,
        layers: Sequence[str] | None = None,
        against: Sequence[str] | None = None,
        layer_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(layers, against, layer_weights, seed)
        self.start = math.log(math.expm1(variance - EPS))
        self.aligners = nn.ModuleList(Aligner(align) for _ in range(self.count))
        self.scales = nn.ParameterList(torch.empty(0) for _ in range(self.count))

    def bind_pair(self, place: int, taps: Taps, shapes: tuple[Shape, Shape]) -> None:
        aligner = self.aligners[place]
        assert isinstance(aligner, Aligner)
        aligner.bind(self.called, taps, shapes, self.seed)
        width = shapes[1][0]
        if len(self.scales[place]) != width:
            self.scales[place] = nn.Parameter(torch.full((width,), self.start))

    def compare(self, place: int, f: Tensor, g: Tensor) -> Tensor:
        f, g = self.aligners[place](f, g)
        variance = (F.softplus(self.scales[place]) + EPS).view(-1, *[1] * (g.dim() - 2))
        return 0.5 * ((f - g).square() / variance + variance.log()).flatten(1).mean(1)
