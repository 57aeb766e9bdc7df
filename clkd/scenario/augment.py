"""What a scenario says of how rows look: the training view's changes, and what all rows are normalised with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from clkd.errors import did_you_mean
from clkd.options import Options

CHANGES = ("rotate", "shear", "translate", "brightness", "contrast", "posterize", "solarize", "cutout", "noise")
"""What makes a view strong."""


def _by_its_kind(raw: Any) -> Any:
    return {"kind": raw} if isinstance(raw, str) else raw


class Strong(Options):
    """Stronger changes, on top of the view that crop and flip gave. Each row draws its own."""

    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Turn by up to so many degrees, either way."""
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Add up to so much to all pixels, or take it away, where black is 0 and white is 1."""
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    """Slant by up to so many degrees, either way."""
    translate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Move down or up, and right or left, by up to so much of the side."""
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Multiply the distance of pixels from the row's mean by 1 ± up to so much."""
    posterize: Annotated[int, Field(ge=0, le=7)] = 0
    """Take away so many of the 8 bits of each pixel."""
    solarize: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Invert what is brighter than a threshold, which lies up to so far below white."""
    cutout: Annotated[int, Field(ge=0)] = 0
    """Paint over a square of so many pixels a side, at a random place, with the data's mean."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Add normal noise of this deviation, in deviations of the data: the one change that vectors know."""
    choose: PositiveInt | None = None
    """Of all these, make so many of each row, drawn for it, as RandAugment does; by default all of them."""
    rows: Literal["all", "unlabelled", "none"] = "all"
    """Which rows the student sees like this; others it sees in the weak view, as FixMatch does with labelled ones.
    Further views, which a loss such as `supcon` asks for, are strong for every row: with `none`, they alone are."""

    @model_validator(mode="after")
    def _changes(self) -> Strong:
        given = [name for name in CHANGES if getattr(self, name)]
        if not given:
            raise ValueError(f"a strong view changes something: give {', '.join(CHANGES[:-1])} or {CHANGES[-1]}")
        if self.choose is not None and self.choose > len(given):
            raise ValueError(f"cannot choose {self.choose} of {len(given)} changes, which are {', '.join(given)}")
        return self


class Mix(Options):
    """Mixing rows with each other: each new row with a new one, each replayed one with one of its draw."""

    kind: Literal["mixup", "cutmix"]
    """`mixup` blends both rows' pixels; `cutmix` pastes a box of the other one."""
    alpha: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """A row's own share is drawn from Beta(alpha, alpha): at 1 each is equally likely, near 0 all are near 0 or 1."""
    rows: Literal["all", "new"] = "all"
    """Which rows are mixed."""


class Augment(Options):
    """Random changes of the training view, made on whole batches."""

    crop: Annotated[int, Field(ge=0)] = 0
    """Pad by this many pixels and crop back at a random place."""
    flip: bool = False
    """Mirror left to right, half of the time."""
    views: PositiveInt | None = None
    """Give each row so many fixed views, which epochs go through in turn, so that frozen teachers need to see each only
    once; by default every view is drawn anew."""
    strong: Strong | None = None
    """What is done to the student's view beside; drawn anew each time. A teacher sees the view without it if it says
    `sees: weak`."""
    mix: Annotated[
        Mix | None, BeforeValidator(_by_its_kind, json_schema_input_type=Mix | Literal["mixup", "cutmix"] | None)
    ] = None
    """Mix rows with each other (`mixup`, `cutmix`, or options), before they are made strong; all see them mixed."""


class Normalize(Options):
    """What rows are normalised with: per channel on the [0, 1] scale for images, per feature for vectors."""

    mean: tuple[float, ...]
    """What is taken away."""
    std: tuple[Annotated[float, Field(gt=0)], ...]
    """What is then divided by."""


def _named_or_spelt_out(noun: str, names: tuple[str, ...], options: type[Options], raw: Any) -> Any:
    """Either a name or a mapping, told apart here so that only the mistakes of the one meant are reported."""
    if isinstance(raw, Mapping):
        return options.model_validate(raw)
    if isinstance(raw, str) and raw not in names:
        raise ValueError(f"{noun} '{raw}' is not known ({did_you_mean(raw, names)})")
    return raw


_augmented = partial(_named_or_spelt_out, "augmentation", ("standard", "none"), Augment)
_normalized = partial(_named_or_spelt_out, "normalization", ("data", "first"), Normalize)
Augmented = Annotated[Augment | Literal["standard", "none"], BeforeValidator(_augmented)]
Normalized = Annotated[Normalize | Literal["data", "first"], BeforeValidator(_normalized)]
