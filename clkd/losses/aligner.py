"""Bringing the features of two layers into one shape."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.errors import UserError
from clkd.losses.feature_options import Align
from clkd.perceptron import layer
from clkd.seeding import generator

Shape = tuple[int, ...]
Taps = tuple[str, str]
EPS = 1e-5
"""Added to variances."""


class Aligner(nn.Module):
    """A pooling rule, then a projector for the first side, then a normaliser for both. See `FeaturesOptions`.

    The projector is learned with the student and kept from one experience to the next while the shapes stay.

    >>> aligner = Aligner()
    >>> aligner.bind("features", ("stage1", "stage1"), ((2, 4, 4), (2,)), seed=0)
    >>> f, g = aligner(torch.ones(1, 2, 4, 4), torch.zeros(1, 2))
    >>> f
    tensor([[1., 1.]])
    """

    def __init__(
        self,
        align: Align = "auto",
        pool: Literal["auto", "none", "spatial", "interpolate"] = "auto",
        normalize: Literal["none", "l2", "zscore", "channel"] = "none",
    ) -> None:
        super().__init__()
        self.align, self.pool, self.normalize = align, pool, normalize
        self.projector: nn.Module | None = None
        self._made: tuple[str, int, int] | None = None

    def bind(self, owner: str, taps: Taps, shapes: tuple[Shape, Shape], seed: int) -> None:
        """Settle the common map size, and make the projector or keep the one there is.

        Raises:
            UserError: the options do not bring the two shapes together; `owner` is the loss that is told of.
        """
        a, b = shapes
        self.size = self._common_size(owner, taps, a, b)
        wanted = _kind(self.align, owner, taps, a[0], b[0], is_map=len(self.size) == 2), a[0], b[0]
        if wanted[0] == "none":
            self.projector = None
        elif wanted != self._made:
            self.projector = make_projector(*wanted, generator(seed, "projector", *taps))
        self._made = wanted

    def _common_size(self, owner: str, taps: Taps, a: Shape, b: Shape) -> Shape:
        """The `(H, W)` that both maps are brought to; `()` for vectors."""
        size_a, size_b = a[1:], b[1:]
        if self.pool == "none" and size_a != size_b:
            raise UserError(
                f"{owner}: {taps[0]} {a} and {taps[1]} {b} differ in map size: use pool auto, spatial or interpolate"
            )
        if self.pool == "spatial" or not size_a or not size_b:
            return ()
        return size_b if self.pool == "interpolate" else smaller(size_a, size_b)

    def forward(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, D, H, W]` or `[B, D]` each, to two of one shape."""
        if self.pool == "interpolate" and self.size and f.shape[2:] != self.size:
            f = F.interpolate(f, size=self.size, mode="bilinear")
        f, g = averaged(f, self.size), averaged(g, self.size)
        if self.projector is not None:
            f = self.projector(f)
        return normal(f, self.normalize), normal(g, self.normalize)


def _kind(align: Align, owner: str, taps: Taps, width_a: int, width_b: int, is_map: bool) -> str:
    """What projector is made: `none`, or one of the other words for a layer."""
    linear, hint = ("conv1x1", "conv3x3") if is_map else ("linear", "linear")
    if align == "auto":
        return "none" if width_a == width_b else linear
    if align == "none" and width_a != width_b:
        raise UserError(
            f"{owner}: {taps[0]} has {width_a} channels and {taps[1]} has {width_b}: align none cannot "
            f"compare them, use align auto or {linear}"
        )
    if align in ("none", "hint"):
        return hint if align == "hint" else "none"
    if align == "mlp":
        return "mlp_maps" if is_map else "mlp"
    if align not in (linear, hint):
        raise UserError(
            f"{owner}: align {align} does not fit {'maps' if is_map else 'vectors'}: use align auto or {linear}"
        )
    return align


def make_projector(kind: str, width_in: int, width_out: int, draws: torch.Generator) -> nn.Module:
    """From one width to another; all weights come from `draws`."""
    if kind in ("mlp", "mlp_maps"):
        size = 1 if kind == "mlp_maps" else None
        return nn.Sequential(
            layer(width_in, width_out, size, draws), nn.ReLU(), layer(width_out, width_out, size, draws)
        )
    return layer(width_in, width_out, {"linear": None, "conv1x1": 1, "conv3x3": 3}[kind], draws)


def normal(features: Tensor, how: str) -> Tensor:
    """Each row, or each channel, brought to the scale that `how` asks for."""
    if how == "l2":
        return F.normalize(features.flatten(1), dim=1).view_as(features)
    if how == "zscore":
        return F.layer_norm(features, features.shape[1:])
    if how == "channel":
        over = [d for d in range(features.dim()) if d != 1]
        variance, mean = torch.var_mean(features, over, correction=0, keepdim=True)
        return (features - mean) * (variance + EPS).rsqrt()
    return features


def smaller(a: Shape, b: Shape) -> Shape:
    """The size that both maps can be averaged down to."""
    return tuple(map(min, a, b))


def averaged(features: Tensor, size: Shape) -> Tensor:
    """Maps `[B, D, H, W]` averaged to `[B, D, *size]`; vectors, and maps of that size, as they are.

    >>> averaged(torch.arange(4.0).reshape(1, 1, 2, 2), ())
    tensor([[1.5000]])
    """
    if features.dim() == 2 or features.shape[2:] == size:
        return features
    if not size:
        return features.flatten(2).mean(2)
    return F.adaptive_avg_pool2d(features, (size[0], size[1]))


def met(f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps, the larger one averaged down to the smaller one, along each axis."""
    size = smaller(tuple(f.shape[2:]), tuple(g.shape[2:]))
    return averaged(f, size), averaged(g, size)
