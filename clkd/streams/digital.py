"""Fewer pixels, and pixels out of place."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.streams.blur import mirror, rounded
from clkd.streams.drawn import Drawn

REACH = 3
"""Deviations at which a normal kernel is cut off."""


def pixelated(x: Tensor, share: float) -> Tensor:
    """Down to `share` of the height and width by a box filter, and up again by repeating pixels: PIL's to the bit."""
    height, width = x.shape[2:]
    small = _shrunk(_shrunk(x, 3, max(1, int(width * share))), 2, max(1, int(height * share)))
    down, across = (
        _nearest(before, after, x.device) for before, after in zip(small.shape[2:], x.shape[2:], strict=True)
    )
    return small[:, :, down][:, :, :, across]


def _nearest(before: int, after: int, device: torch.device) -> Tensor:
    return ((torch.arange(after, device=device, dtype=torch.float64) + 0.5) * (before / after)).long()


def _shrunk(x: Tensor, dim: int, after: int) -> Tensor:
    """Each new pixel is the mean of those old ones whose centres it covers: one or two, since nothing shrinks more."""
    scale = x.shape[dim] / after
    centre = (torch.arange(after, dtype=torch.float64) + 0.5) * scale
    first, end = (centre - scale / 2 + 0.5).long(), (centre + scale / 2 + 0.5).long().clamp(max=x.shape[dim])
    last = torch.maximum(end - 1, first)
    one, other = (x.index_select(dim, at.to(x.device)).to(torch.int16) for at in (first, last))
    return ((one + other + 1) >> 1).to(torch.uint8)


def elastic(x: Tensor, most: float, sigma: float, corners: float) -> Tensor:
    """Pulled at three points, and in waves; all in shares of the shorter side.

    Args:
        most: what the waves, uniform noise within ±1 smoothed by a normal kernel of `sigma`, are multiplied by.
        corners: each of three points near the middle moves by up to so much, either way.
    """
    height, width = x.shape[2:]
    side = min(height, width)
    drawn = Drawn(x, "elastic").uniform(2 * (3 + height * width))
    pull = drawn[:, :6].view(-1, 3, 2, 1, 1) * (corners * side)
    base = _barycentric(height, width).to(x.device)
    moved = pull[:, 0] * base[0] + pull[:, 1] * base[1] + pull[:, 2] * base[2]
    if most > 0:
        waves = drawn[:, 6:].view(-1, 2, height, width)
        moved = moved + _smooth(_smooth(waves, 2, sigma * side), 3, sigma * side) * (most * side)
    across = torch.arange(width, device=x.device) + moved[:, 0]
    down = torch.arange(height, device=x.device)[:, None] + moved[:, 1]
    grid = torch.stack([(across * 2 + 1) / width - 1, (down * 2 + 1) / height - 1], 3)
    return rounded(F.grid_sample(x.float(), grid, padding_mode="reflection", align_corners=False))


@lru_cache(maxsize=4)
def _barycentric(height: int, width: int) -> Tensor:
    """`[3, H, W]`: how much each of the three points pulls at a pixel; an affine map, so they sum to 1."""
    middle, arm = (width // 2, height // 2), min(height, width) // 3 or 1
    points = [(middle[0] + arm * a, middle[1] + arm * b, 1) for a, b in ((1, 1), (1, -1), (-1, -1))]
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([across, down, torch.ones_like(down)]).double().flatten(1)
    corners = torch.tensor(points, dtype=torch.float64)
    shares: Tensor = torch.linalg.solve(corners.T, pixels)
    return shares.float().view(3, height, width)


def _smooth(x: Tensor, dim: int, sigma: float) -> Tensor:
    """Along one dimension, mirrored at the edges."""
    reach = int(REACH * sigma + 0.5)
    bell = torch.exp(-(torch.arange(-reach, reach + 1).double() ** 2) / (2 * sigma**2))
    at = torch.arange(x.shape[dim], device=x.device)
    out = torch.zeros_like(x)
    for offset, weight in zip(range(-reach, reach + 1), (bell / bell.sum()).tolist(), strict=True):
        out += x.index_select(dim, mirror(at + offset, x.shape[dim])) * weight
    return out
