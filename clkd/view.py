"""How one model sees the rows of others: other channels, a cut, a turn, another size, other statistics."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.errors import UserError
from clkd.options import ViewOptions

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601: how bright red, green and blue look."""
Channels = Literal["gray", "rgb"] | tuple[int, ...] | None
Statistics = tuple[Tensor, Tensor]
"""Mean and deviation, `[C]` each; `[D]` of vectors."""


class View:
    """Normalised rows as one model sees them.

    Args:
        given: the statistics that the rows which come are normalised with.
        wanted: those that this model's are to be normalised with; None for the given ones of the channels it sees.
        size, channels, crop, rotate: as in `ViewOptions`.

    >>> half = torch.full((3,), 0.5)
    >>> gray = View((half, half), (torch.tensor([0.0]), torch.tensor([1.0])), channels="gray")
    >>> white = torch.ones(1, 3, 2, 2)  # (1 - 0.5) / 0.5
    >>> gray(white).flatten(), gray.shape((3, 2, 2))
    (tensor([1., 1., 1., 1.]), (1, 2, 2))
    """

    def __init__(
        self,
        given: Statistics,
        wanted: tuple[Tensor | None, Tensor | None] = (None, None),
        size: int | None = None,
        channels: Channels = None,
        crop: int | None = None,
        rotate: int | None = None,
    ) -> None:
        self.size, self.channels, self.crop, self.rotate = size, channels, crop, rotate
        weights = torch.tensor(LUMA)
        self.mix = weights * given[1] if channels == "gray" else None
        """`[3]` what gray, on the [0, 1] scale, is of each normalised channel, beside a constant."""
        self.at = torch.tensor(channels if isinstance(channels, tuple) else ())
        mean, std = seen = _picked(given, channels)
        own_mean, own_std = (own if own is not None else its for own, its in zip(wanted, seen, strict=True))
        if channels == "gray":  # its rows come as they are, and `mean` is the constant
            self.scale, self.shift = 1 / own_std, (mean - own_mean) / own_std
        else:
            self.scale, self.shift = std / own_std, (mean - own_mean) / own_std

    def __call__(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` (or `[B, D]`) normalised for others → the same rows as this model sees them."""
        if self.scale.device != x.device:  # once: in a step, nothing waits for the device
            self.scale, self.shift = self.scale.to(x.device), self.shift.to(x.device)
            self.mix = None if self.mix is None else self.mix.to(x.device)
            self.at = self.at.to(x.device)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        seen = self._of_channels(x) * self.scale.view(shape).to(x.dtype) + self.shift.view(shape).to(x.dtype)
        if self.crop is not None:
            top, left = ((side - self.crop) // 2 for side in seen.shape[-2:])
            seen = seen[..., top : top + self.crop, left : left + self.crop]
        if self.rotate is not None:
            seen = torch.rot90(seen, self.rotate // 90, (-2, -1))
        if self.size is None or tuple(seen.shape[-2:]) == (self.size, self.size):
            return seen
        return F.interpolate(seen, size=(self.size, self.size), mode="bilinear", antialias=True)

    def _of_channels(self, x: Tensor) -> Tensor:
        if self.channels is None:
            return x
        if self.mix is not None:
            return (x * self.mix.view(1, 3, 1, 1).to(x.dtype)).sum(1, keepdim=True)
        if self.channels == "rgb":
            return x.expand(-1, 3, -1, -1)
        return x.index_select(1, self.at)

    def shape(self, given: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that this model sees a row of shape `given` in."""
        channels = {None: given[0], "gray": 1, "rgb": 3}
        count = len(self.channels) if isinstance(self.channels, tuple) else channels[self.channels]
        sides = given[1:]
        if self.crop is not None:
            sides = (self.crop, self.crop)
        if self.rotate in (90, 270):
            sides = sides[::-1]
        return (count, *(sides if self.size is None else (self.size, self.size)))

    def facts(self) -> dict[str, Any]:
        """What decides it, as plain data."""
        named = list(self.channels) if isinstance(self.channels, tuple) else self.channels
        chosen = {"channels": named, "crop": self.crop, "rotate": self.rotate}
        mix = {} if self.mix is None else {"mix": self.mix.tolist()}
        return {
            "scale": self.scale.flatten().tolist(),
            "shift": self.shift.flatten().tolist(),
            "size": self.size,
            **{key: value for key, value in chosen.items() if value is not None},
            **mix,
        }


def view_of(options: ViewOptions | None, mean: Tensor, std: Tensor, shape: tuple[int, ...]) -> View | None:
    """What a scenario asks for, of rows of `shape` that are normalised with `mean` and `std`.

    Raises:
        UserError: there is no such view of rows of this shape.
    """
    if options is None or options == ViewOptions():
        return None
    _refuse_impossible(options, shape)
    wanted = tuple(None if own is None else torch.tensor(own) for own in (options.mean, options.std))
    view = View(
        (mean.cpu(), std.cpu()),
        (wanted[0], wanted[1]),
        options.size,
        options.channels,
        options.crop,
        options.rotate,
    )
    count = view.shape(shape)[0]
    for key, own in (("mean", options.mean), ("std", options.std)):
        if own is not None and len(own) != count:
            raise UserError(f"view: '{key}' has {len(own)} numbers, but it sees {count} {_kind(shape)}: give one each")
    return view


def _refuse_impossible(options: ViewOptions, shape: tuple[int, ...]) -> None:
    for key in ("crop", "rotate", "size"):
        if getattr(options, key) is not None and len(shape) != 3:
            raise UserError(f"view: '{key}' is for images, but rows are vectors of {shape[0]} features: leave it out")
    if options.crop is not None and options.crop > min(shape[1:]):
        raise UserError(f"view: 'crop' cannot cut {options.crop} pixels out of {shape[1]}×{shape[2]}")
    if isinstance(options.channels, tuple):
        if max(options.channels) >= shape[0]:
            raise UserError(
                f"view: 'channels' asks for {max(options.channels)}, but rows have {shape[0]} {_kind(shape)}, "
                f"0 to {shape[0] - 1}"
            )
    elif options.channels is not None:
        needed = 3 if options.channels == "gray" else 1
        if len(shape) != 3 or shape[0] != needed:
            raise UserError(
                f"view: '{options.channels}' is made of {needed} channel{'s' * (needed > 1)}, but rows have "
                f"{shape[0]} {_kind(shape)}: name those that it sees, as in channels: [0]"
            )


def _kind(shape: tuple[int, ...]) -> str:
    return "channels" if len(shape) == 3 else "features"


def _picked(given: Statistics, channels: Channels) -> Statistics:
    """The statistics of the channels that are seen."""
    if channels is None:
        return given
    if channels == "gray":
        weights = torch.tensor(LUMA)
        mean, std = ((weights * each).sum().view(1) for each in given)
    elif channels == "rgb":
        mean, std = (each.expand(3) for each in given)
    else:
        mean, std = (each[list(channels)] for each in given)
    return mean, std
