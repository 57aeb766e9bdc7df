"""Domain-incremental streams: the same classes, permuted, rotated, corrupted, or in the data's own domains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.errors import UserError
from clkd.experience import Warp
from clkd.seeding import derive, generator
from clkd.streams import DomainLook
from clkd.streams.base import Chunk, Stream, assemble, positions
from clkd.streams.corrupted import Corrupted
from clkd.streams.drawn import Drawn

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
        turned = torch.empty_like(x)
        for rows, place in zip(torch.split(x, ROWS), torch.split(turned, ROWS), strict=True):
            place.copy_(self._turn(rows))
        return turned

    def _turn(self, x: Tensor) -> Tensor:
        """Ask of each pixel where it came from. Coordinates are scaled to [-1, 1], so the aspect ratio enters."""
        height, width = x.shape[2:]
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        theta = torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]], device=x.device)
        grid = F.affine_grid(theta[None], [1, 1, height, width], align_corners=False).expand(len(x), -1, -1, -1)
        return F.grid_sample(x.float(), grid, align_corners=False).round_()


@dataclass(frozen=True, slots=True)
class Mixed:
    """A share of the rows as in one domain, the others as in another; a larger share holds those of a smaller one."""

    one: Warp | None
    other: Warp | None
    share: float

    def __call__(self, x: Tensor) -> Tensor:
        """Which row looks how is a hash of its pixels, so that it does not depend on the rows beside it."""
        out = x.clone()
        chosen = Drawn(x, "mixture").below(2**16, 1).squeeze(1) < self.share * 2**16
        for rows, warp in ((chosen, self.other), (~chosen, self.one)):
            if warp is not None and rows.any():
                out[rows] = warp(x[rows])
        return out


def by_domain(
    *,
    store: Store,
    seed: int,
    transform: Literal["permuted", "rotated"] | None = None,
    experiences: int | None = None,
    max_angle: float = 180.0,
    angles: Sequence[float] | None = None,
    first_plain: bool = True,
    domains: Sequence[DomainLook] | None = None,
    steps: int = 1,
    drift: Literal["strength", "mixture"] = "strength",
    order: Sequence[int] | None = None,
    validation: float = 0.0,
    offset: int = 0,
) -> Stream:
    """Domain-incremental: every experience has all rows, seen in its own way (Permuted and Rotated MNIST).

    Rotations are drawn evenly from [0, `max_angle`), one a domain, as Mammoth does. Where the data names each row's
    domain, and neither a transform nor domains are given, an experience has the rows of one domain. Options are those
    of `clkd.streams.DomainOptions`.

    Raises:
        UserError: the rows are vectors (each feature has a scale of its own, so features cannot change places), or
            neither the options nor the data say what the domains are.
    """
    if transform is None and domains is None:
        return Stream("domain", assemble(_own(store, order), store, seed, validation, offset), store)
    if len(store.shape) != 3:
        what = f"transform: {transform}" if transform else "domains:"
        raise UserError(f"{what} needs images, but rows are vectors of shape {store.shape}")
    if domains is not None:
        looks = list(_gradual(domains, steps, drift))
    else:
        count = len(angles) if angles is not None else experiences
        assert count is not None, "DomainOptions asks for one of the two"
        looks = []
        for i in range(count):
            angle = None if angles is None else angles[i]
            looks.append(
                _permuted(offset + i, seed, first_plain)
                if transform == "permuted"
                else _rotated(offset + i, seed, max_angle, angle)
            )
    train, test = torch.arange(len(store.train.y)), torch.arange(len(store.test.y))
    numbers = list(dict.fromkeys(warp for warp, _ in looks))
    chunks = [Chunk(name, train, test, domain=numbers.index(warp), warp=warp) for warp, name in looks]
    return Stream("domain", assemble(chunks, store, seed, validation, offset), store)


def _own(store: Store, order: Sequence[int] | None) -> list[Chunk]:
    """One experience for each of the data's own domains, or as `order` says."""
    train, test = store.train.domain, store.test.domain
    if train is None or test is None:
        raise UserError(
            f"by: domain needs transform or domains, or data that names each row's domain, which {store.name} does not"
        )
    known = torch.unique(train).tolist()
    strange = sorted(set(torch.unique(test).tolist()) - set(known))
    if strange and order is None:
        raise UserError(
            f"by: domain: no training row of domain {strange[0]} is left, and it has test rows: name the domains that "
            "are to come in `order`, or leave out `rows_per_class`"
        )
    for each in order or ():
        if each not in known:
            raise UserError(f"order: there is no domain {each}, the data has {', '.join(map(str, known))}")
    chunks = []
    for number in order if order is not None else known:
        name = store.domain_names[number] if store.domain_names else f"domain {number}"
        chunks.append(Chunk(name, positions(train == number), positions(test == number), domain=number))
    return chunks


Looking = tuple[Warp | None, str]


def _gradual(domains: Sequence[DomainLook], steps: int, drift: str) -> Iterator[Looking]:
    """Each domain, and what lies between it and the next."""
    for one, other in pairwise(domains):
        yield _look(one.kind, one.strength)
        for step in range(1, steps):
            yield (_between if drift == "strength" else _mixture)(one, other, step / steps)
    yield _look(domains[-1].kind, domains[-1].strength)


def _look(kind: str, strength: float) -> Looking:
    if kind == "clean":
        return None, "clean"
    strength = round(strength, 6) + 0.0  # or what is half-way there would not be what is half-way back; no -0
    return Rotated(strength) if kind == "rotated" else Corrupted(kind, strength), f"{kind} {strength:.4g}"


def _between(one: DomainLook, other: DomainLook, share: float) -> Looking:
    kind = other.kind if one.kind == "clean" else one.kind
    return _look(kind, (1 - share) * one.strength + share * other.strength)


def _mixture(one: DomainLook, other: DomainLook, share: float) -> Looking:
    (before, name), (after, next_name) = _look(one.kind, one.strength), _look(other.kind, other.strength)
    told = f"{1 - share:.0%} {name}, {share:.0%} {next_name}"
    if repr(before) > repr(after):  # on the way back it is the same mixture, of the same rows
        before, after, share = after, before, 1 - share
    return Mixed(before, after, round(share, 6)), told


def _permuted(i: int, seed: int, first_plain: bool) -> tuple[Warp | None, str]:
    return (None, "plain") if i == 0 and first_plain else (Permuted(derive(seed, "permuted", i)), f"permuted {i}")


def _rotated(i: int, seed: int, max_angle: float, given: float | None) -> tuple[Warp, str]:
    drawn = torch.rand((), generator=generator(seed, "rotated", i)).item() * max_angle
    angle = drawn if given is None else given
    return Rotated(angle), f"rotated {angle:.4g}°"
