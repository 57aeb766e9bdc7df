"""Learning from another model's inner layers."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.errors import UserError
from clkd.losses.base import Loss, full_precision
from clkd.seeding import generator
from clkd.signals import Batch, Needs, Signals, Spec

Shape = tuple[int, ...]


class Features(Loss):
    """`mean (r(f) − g)²` over a row's features: student f, teacher g, projector r where their widths differ.

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3 (with the mean over features in place of half the
    sum, so that one weight serves layers of any size). The projector is learned with the student and kept from one
    experience to the next; it is linear and has no normalisation of its own.

    >>> from clkd.signals import Batch
    >>> loss, side = Features(), Spec(class_ids=(0,), born=(0,), feature="stage1", shape=(2,))
    >>> loss.bind(side, side)
    >>> f, g = (Signals(None, torch.arange(1), {"stage1": torch.tensor([row])}) for row in ([1.0, 2.0], [1.0, 5.0]))
    >>> loss(None, f, g)
    tensor([4.5000])
    """

    needs: ClassVar[Needs] = Needs(logits=False)

    def __init__(
        self,
        align: Literal["auto", "none", "linear", "conv1x1"] = "auto",
        pool: Literal["auto", "none", "spatial"] = "auto",
        normalize: Literal["none", "l2", "zscore"] = "none",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.align, self.pool, self.normalize, self.seed = align, pool, normalize, seed
        self.projector: nn.Module | None = None

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Settle the common map size, and make the projector or keep the one there is.

        Raises:
            UserError: a layer is not named, or the options do not bring the two shapes together.
        """
        assert b is not None, "features has two sides"
        self.taps = _tap(a), _tap(b)
        shapes = _shape(a), _shape(b)
        self.size = self._common_size(*shapes)
        width_a, width_b, is_map = shapes[0][0], shapes[1][0], len(self.size) == 2
        align = self._alignment(width_a, width_b, is_map)
        if align == "none":
            self.projector = None
        elif self.projector is None or projector_shape(self.projector) != (width_b, width_a, is_map):
            self.projector = make_projector(width_a, width_b, is_map, generator(self.seed, "projector", *self.taps))

    def _common_size(self, a: Shape, b: Shape) -> Shape:
        """The `(H, W)` that both maps are averaged to; `()` for vectors."""
        size_a, size_b = a[1:], b[1:]
        if self.pool == "none" and size_a != size_b:
            raise UserError(f"features: {self._named(a, b)} differ in map size: use pool auto or spatial")
        if self.pool == "spatial" or not size_a or not size_b:
            return ()
        return tuple(map(min, size_a, size_b))

    def _alignment(self, width_a: int, width_b: int, is_map: bool) -> str:
        fitting = "conv1x1" if is_map else "linear"
        if self.align == "auto":
            return "none" if width_a == width_b else fitting
        if self.align == "none" and width_a != width_b:
            raise UserError(
                f"features: {self.taps[0]} has {width_a} channels and {self.taps[1]} has {width_b}: align none cannot "
                f"compare them, use align auto or {fitting}"
            )
        if self.align not in ("none", fitting):
            raise UserError(
                f"features: align {self.align} does not fit {'maps' if is_map else 'vectors'}: use align auto "
                f"or {fitting}"
            )
        return self.align

    def _named(self, a: Shape, b: Shape) -> str:
        return f"{self.taps[0]} {a} and {self.taps[1]} {b}"

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """`[B]`."""
        assert b is not None, "features has two sides"
        f = averaged(full_precision(a.features[self.taps[0]]), self.size)
        g = averaged(full_precision(b.features[self.taps[1]]), self.size).detach()
        if self.projector is not None:
            f = self.projector(f)
        return (self._normal(f.flatten(1)) - self._normal(g.flatten(1))).square().mean(1)

    def _normal(self, rows: Tensor) -> Tensor:
        """`[B, N]` with each row brought to the scale that `normalize` asks for."""
        if self.normalize == "l2":
            return F.normalize(rows, dim=1)
        if self.normalize == "zscore":
            return F.layer_norm(rows, rows.shape[1:])
        return rows


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


def make_projector(width_in: int, width_out: int, is_map: bool, draws: torch.Generator) -> nn.Module:
    """A linear map from one width to another, at every position of a map alike; its weights come from `draws`."""
    # On meta, because a layer's own initialisation would draw from the global generator that others use.
    empty = (
        nn.Conv2d(width_in, width_out, 1, device="meta") if is_map else nn.Linear(width_in, width_out, device="meta")
    )
    layer = empty.to_empty(device="cpu")
    nn.init.kaiming_uniform_(layer.get_parameter("weight"), nonlinearity="linear", generator=draws)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


def projector_shape(projector: nn.Module) -> tuple[int, int, bool]:
    """Width out, width in, and whether it works on maps."""
    shape = projector.get_parameter("weight").shape
    return shape[0], shape[1], len(shape) == 4


def _tap(spec: Spec) -> str:
    if spec.feature is None:
        raise UserError("features: name the layers to compare, like between: [student.stage3, external.stage3]")
    return spec.feature


def _shape(spec: Spec) -> Shape:
    if spec.shape is None or len(spec.shape) not in (1, 3):
        raise UserError(f"features: {spec.feature} gives {spec.shape}, but vectors (D) or maps (D, H, W) are needed")
    return spec.shape
