"""Attention transfer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.losses.aligner import met
from clkd.losses.layered import Layered


class Attention(Layered):
    """`‖Q(f)/‖Q(f)‖ − Q(g)/‖Q(g)‖‖²` with `Q = mean_c |·|ᵖ`, the map of where a layer is active.

    Zagoruyko & Komodakis 2017, "Paying More Attention to Attention", eq. 2. `variant: mean` is the mean over positions
    of the squared difference, as in the authors' code and most tools since (weight there 1000 for the sum over
    layers; the paper's β / 2 belongs to this scale); `norm` is the norm of the difference, as the equation is
    printed. Channels need not agree, since they are averaged over; maps of other sizes meet at the smaller one.

    >>> f, g = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    >>> Attention().compare(0, f, g), Attention(variant="norm").compare(0, f, g)
    (tensor([1.]), tensor([1.4142]))
    """

    maps_only: ClassVar[bool] = True

    def __init__(
        self,
        p: float = 2.0,
        variant: Literal["mean", "norm"] = "mean",
        layers: Sequence[str] | None = None,
        against: Sequence[str] | None = None,
        layer_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(layers, against, layer_weights)
        self.p, self.variant = p, variant

    def compare(self, place: int, f: Tensor, g: Tensor) -> Tensor:
        f, g = met(f, g)
        difference = attention(f, self.p) - attention(g, self.p)
        return difference.square().mean(1) if self.variant == "mean" else torch.linalg.vector_norm(difference, dim=1)


def attention(maps: Tensor, p: float) -> Tensor:
    """`[B, D, H, W]` to `[B, H·W]` of unit length: how active each position is."""
    return F.normalize(maps.abs().pow(p).mean(1).flatten(1), dim=1)
