"""Schedules: what a weight or a temperature follows while training goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from clkd.hooks import hookimpl
from clkd.options import Options

if TYPE_CHECKING:
    from clkd.registry import Register


class ConstantOptions(Options):
    """Options of `constant`."""

    value: float = 1.0


class WarmupOptions(Options):
    """Options of `warmup`: how long it rises, in epochs or in steps; by default the whole experience."""

    value: float = 1.0
    """What it rises to, from 0."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_length(self) -> WarmupOptions:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give the length in epochs or in steps, not both")
        return self


class OldFractionOptions(Options):
    """Options of `old_fraction`."""

    value: float = 1.0
    """What the fraction is multiplied by."""


@hookimpl
def clkd_register_schedules(register: Register) -> None:
    """The schedules that clkd ships."""
    register(
        "constant", "clkd.schedules.constant:Constant", config=ConstantOptions, summary="the same value all the time"
    )
    register(
        "warmup",
        "clkd.schedules.warmup:Warmup",
        config=WarmupOptions,
        summary="rises linearly from 0 in every experience, then stays",
    )
    register(
        "old_fraction",
        "clkd.schedules.old_fraction:OldFraction",
        config=OldFractionOptions,
        summary="the share of old classes among those seen: 0 in the first experience, growing later",
    )
