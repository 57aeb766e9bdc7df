"""A strong view: whole batches turned, lit otherwise, painted over and blurred by noise, on the device."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.errors import UserError

NUMBERS = 5
"""Draws that each row makes, whatever is changed: angle, brightness, contrast, and the square's two coordinates."""
CHANGES = ("rotate", "shear", "translate", "contrast", "brightness", "posterize", "solarize", "cutout", "noise")
"""All changes, in the order in which they are made."""


class Strong:
    """Makes strong views of weak ones, which are normalised already. Options are those of `scenario.augment.Strong`.

    One after another: turned, slanted and moved in one (bilinear; black comes in), contrast about the row's
    own mean and brightness (both clipped to black and white), fewer bits, what is bright inverted, a square of the
    data's mean, noise.

    With `choose`, each row gets so many of the changes that are given, each choice equally likely (Cubuk et al. 2020,
    "RandAugment", draws with replacement, and fixes how strong they are where here each row draws that, too).

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
        rows: Literal["all", "unlabelled", "none"] = "all",
        shear: float = 0.0,
        translate: float = 0.0,
        posterize: int = 0,
        solarize: float = 0.0,
        choose: int | None = None,
    ) -> None:
        self.mean, self.std = mean, std
        self.rotate, self.shear, self.translate = rotate, shear, translate
        self.brightness, self.contrast = brightness, contrast
        self.posterize, self.solarize = posterize, solarize
        self.cutout, self.noise, self.rows, self.choose = cutout, noise, rows, choose
        self.given = tuple(name for name in CHANGES if getattr(self, name))

    def to(self, device: torch.device | str) -> Strong:
        """The same for rows on `device`."""
        moved = copy.copy(self)
        moved.mean, moved.std = self.mean.to(device), self.std.to(device)
        return moved

    def refuse_vectors(self, shape: Sequence[int]) -> None:
        """Raises `UserError` if rows of this shape are no images, and more than noise was asked for."""
        if len(shape) != 3 and self.given != ("noise",):
            raise UserError(
                f"stream.augment.strong: rows are vectors of shape {tuple(shape)}, to which only noise can be added"
            )

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """`[B, C, H, W]` or `[B, D]` normalised, to the same shape. Draws come from `generator`, on its device."""
        angle, brightness, contrast, down, across = self._drawn(x, NUMBERS, generator)
        chosen = self._chosen(x, generator)
        if self.rotate or self.shear or self.translate:
            slant, right, low = self._drawn(x, 3, generator) if self.shear or self.translate else (angle,) * 3
            x = self._moved(
                x,
                _around(angle, self.rotate) * chosen["rotate"],
                _around(slant, self.shear) * chosen["shear"],
                _around(right, self.translate) * chosen["translate"],
                _around(low, self.translate) * chosen["translate"],
            )
        if self.brightness or self.contrast:
            add, times = _around(brightness, self.brightness), _around(contrast, self.contrast)
            x = self._lit(x, add * chosen["brightness"], 1 + times * chosen["contrast"])
        if self.posterize:
            x = _where(chosen["posterize"], self._posterized(x), x)
        if self.solarize:
            (below,) = self._drawn(x, 1, generator)
            x = _where(chosen["solarize"], self._solarized(x, 1 - self.solarize * below), x)
        if self.cutout:
            x = x.masked_fill(self._square(x, down, across) & (chosen["cutout"] > 0).view(-1, 1, 1, 1), 0.0)
        if self.noise:
            drawn = torch.randn(x.shape, generator=generator, device=generator.device)
            x = x + self.noise * drawn.to(x, non_blocking=True) * chosen["noise"].view(-1, *[1] * (x.dim() - 1))
        return x

    def _drawn(self, x: Tensor, numbers: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """So many numbers in [0, 1) for each row."""
        drawn = torch.rand(len(x), numbers, generator=generator, device=generator.device)
        return drawn.to(x, non_blocking=True).unbind(1)

    def _chosen(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """For each change, `[B]` 1 where it is made and 0 elsewhere."""
        if self.choose is None:
            return dict.fromkeys(CHANGES, x.new_ones(len(x)))
        drawn = torch.stack(self._drawn(x, len(self.given), generator), 1)
        made = (drawn.argsort(1) < self.choose).to(x.dtype)
        return dict(zip(self.given, made.unbind(1), strict=True)) | {
            name: x.new_zeros(len(x)) for name in CHANGES if name not in self.given
        }

    def _moved(self, x: Tensor, degrees: Tensor, slant: Tensor, right: Tensor, down: Tensor) -> Tensor:
        """Turned, after it was slanted, and moved by shares of the sides.

        Coordinates are scaled to [-1, 1], so the aspect ratio enters. What comes in is 0: black is moved there.
        """
        height, width = x.shape[2:]
        aspect = height / width
        cos, sin, slope = degrees.deg2rad().cos(), degrees.deg2rad().sin(), slant.deg2rad().tan()
        above = [cos, (slope * cos - sin) * aspect, -2 * right]
        below = [sin / aspect, cos + slope * sin, -2 * down]
        theta = torch.stack([*above, *below], 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        black = self._level(0.0)
        return F.grid_sample(x - black, grid, align_corners=False) + black

    def _lit(self, x: Tensor, add: Tensor, times: Tensor) -> Tensor:
        middle = x.mean((1, 2, 3), keepdim=True)
        lit = (x - middle) * times.view(-1, 1, 1, 1) + middle + add.view(-1, 1, 1, 1) / self.std.view(-1, 1, 1)
        return torch.minimum(torch.maximum(lit, self._level(0.0)), self._level(1.0))

    def _posterized(self, x: Tensor) -> Tensor:
        """Each pixel as one of `2^(8 - bits)` levels: its upper bits."""
        step = float(2**self.posterize)
        level = ((x - self._level(0.0)) * self.std.view(-1, 1, 1) * 255).round()  # of the [0, 255] scale
        return self._level(0.0) + (level / step).floor() * step / 255 / self.std.view(-1, 1, 1)

    def _solarized(self, x: Tensor, threshold: Tensor) -> Tensor:
        black, white = self._level(0.0), self._level(1.0)
        bright = x >= black + threshold.view(-1, 1, 1, 1) * (white - black)
        return torch.where(bright, black + white - x, x)

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


def _where(made: Tensor, changed: Tensor, x: Tensor) -> Tensor:
    return torch.where(made.view(-1, 1, 1, 1) > 0, changed, x)


def _around(drawn: Tensor, most: float) -> Tensor:
    """From [0, 1) to [-most, most).

    >>> _around(torch.tensor([0.0, 0.5]), 20.0)
    tensor([-20.,   0.])
    """
    return (2 * drawn - 1) * most
