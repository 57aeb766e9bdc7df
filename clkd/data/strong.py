"""A strong view: whole batches turned, lit otherwise, painted over and blurred by noise, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.errors import UserError

NUMBERS = 5
"""Draws that each row makes, whatever is changed: angle, brightness, contrast, and the square's two coordinates."""


class Strong:
    """Makes strong views of weak ones, which are normalised already. Options are those of `scenario.model.Strong`.

    In the order of the options: turned about the centre (bilinear; black comes in), contrast about the row's own mean
    and brightness (both clipped to black and white), a square of the data's mean, noise.

    Args:
        mean, std: `[C]`, what rows were normalised with: they say where black and white are.

    >>> strong = Strong(torch.tensor([0.5]), torch.tensor([0.5]), cutout=1)
    >>> strong(torch.ones(1, 1, 2, 2), torch.Generator().manual_seed(0)).sum()
    tensor(3.)
    """

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        rotate: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        cutout: int = 0,
        noise: float = 0.0,
        rows: Literal["all", "unlabelled"] = "all",
    ) -> None:
        self.mean, self.std = mean, std
        self.rotate, self.brightness, self.contrast = rotate, brightness, contrast
        self.cutout, self.noise, self.rows = cutout, noise, rows

    def to(self, device: torch.device | str) -> Strong:
        """The same for rows on `device`."""
        changes = self.rotate, self.brightness, self.contrast, self.cutout, self.noise
        return Strong(self.mean.to(device), self.std.to(device), *changes, self.rows)

    def refuse_vectors(self, shape: Sequence[int]) -> None:
        """Raises `UserError` if rows of this shape are no images, and more than noise was asked for."""
        if len(shape) != 3 and any((self.rotate, self.brightness, self.contrast, self.cutout)):
            raise UserError(
                f"stream.augment.strong: rows are vectors of shape {tuple(shape)}, to which only noise can be added"
            )

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """`[B, C, H, W]` or `[B, D]` normalised, to the same shape. Draws come from `generator`, on its device."""
        drawn = torch.rand(len(x), NUMBERS, generator=generator, device=generator.device).to(x, non_blocking=True)
        angle, brightness, contrast, down, across = drawn.unbind(1)
        if self.rotate:
            x = self._turned(x, _around(angle, self.rotate))
        if self.brightness or self.contrast:
            x = self._lit(x, _around(brightness, self.brightness), 1 + _around(contrast, self.contrast))
        if self.cutout:
            x = x.masked_fill(self._square(x, down, across), 0.0)
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, generator=generator, device=generator.device).to(x)
        return x

    def _turned(self, x: Tensor, degrees: Tensor) -> Tensor:
        """Coordinates are scaled to [-1, 1], so the aspect ratio enters. What comes in is 0: black is moved there."""
        height, width = x.shape[2:]
        cos, sin, zero = degrees.deg2rad().cos(), degrees.deg2rad().sin(), torch.zeros_like(degrees)
        theta = torch.stack([cos, -sin * (height / width), zero, sin * (width / height), cos, zero], 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        black = self._level(0.0)
        return F.grid_sample(x - black, grid, align_corners=False) + black

    def _lit(self, x: Tensor, add: Tensor, times: Tensor) -> Tensor:
        middle = x.mean((1, 2, 3), keepdim=True)
        lit = (x - middle) * times.view(-1, 1, 1, 1) + middle + add.view(-1, 1, 1, 1) / self.std.view(-1, 1, 1)
        return torch.minimum(torch.maximum(lit, self._level(0.0)), self._level(1.0))

    def _square(self, x: Tensor, down: Tensor, across: Tensor) -> Tensor:
        """`[B, 1, H, W]` bool: the square, whose corner lies such that all of it is within, as far as it fits."""
        height, width = x.shape[2:]
        top, left = (
            (place * (max(side - self.cutout, 0) + 1)).floor()[:, None]
            for place, side in ((down, height), (across, width))
        )
        y, at = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        rows, columns = (y >= top) & (y < top + self.cutout), (at >= left) & (at < left + self.cutout)
        return (rows[:, :, None] & columns[:, None, :])[:, None]

    def _level(self, grey: float) -> Tensor:
        """`[C, 1, 1]`: what a grey of the [0, 1] scale is once normalised."""
        return ((grey - self.mean) / self.std).view(-1, 1, 1)


def _around(drawn: Tensor, most: float) -> Tensor:
    """From [0, 1) to [-most, most).

    >>> _around(torch.tensor([0.0, 0.5]), 20.0)
    tensor([-20.,   0.])
    """
    return (2 * drawn - 1) * most
