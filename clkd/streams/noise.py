"""Noise that each pixel draws for itself: a table of what every grey turns into at every draw."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from clkd.streams.drawn import Drawn

LEVELS = 2**14
"""Different draws of a pixel: a normal one is cut off at 4 deviations."""


def noisy(x: Tensor, kind: str, strength: float) -> Tensor:
    """`[N, C, H, W]` uint8 with each value of each pixel disturbed by itself."""
    at = Drawn(x, kind).below(LEVELS, x[0].numel()).add_(x.flatten(1).long().mul_(LEVELS))
    return table(kind, strength, x.device).flatten().index_select(0, at.flatten()).view(x.shape)


@lru_cache(maxsize=8)
def table(kind: str, strength: float, device: torch.device) -> Tensor:
    """`[256, LEVELS]` uint8, each row in ascending order: the quantiles of what a grey may turn into.

    `gaussian_noise`: `x + strength · N(0, 1)`; `shot_noise`: `Poisson(x / strength) · strength`; `impulse_noise`: black
    or white for a share `strength` of the values, as many each. All on the [0, 1] scale, clipped and rounded.
    """
    grey = (torch.arange(256, dtype=torch.float64) / 255)[:, None]
    at = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    if kind == "gaussian_noise":
        turned = grey + strength * torch.special.ndtri(at)
    elif kind == "shot_noise":
        turned = _poisson(grey / strength, at) * strength
    else:
        turned = torch.where(at < strength / 2, 0.0, torch.where(at >= 1 - strength / 2, 1.0, grey))
    quantiles: Tensor = turned.clamp(0, 1).mul(255).round().to(torch.uint8).to(device)
    return quantiles


def _poisson(rate: Tensor, at: Tensor) -> Tensor:
    """Quantiles of Poisson distributions (`[n, 1]` rates, `[m]` probabilities): the least k with `P(X ≤ k) ≥ p`."""
    most = int(rate.max() + 6 * rate.max().sqrt() + 10)
    k = torch.arange(most, dtype=torch.float64)
    below = torch.special.gammaincc(k + 1, rate.clamp(min=1e-9))
    return torch.searchsorted(below, at.expand(len(rate), -1).contiguous()).double()
