"""Transfer strategies: what makes old and new domains comparable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd.hooks import hookimpl
from clkd.options import Options

if TYPE_CHECKING:
    from clkd.registry import Register
    from clkd.scenario.model import Scenario


class CoralOptions(Options):
    """Options of `coral`."""

    feature: str = "penultimate"
    """The student's layer whose statistics are brought together; maps are averaged over positions."""
    mean: bool = False
    """Bring the means together, too."""

    def problems(self, scenario: Scenario) -> list[str]:
        """What makes no sense in this scenario."""
        if scenario.memory.name != "none":
            return []
        return ["new rows are compared with replayed ones, but memory is none: give the scenario a memory"]


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
