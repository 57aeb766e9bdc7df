"""Corruptions in five severities, on whole batches: after Hendrycks & Dietterich (2019), CIFAR-10-C."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.streams.blur import blurred, disk, motion
from clkd.streams.digital import elastic, pixelated
from clkd.streams.jpeg import compressed
from clkd.streams.light import brighter, contrast, hazed
from clkd.streams.noise import noisy

VALUES = 2**17
"""Values turned at a time, which bounds the memory for draws and floats."""
SIDE = 32
"""Pixels a side that lengths are published for: they grow with larger images, and stay with smaller ones."""

Strength = tuple[float, ...]

STRENGTHS: dict[str, tuple[Strength, ...]] = {
    "gaussian_noise": ((0,), (0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    "shot_noise": ((0,), (1 / 500,), (1 / 250,), (1 / 100,), (1 / 75,), (1 / 50,)),
    "impulse_noise": ((0,), (0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    "defocus_blur": ((0, 0), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "motion_blur": ((0, 0), (6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "contrast": ((1,), (0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    "brightness": ((0,), (0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    "haze": ((0, 3), (0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "pixelate": ((1,), (0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    "jpeg": ((100,), (80,), (65,), (58,), (50,), (40,)),
    "elastic": ((0, 0, 0), (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
}
"""What each severity from 0 (nothing) to 5 means: the constants of the authors' `make_cifar_c.py`."""


@dataclass(frozen=True, slots=True)
class Corrupted:
    """Every image corrupted, always in the same way: what is random in it is a hash of the row's pixels.

    Severities between the five take strengths between theirs. Results are rounded, where the authors cut off.

    >>> Corrupted("contrast", 2)(torch.tensor([[[[0, 100]]]], dtype=torch.uint8)).flatten().tolist()
    [25, 75]
    """

    kind: str
    severity: float

    def __call__(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` uint8 to the same."""
        if not len(x) or not self.severity:
            return x
        return torch.cat([self._turned(part) for part in torch.split(x, max(1, VALUES // x[0].numel()))])

    def _turned(self, x: Tensor) -> Tensor:
        if self.kind == "defocus_blur":  # what lies between two disks is a mean of them
            return blurred(x, lens(self.severity, _grown(x)))
        return TURNS[self.kind](x, *strength_of(self.kind, self.severity))


def strength_of(kind: str, severity: float) -> Strength:
    """The constants at a severity from 0 to 5, straight lines between those that are published.

    >>> strength_of("gaussian_noise", 2), strength_of("contrast", 0.5)
    ((0.06,), (0.875,))
    """
    below = min(int(severity), 4)
    share = severity - below
    return tuple(
        low if low == high or not share else high if share == 1 else low + share * (high - low)
        for low, high in zip(STRENGTHS[kind][below], STRENGTHS[kind][below + 1], strict=True)
    )


def _grown(x: Tensor) -> float:
    return max(1.0, min(x.shape[2:]) / SIDE)


def lens(severity: float, grown: float = 1.0) -> Tensor:
    """The kernel of `defocus_blur`, for images so many times as large as the published ones.

    >>> lens(0.5).shape, round(lens(0.5).sum().item(), 6)
    (torch.Size([5, 5]), 1.0)
    """
    below = min(int(severity), 4)
    few, many = (disk(*(each * grown for each in STRENGTHS["defocus_blur"][at])) for at in (below, below + 1))
    wider = (len(many) - len(few)) // 2
    share = severity - below
    return (1 - share) * F.pad(few, (max(wider, 0),) * 4) + share * F.pad(many, (max(-wider, 0),) * 4)


def _moved(x: Tensor, radius: float, sigma: float) -> Tensor:
    return motion(x, radius * _grown(x), sigma * _grown(x))


TURNS: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": lambda x, strength: noisy(x, "gaussian_noise", strength),
    "shot_noise": lambda x, strength: noisy(x, "shot_noise", strength),
    "impulse_noise": lambda x, strength: noisy(x, "impulse_noise", strength),
    "motion_blur": _moved,
    "contrast": contrast,
    "brightness": brighter,
    "haze": hazed,
    "pixelate": pixelated,
    "jpeg": lambda x, quality: compressed(x, round(quality)),
    "elastic": elastic,
}
"""What each but `defocus_blur` does to a batch at a strength."""
