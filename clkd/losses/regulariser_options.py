"""Options of the losses about the student's parameters. Nothing here loads torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from clkd.options import Options, TermOptions

if TYPE_CHECKING:
    from clkd.scenario.model import Scenario

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class RegulariserOptions(Options):
    """What every loss about the student's parameters may be told."""

    sides: ClassVar[int] = 1
    regularises: ClassVar[bool] = True

    def problems(self, scenario: Scenario) -> list[str]:
        """What makes no sense in this scenario."""
        own = next((part.shared for part in scenario.losses if part.options is self), None)
        found = []
        if isinstance(own, TermOptions) and own.between is not None:
            found.append("it holds the student's parameters, and reads neither rows nor signals: leave out between")
        if all(getattr(part.options, "regularises", False) for part in scenario.losses):
            found.append("holding parameters teaches nothing: add a loss about rows, such as cross_entropy")
        return found


class MeasuredOptions(RegulariserOptions):
    """What those may be told that look at an experience's rows once more at its end."""

    over: Literal["auto", "all", "seen", "new"] = "auto"
    """Which classes are looked at: `all` columns of the head, those `seen` so far, those `new` in this experience's
    data; `auto` is `new` for a task-aware head and `all` otherwise, which a head that grows has seen."""
    rows: Annotated[int, Field(gt=0)] | None = None
    """How many of the experience's rows are looked at, drawn at random; by default all."""


class EWCOptions(MeasuredOptions):
    """Options of `ewc`."""

    fisher: Literal["exact", "sampled", "empirical", "label"] = "exact"
    """The Fisher information's expectation over classes: `exact` (a backward pass for each class), `sampled` (one class
    drawn for each row), the labels instead (`empirical`), or these times their probability (`label`: Mammoth)."""
    mode: Literal["separate", "online"] = "separate"
    """The sum of one penalty for each experience, or a single one that moves on and forgets by `gamma`. Both take the
    memory of one."""
    gamma: Share = 1.0
    """What is left of the importance so far at each experience's end; with `mode: online`."""

    @model_validator(mode="after")
    def _used(self) -> EWCOptions:
        """Options that would change nothing are mistakes."""
        if self.gamma != 1 and self.mode != "online":
            raise ValueError("gamma is about mode: online, and separate penalties keep their importance: leave it out")
        return self


class MASOptions(MeasuredOptions):
    """Options of `mas`."""

    gamma: Share = 1.0
    """What is left of the importance so far at each experience's end."""


Gradient = Literal["task", "total"]


class SIOptions(RegulariserOptions):
    """Options of `si`."""

    damping: Positive = 0.1
    """ξ, added to the squared change of each parameter."""
    gradient: Gradient = "task"
    """Of which the path integral is: that of the terms about rows (the paper), or the one that the optimizer is given,
    with what regularisers add, projected and clipped (Avalanche, Mammoth, van de Ven)."""
    negative: bool = False
    """Whether importance may be below 0, which pushes a parameter away (van de Ven); it is cut off there by default."""


class RWalkOptions(RegulariserOptions):
    """Options of `rwalk`."""

    alpha: Annotated[float, Field(gt=0, le=1)] = 0.9
    """How much a step counts in the moving average of squared gradients."""
    every: Annotated[int, Field(gt=0)] = 10
    """Steps from one score to the next (Δt)."""
    damping: Positive = 1e-7
    """ε, added to the distance that a score divides by."""
    gradient: Gradient = "task"
    """As in `si`."""


REGULARISERS: tuple[tuple[str, str, type[Options], str], ...] = (
    (
        "ewc",
        "clkd.losses.ewc:EWC",
        EWCOptions,
        "holds parameters by their Fisher information (elastic weight consolidation, Kirkpatrick et al. 2017)",
    ),
    (
        "si",
        "clkd.losses.si:SI",
        SIOptions,
        "holds parameters by what they contributed to learning (synaptic intelligence, Zenke et al. 2017)",
    ),
    (
        "mas",
        "clkd.losses.mas:MAS",
        MASOptions,
        "holds parameters by what the answers depend on (memory aware synapses, Aljundi et al. 2018)",
    ),
    (
        "rwalk",
        "clkd.losses.rwalk:RWalk",
        RWalkOptions,
        "holds parameters by both, found while training (Riemannian walk, Chaudhry et al. 2018)",
    ),
)
