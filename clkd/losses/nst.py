"""Neuron selectivity transfer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from clkd.losses.aligner import met
from clkd.losses.layered import Layered

Kernel = Literal["poly", "linear", "gaussian"]


class NST(Layered):
    """Squared maximum mean discrepancy between the two models' channels: where in the map do they respond?

    Huang & Wang 2017, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", eq. 5-6: each channel's
    map, divided by its norm, is one sample; `mean k(f, f') + mean k(g, g') − 2 · mean k(f, g)` over pairs of channels.
    Kernels: `poly` (d = 2, c = 0, the paper's choice), `linear`, `gaussian` with σ² the mean squared distance of the
    teacher's channels. Channels need not agree; maps of other sizes meet at the smaller one. It takes
    B · D_student · D_teacher numbers: products of channels are squared, not the maps multiplied out.

    >>> import torch
    >>> f, g = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    >>> NST().compare(0, f, g), NST().compare(0, f, f)
    (tensor([2.]), tensor([0.]))
    """

    maps_only: ClassVar[bool] = True

    def __init__(
        self,
        kernel: Kernel = "poly",
        layers: Sequence[str] | None = None,
        against: Sequence[str] | None = None,
        layer_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(layers, against, layer_weights)
        self.kernel = kernel

    def compare(self, place: int, f: Tensor, g: Tensor) -> Tensor:
        f, g = (F.normalize(maps.flatten(2), dim=2) for maps in met(f, g))
        width = squared_distance(g, g).mean((1, 2), keepdim=True) if self.kernel == "gaussian" else None
        within = kernel(f, f, self.kernel, width) + kernel(g, g, self.kernel, width)
        return within - 2 * kernel(f, g, self.kernel, width)


def kernel(a: Tensor, b: Tensor, kind: Kernel, width: Tensor | None) -> Tensor:
    """`[B]`: the mean of k over all pairs of samples, `[B, D, N]` and `[B, E, N]`."""
    if kind == "gaussian":
        assert width is not None, "a Gaussian has a width"
        return (-squared_distance(a, b) / (2 * width).clamp(min=1e-12)).exp().mean((1, 2))
    product = a @ b.transpose(1, 2)
    return (product.square() if kind == "poly" else product).mean((1, 2))


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """`[B, D, E]`."""
    product = a @ b.transpose(1, 2)
    return (a.square().sum(2)[:, :, None] + b.square().sum(2)[:, None] - 2 * product).clamp(min=0)
