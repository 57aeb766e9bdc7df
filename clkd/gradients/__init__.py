"""Gradient policies: what is done to a step's gradient so that it does no harm to replayed rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from clkd.hooks import hookimpl
from clkd.options import Options

if TYPE_CHECKING:
    from clkd.registry import Register
    from clkd.scenario.model import Scenario


class GradientOptions(Options):
    """What holds for every gradient policy."""

    def problems(self, scenario: Scenario) -> list[str]:
        """What makes no sense in this scenario."""
        found = []
        if scenario.memory.name == "none":
            found.append("it asks what a step does to replayed rows, but memory is none: give the scenario a memory")
        if scenario.transfer.name != "none":
            found.append(
                f"new and replayed rows are looked at apart, so '{scenario.transfer.name}' could not compare them: set "
                "transfer: none"
            )
        if scenario.train.replay_draws > 1:
            found.append("it takes all replayed rows together: leave out train.replay_draws")
        if scenario.teaches_of_new_rows_alone:
            found.append("no loss is about replayed rows: let one be about all rows (between: [student])")
        return found


class AGEMOptions(GradientOptions):
    """Options of `agem`."""


class GEMOptions(GradientOptions):
    """Options of `gem`."""

    margin: Annotated[float, Field(ge=0)] = 0.0
    """Added to how much each past experience's gradient counts, in favour of backward transfer; 0.5 in the paper."""


@hookimpl
def clkd_register_gradients(register: Register) -> None:
    """The gradient policies that clkd ships."""
    register(
        "agem",
        "clkd.gradients.agem:AGEM",
        config=AGEMOptions,
        summary="no step may raise the loss on replayed rows (A-GEM, Chaudhry et al. 2019)",
    )
    register(
        "gem",
        "clkd.gradients.gem:GEM",
        config=GEMOptions,
        summary="no step may raise the loss on replayed rows of any past experience (Lopez-Paz & Ranzato 2017)",
    )
