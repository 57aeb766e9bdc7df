"""Pooled outputs distillation."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.errors import UserError
from clkd.losses.aligner import Shape, Taps
from clkd.losses.layered import Layered


class POD(Layered):
    """`‖P(f) − P(g)‖`, P the sums of f² over the height and over the width, side by side at unit length.

    Douillard et al. 2020, "PODNet", eq. 4 (POD-spatial), with the square of the activations, the unit length and the
    norm in place of its square that the authors' code has. They take the mean over layers, here it is the sum.

    >>> POD().compare(0, torch.ones(1, 1, 1, 2), torch.tensor([[[[2.0, 0.0]]]]))
    tensor([0.5176])
    """

    maps_only: ClassVar[bool] = True

    def bind_pair(self, place: int, taps: Taps, shapes: tuple[Shape, Shape]) -> None:
        if shapes[0] != shapes[1]:
            given = f"{taps[0]} gives {shapes[0]} and {taps[1]} gives {shapes[1]}"
            raise UserError(f"pod: {given}: name layers of one shape")

    def compare(self, place: int, f: Tensor, g: Tensor) -> Tensor:
        distance: Tensor = torch.linalg.vector_norm(pooled(f) - pooled(g), dim=1)
        return distance


def pooled(maps: Tensor) -> Tensor:
    """`[B, D, H, W]` to `[B, D·(H + W)]` of unit length."""
    squares = maps.square()
    return F.normalize(torch.cat([squares.sum(3).flatten(1), squares.sum(2).flatten(1)], 1), dim=1)
