"""Options of the transfer strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from clkd.options import Options

if TYPE_CHECKING:
    from clkd.scenario.model import Scenario

Target = Literal["new", "unlabelled", "domain"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class DomainOptions(Options):
    """Options of strategies that tell a source from a target."""

    source_free: ClassVar[bool] = False
    target: Target = "new"
    """Which rows are the target's: `new` ones, where replayed ones are the source; those that are `unlabelled`, where
    labelled ones are the source; or those of the new rows' `domain`, where all others are the source."""

    def problems(self, scenario: Scenario) -> list[str]:
        """What makes no sense in this scenario."""
        if scenario.memory.name != "none" or self.target == "unlabelled" or self.source_free:
            return []
        return ["new rows are compared with replayed ones, but memory is none: give the scenario a memory"]


class LayerOptions(DomainOptions):
    """Options of strategies that read one layer."""

    feature: str = "penultimate"
    """The student's layer that is read; maps are averaged over positions."""


class CoralOptions(LayerOptions):
    """Options of `coral`."""

    mean: bool = False
    """Bring the means together, too."""


class MMDOptions(LayerOptions):
    """Options of `mmd`."""

    bandwidths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.125, 0.25, 0.5, 1.0, 2.0)
    """A Gaussian kernel for each: its σ² in units of the mean squared distance between two rows of the batch."""
    estimator: Literal["biased", "unbiased"] = "biased"
    """`biased` is never negative, and 0 for equal rows; `unbiased` leaves out pairs of a row with itself, is right on
    average and may be negative."""


class DANOptions(DomainOptions):
    """Options of `dan`."""

    layers: Annotated[tuple[str, ...], Field(min_length=1)] = ("penultimate", "logits")
    """The student's layers that are read, each by itself; `logits` is what its head says."""
    bandwidths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.125, 0.25, 0.5, 1.0, 2.0)
    """As at `mmd`."""
    estimator: Literal["biased", "unbiased"] = "biased"
    """As at `mmd`."""


STRATEGIES: tuple[tuple[str, str, type[Options], str], ...] = (
    (
        "coral",
        "coral:Coral",
        CoralOptions,
        "brings the covariances of new and replayed rows' features together (Deep CORAL)",
    ),
    ("mmd", "discrepancy:one_layer", MMDOptions, "brings a layer's distributions together: maximum mean discrepancy"),
    ("dan", "discrepancy:MMD", DANOptions, "the same for several layers, each by itself (Long et al. 2015)"),
)
