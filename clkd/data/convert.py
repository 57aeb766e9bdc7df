"""What the shared options do to a data set that was just read: fewer rows, another size, other channels."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.data.source import Raw, Split
from clkd.errors import UserError

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601: how bright red, green and blue look."""

CHUNK = 4096
"""Rows converted at a time, which bounds the memory that takes."""


def convert(raw: Raw, size: int | None, channels: int | None, rows_per_class: int | None) -> Raw:
    """Apply a data set's shared options.

    Raises:
        UserError: `size` or `channels` was asked of vectors.
    """
    if (size or channels) and raw.train.x.dim() != 4:
        raise UserError("size and channels are for images, but these rows are vectors: leave them out")
    train = raw.train if rows_per_class is None else raw.train.rows(first_of_each(raw.train.y, rows_per_class))
    return replace(raw, train=_reshape(train, size, channels), test=_reshape(raw.test, size, channels))


def first_of_each(y: Tensor, n: int) -> Tensor:
    """Positions of the first `n` rows of each class, in the order they stand.

    >>> first_of_each(torch.tensor([1, 1, 0, 1, 0]), 1).tolist()
    [0, 2]
    """
    return torch.cat([(y == label).nonzero().flatten()[:n] for label in torch.unique(y)]).sort().values


def _reshape(split: Split, size: int | None, channels: int | None) -> Split:
    x = split.x
    if size is not None and x.shape[2:] != (size, size):
        x = torch.cat([resize(rows, size) for rows in torch.split(x, CHUNK)])
    if channels is not None and x.shape[1] != channels:
        x = x.repeat(1, 3, 1, 1) if channels == 3 else torch.cat([grey(rows) for rows in torch.split(x, CHUNK)])
    return replace(split, x=x)


def resize(x: Tensor, size: int) -> Tensor:
    """`[N, C, H, W]` uint8 to `[N, C, size, size]` uint8, bilinear and antialiased as in PIL."""
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def grey(x: Tensor) -> Tensor:
    """`[N, 3, H, W]` uint8 to `[N, 1, H, W]` uint8.

    >>> grey(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)).item()
    76
    """
    weights = torch.tensor(LUMA).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True).round().to(torch.uint8)
