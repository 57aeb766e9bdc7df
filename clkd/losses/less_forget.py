"""The angle between two models' features."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from clkd.errors import UserError
from clkd.losses.aligner import Shape, Taps
from clkd.losses.layered import Layered


class LessForget(Layered):
    """`1 − cos(f, g)` of a row's features, which have to be as many on both sides.

    Hou et al. 2019 (LUCIR), §3.3, eq. 6, the less-forget constraint of penultimate features; PODNet's code compares its
    flat features so, too (its eq. 5 has the squared distance at unit length, twice this).

    >>> import torch
    >>> LessForget().compare(0, torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([0.2929])
    """

    @property
    def called(self) -> str:
        return "less_forget"

    def bind_pair(self, place: int, taps: Taps, shapes: tuple[Shape, Shape]) -> None:
        if shapes[0] != shapes[1]:
            given = f"{taps[0]} gives {shapes[0]} and {taps[1]} gives {shapes[1]}"
            raise UserError(f"less_forget: {given}: compare layers of one shape, or use features with normalize: l2")

    def compare(self, place: int, f: Tensor, g: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(f.flatten(1), g.flatten(1))
