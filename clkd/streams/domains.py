"""Domain-incremental streams: the same classes, with pixels permuted or images rotated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.errors import UserError
from clkd.experience import Warp
from clkd.seeding import derive, generator
from clkd.streams.base import Chunk, Stream, assemble

if TYPE_CHECKING:
    from clkd.data.store import Store

ROWS = 4096
"""Images rotated at a time: rotation needs floats, and this bounds the memory they take."""


@dataclass(frozen=True, slots=True)
class Permuted:
    """Shuffles the pixels of every image in the same way; the channels of a pixel stay together."""

    seed: int

    def __call__(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        order = torch.randperm(pixels.shape[2], generator=generator(self.seed, "permuted")).to(x.device)
        return pixels[:, :, order].view(x.shape)


@dataclass(frozen=True, slots=True)
class Rotated:
    """Turns every image about its centre, counter-clockwise, by `angle` degrees: bilinear, black where nothing was."""

    angle: float

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([self._turn(part) for part in torch.split(x, ROWS)])

    def _turn(self, x: Tensor) -> Tensor:
        """Ask of each pixel where it came from. Coordinates are scaled to [-1, 1], so the aspect ratio enters."""
        height, width = x.shape[2:]
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        theta = torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]], device=x.device)
        grid = F.affine_grid(theta[None], [1, 1, height, width], align_corners=False).expand(len(x), -1, -1, -1)
        return F.grid_sample(x.float(), grid, align_corners=False).round().to(x.dtype)


def by_domain(
    *,
    store: Store,
    seed: int,
    transform: Literal["permuted", "rotated"],
    experiences: int | None = None,
    max_angle: float = 180.0,
    angles: Sequence[float] | None = None,
    first_plain: bool = True,
    validation: float = 0.0,
    offset: int = 0,
) -> Stream:
    """Domain-incremental: every experience has all rows, seen in its own way (Permuted and Rotated MNIST).

    Rotations are drawn evenly from [0, `max_angle`), one a domain, as Mammoth does. Options are those of
    `clkd.streams.DomainOptions`.

    Raises:
        UserError: the rows are vectors. (Each feature has a scale of its own, so features cannot change places.)
    """
    if len(store.shape) != 3:
        raise UserError(f"transform: {transform} needs images, but rows are vectors of shape {store.shape}")
    count = len(angles) if angles is not None else experiences
    assert count is not None, "DomainOptions asks for one of the two"
    train, test = torch.arange(len(store.train.y)), torch.arange(len(store.test.y))
    chunks = []
    for i in range(count):
        angle = None if angles is None else angles[i]
        warp, name = (
            _permuted(offset + i, seed, first_plain)
            if transform == "permuted"
            else _rotated(offset + i, seed, max_angle, angle)
        )
        chunks.append(Chunk(name, train, test, domain=i, warp=warp))
    return Stream("domain", assemble(chunks, store, seed, validation, offset), store)


def _permuted(i: int, seed: int, first_plain: bool) -> tuple[Warp | None, str]:
    return (None, "plain") if i == 0 and first_plain else (Permuted(derive(seed, "permuted", i)), f"permuted {i}")


def _rotated(i: int, seed: int, max_angle: float, given: float | None) -> tuple[Warp, str]:
    drawn = torch.rand((), generator=generator(seed, "rotated", i)).item() * max_angle
    angle = drawn if given is None else given
    return Rotated(angle), f"rotated {angle:.4g}°"
