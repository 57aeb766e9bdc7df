"""Light: contrast, brightness, and haze."""

from __future__ import annotations

import torch
from torch import Tensor

from clkd.streams.blur import rounded
from clkd.streams.drawn import Drawn


def contrast(x: Tensor, share: float) -> Tensor:
    """Of each channel of a row, the distance from its mean times `share`. Sums are of integers, and so exact."""
    mean = x.flatten(2).sum(2, dtype=torch.int64).double().div_(x[0, 0].numel())[:, :, None, None]
    return rounded((x - mean).mul_(share).add_(mean))


def brighter(x: Tensor, more: float) -> Tensor:
    """The value of HSV raised by `more` (of 1), hue and saturation kept: channels grow by one factor; black turns grey.

    >>> brighter(torch.tensor([[[[0]], [[51]], [[102]]]], dtype=torch.uint8), 0.4).flatten().tolist()
    [0, 102, 204]
    """
    value = x.amax(1, keepdim=True).double()
    raised = (value + 255 * more).clamp_(max=255)
    return rounded(torch.where(value > 0, x * (raised / value.clamp(min=1)), raised))


def hazed(x: Tensor, thickness: float, decay: float) -> Tensor:
    """Clouds of a plasma fractal laid over each row, then scaled so that its brightest value stays what it was."""
    side = max(x.shape[2:])
    clouds = plasma(Drawn(x, "haze"), 1 << max(side - 1, 1).bit_length(), decay)[:, None, : x.shape[2], : x.shape[3]]
    lit = x.double() / 255
    brightest = lit.amax((1, 2, 3), keepdim=True)
    return rounded((lit + thickness * clouds) * (brightest / (brightest + thickness)) * 255)


def plasma(drawn: Drawn, side: int, decay: float) -> Tensor:
    """`[N, side, side]` float64 within [0, 1]: diamond-square on a torus; `side` is a power of two.

    In each round, the middle of every square and of every edge becomes the mean of the four points around it and a
    number within ± `wobble`², which `decay`² divides from round to round.
    """
    drawn_at = drawn.uniform(side * side).view(-1, side, side).double()
    clouds = torch.zeros_like(drawn_at)
    step, wobble = side, 100.0
    while step >= 2:
        half = step // 2
        inner, edge = slice(half, side, step), slice(0, side, step)

        def put(rows: slice, columns: slice, around: Tensor, wobble: float = wobble) -> None:
            clouds[:, rows, columns] = around / 4 + wobble * wobble * drawn_at[:, rows, columns]

        corners = clouds[:, edge, edge]
        pairs = corners + corners.roll(-1, 1)
        put(inner, inner, pairs + pairs.roll(-1, 2))
        middle = clouds[:, inner, inner]
        put(edge, inner, middle + middle.roll(1, 1) + corners + corners.roll(-1, 2))
        put(inner, edge, middle + middle.roll(1, 2) + corners + corners.roll(-1, 1))
        step, wobble = half, wobble / decay
    clouds -= clouds.amin((1, 2), keepdim=True)
    return clouds / clouds.amax((1, 2), keepdim=True)
