"""Transfer strategies: what makes old and new domains comparable."""

from __future__ import annotations

from clkd.hooks import hookimpl
from clkd.options import Options
from clkd.registry import Register


class CoralOptions(Options):
    """Options of `coral`."""

    feature: str = "penultimate"
    """The student's layer whose statistics are brought together; maps are averaged over positions."""
    mean: bool = False
    """Bring the means together, too."""


@hookimpl
def clkd_register_transfers(register: Register) -> None:
    """The transfer strategies that clkd ships."""
    register("none", "clkd.transfer.base:Transfer", config=Options, summary="does nothing")
    register(
        "coral",
        "clkd.transfer.coral:Coral",
        config=CoralOptions,
        summary="brings the covariances of new and replayed rows' features together (Deep CORAL)",
    )
