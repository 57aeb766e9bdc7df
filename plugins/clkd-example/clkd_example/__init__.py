"""The front door of the plugin: what it registers, and the options of each part. It loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from clkd import Options, hookimpl

if TYPE_CHECKING:
    from clkd.registry import Register


class FocalOptions(Options):
    """Options of the loss `focal`."""

    gamma: Annotated[float, Field(ge=0)] = 2.0
    """How strongly rows that are already right are passed over; 0 is plain cross-entropy."""


class LatestOptions(Options):
    """Options of the memory `latest`."""

    size: Annotated[int, Field(gt=0)]
    """Rows to keep."""


class MomentsOptions(Options):
    """Options of the transfer strategy `moments`."""

    feature: str = "penultimate"
    """The tap of the student whose statistics are matched."""


@hookimpl
def clkd_register_losses(register: Register) -> None:
    """One line for each loss."""
    register("focal", "clkd_example.focal:Focal", config=FocalOptions, summary="cross-entropy that favours hard rows")


@hookimpl
def clkd_register_memories(register: Register) -> None:
    """One line for each memory."""
    register("latest", "clkd_example.latest:Latest", config=LatestOptions, summary="the newest rows, oldest out first")


@hookimpl
def clkd_register_transfers(register: Register) -> None:
    """One line for each transfer strategy."""
    register("moments", "clkd_example.moments:Moments", config=MomentsOptions, summary="match mean and variance")
