"""Knowledge review: each teacher's layer is compared with what all deeper layers of the student say together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.losses.aligner import Shape
from clkd.losses.layered import Layered
from clkd.perceptron import layer
from clkd.seeding import generator
from clkd.signals import Spec

LEVELS = (4, 2, 1)
"""The sizes that maps are averaged to, beside their own."""


class Review(Layered):
    """`Σ_l HCL(ABF(f_L, …, f_l), g_l)`: attention-based fusion, then the hierarchical context loss.

    Chen et al. 2021, "Distilling Knowledge via Knowledge Review", eq. 5-7 and fig. 3; the mean squared errors at the
    map's own size and at 4 × 4, 2 × 2 and 1 × 1 count 1, ½, ¼, ⅛, divided by the sum of these, as in the authors' code
    (sizes that a map does not exceed are left out). Layers go from shallow to deep. Where that code has batch norm,
    each row is normalised by itself here: a row's value does not depend on who shares its batch, and a batch of one
    will do.

    >>> f = torch.zeros(1, 1, 3, 3)
    >>> hierarchical(f, f + 2)
    tensor([4.])
    """

    maps_only: ClassVar[bool] = True
    contract_optouts: ClassVar[dict[str, str]] = {
        "agreement": "the fusion starts at random, so that equal features are not where the loss is least"
    }

    def __init__(
        self,
        layers: Sequence[str] = ("stage1", "stage2", "stage3"),
        against: Sequence[str] | None = None,
        width: int | None = None,
        layer_weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(layers, against, layer_weights, seed)
        self.width = width
        self.fusions = nn.ModuleList()
        self._made: tuple[list[int], list[int]] | None = None

    def bind(self, a: Spec, b: Spec | None) -> None:
        self._shapes: list[tuple[Shape, Shape]] = []
        super().bind(a, b)
        ours, theirs = ([shape[0] for shape in side] for side in zip(*self._shapes, strict=True))
        if (ours, theirs) == self._made:
            return
        self._made = ours, theirs
        width, deepest = self.width or min(512, ours[-1]), self.count - 1
        self.fusions = nn.ModuleList(
            Fusion(ours[i], width, theirs[i], i < deepest, generator(self.seed, "fusion", *self.taps[i]))
            for i in range(self.count)
        )

    def bind_pair(self, place: int, taps: tuple[str, str], shapes: tuple[Shape, Shape]) -> None:
        self._shapes.append(shapes)

    def total(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        deeper: Tensor | None = None
        values: list[Tensor] = []
        for place in reversed(range(self.count)):
            fused, deeper = self.fusions[place](student[place], deeper, teacher[place].shape[2:])
            values.append(self.layer_weights[place] * hierarchical(fused, teacher[place]))
        return torch.stack(values).sum(0)


class Fusion(nn.Module):
    """Attention-based fusion of one layer with what was fused of the deeper ones."""

    def __init__(self, width_in: int, width: int, width_out: int, fuse: bool, draws: torch.Generator) -> None:
        super().__init__()
        self.reduce = nn.Sequential(layer(width_in, width, 1, draws), nn.GroupNorm(1, width))
        self.expand = nn.Sequential(layer(width, width_out, 3, draws), nn.GroupNorm(1, width_out))
        self.attention = layer(2 * width, 2, 1, draws) if fuse else None

    def forward(self, x: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """What is compared with the teacher's map of `size`, and what shallower layers are fused with."""
        x = self.reduce(x)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, size=x.shape[2:], mode="nearest")
            share = self.attention(torch.cat([x, deeper], 1)).sigmoid()
            x = x * share[:, :1] + deeper * share[:, 1:]
        x = F.interpolate(x, size=size, mode="nearest")
        return self.expand(x), x


def hierarchical(f: Tensor, g: Tensor) -> Tensor:
    """`[B]`: the hierarchical context loss between maps of one shape."""
    value, count, total = (f - g).square().flatten(1).mean(1), 1.0, 1.0
    for size in LEVELS:
        if size < min(f.shape[2:]):
            count /= 2
            pooled = (F.adaptive_avg_pool2d(maps, size) for maps in (f, g))
            value = value + count * torch.sub(*pooled).square().flatten(1).mean(1)
            total += count
    return value / total
