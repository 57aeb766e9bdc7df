"""Blur by a lens out of focus (a disk), or by motion.

Sums are made pixel by pixel in one order, so that no row's bits depend on the rows beside it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.streams.drawn import Drawn

ANGLES = 91
"""Directions of motion: whole degrees from -45 to 45."""
FAINT = 1e-5
"""What weighs less is left out."""


def rounded(x: Tensor) -> Tensor:
    """Floats of the [0, 255] scale as uint8."""
    return x.round_().clamp_(0, 255).to(torch.uint8)


def blurred(x: Tensor, kernel: Tensor) -> Tensor:
    """`[N, C, H, W]` uint8, each pixel a mean of those around it, by weights `[k, k]` (k odd) that sum to 1."""
    reach = len(kernel) // 2
    height, width = x.shape[2:]
    padded = reflected(x.float(), reach)
    out = torch.zeros_like(x, dtype=torch.float32)
    for down, across in (kernel > FAINT).nonzero().tolist():
        out += padded[:, :, down : down + height, across : across + width] * float(kernel[down, across])
    return rounded(out)


def reflected(x: Tensor, reach: int) -> Tensor:
    """`[N, C, H, W]` with `reach` pixels more at each side, mirrored at the outermost pixel as often as it takes."""
    down, across = (mirror(torch.arange(-reach, side + reach, device=x.device), side) for side in x.shape[2:])
    return x[:, :, down][:, :, :, across]


def mirror(at: Tensor, side: int) -> Tensor:
    """Places outside `0 … side - 1` as seen in mirrors at the outermost ones.

    >>> mirror(torch.arange(-3, 6), 3).tolist()
    [1, 2, 1, 0, 1, 2, 1, 0, 1]
    """
    return (at + side - 1).remainder(max(2 * side - 2, 1)).sub(side - 1).abs() if side > 1 else at * 0


@lru_cache(maxsize=16)
def disk(radius: float, smoothing: float) -> Tensor:
    """`[k, k]`, summing to 1: a disk smoothed by a normal kernel of three pixels a side (five for large disks)."""
    reach = math.ceil(radius)
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    flat = ((at[:, None] ** 2 + at**2) <= radius**2).double()
    wide = 2 if radius > 8 else 1
    near = torch.arange(-wide, wide + 1, dtype=torch.float64)
    bell = torch.exp(-(near**2) / (2 * max(smoothing, 1e-3) ** 2))
    kernel = torch.outer(bell / bell.sum(), bell / bell.sum())
    padded = F.pad(flat / flat.sum(), (wide,) * 4)
    return F.conv2d(padded[None, None], kernel[None, None], padding=wide)[0, 0]


def motion(x: Tensor, radius: float, sigma: float) -> Tensor:
    """From a direction that each row draws from -45° to 45° (0 is right, 45 right and down), fading as one side of a
    normal kernel; edges go on. As ImageMagick's `MotionBlurImage`."""
    weights, offsets = streak(round(radius), sigma)
    height, width = x.shape[2:]
    chosen = offsets.to(x.device)[Drawn(x, "motion_blur").below(ANGLES, 1).squeeze(1)]  # [N, taps, 2]
    down, across = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    pixels, out = x.flatten(2).float(), torch.zeros(x.flatten(2).shape, device=x.device)
    for tap, weight in enumerate(weights):
        rows = (down + chosen[:, tap, :1]).clamp(0, height - 1)
        columns = (across + chosen[:, tap, 1:]).clamp(0, width - 1)
        at = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None].expand(pixels.shape)
        out += pixels.gather(2, at) * weight
    return rounded(out).view(x.shape)


@lru_cache(maxsize=16)
def streak(radius: int, sigma: float) -> tuple[list[float], Tensor]:
    """Weights, and for each angle where each lies: `[ANGLES, taps, 2]` pixels down and across."""
    weights = [math.exp(-(i**2) / (2 * max(sigma, 1e-3) ** 2)) for i in range(2 * radius + 1)]
    weights = [w / sum(weights) for w in weights if w > FAINT * sum(weights)]
    angles = [math.radians(degrees) for degrees in range(-(ANGLES // 2), ANGLES // 2 + 1)]
    offsets = [
        [[math.ceil(i * side - 0.5) for side in (math.sin(angle), math.cos(angle))] for i in range(len(weights))]
        for angle in angles
    ]
    return weights, torch.tensor(offsets)
