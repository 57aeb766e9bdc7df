"""What the shared options do to a data set that was just read: fewer rows, another size, other channels."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.data.source import Lazy, Raw, Split
from clkd.errors import UserError
from clkd.view import LUMA


def convert(raw: Raw, size: int | None, channels: int | None, rows_per_class: int | None) -> Raw:
    """Apply a data set's shared options.

    Raises:
        UserError: `size` or `channels` was asked of vectors.
    """
    if (size or channels) and len(raw.train.x.shape) != 4:
        raise UserError(
            f"size and channels are for images, but these rows are vectors of {raw.train.x.shape[1]} features: leave "
            "them out, or give images where a run was trained on images"
        )
    train = raw.train if rows_per_class is None else raw.train.rows(first_of_each(raw.train.y, rows_per_class))
    return replace(raw, train=_reshape(train, size, channels), test=_reshape(raw.test, size, channels))


def first_of_each(y: Tensor, n: int) -> Tensor:
    """Positions of the first `n` rows of each class, and of all rows without a label, in the order they stand.

    >>> first_of_each(torch.tensor([1, 1, 0, 1, 0, -1, -1]), 1).tolist()
    [0, 2, 5, 6]
    """
    chosen = [(y == label).nonzero().flatten()[: n if label >= 0 else None] for label in torch.unique(y).tolist()]
    return torch.cat(chosen).sort().values


def _reshape(split: Split, size: int | None, channels: int | None) -> Split:
    """Noted here, done when the rows are written."""
    x = split.x
    if size is not None and tuple(x.shape[2:]) != (size, size):
        x = _lazy(x).then(lambda rows: resize(rows, size), (x.shape[1], size, size))
    if channels is not None and x.shape[1] != channels:
        change = grey if channels == 1 else _coloured
        x = _lazy(x).then(change, (channels, *x.shape[2:]))
    return replace(split, x=x)


def _lazy(x: Tensor | Lazy) -> Lazy:
    return x if isinstance(x, Lazy) else Lazy(tuple(x.shape), lambda at: x[at])


def _coloured(x: Tensor) -> Tensor:
    return x.repeat(1, 3, 1, 1)


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
