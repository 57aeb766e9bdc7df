"""Options of the transfer strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from clkd.options import Options, Part, Scheduled

if TYPE_CHECKING:
    from clkd.scenario.model import Scenario

Target = Literal["new", "unlabelled", "domain"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


def _not_negative(value: Part | float) -> Part | float:
    if not isinstance(value, Part) and value < 0:
        raise ValueError("give 0 or more")
    return value


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


class DANNOptions(LayerOptions):
    """Options of `dann`."""

    hidden: tuple[Annotated[int, Field(gt=0)], ...] = (64, 64)
    """Widths of the discriminator's hidden layers; it reads the layer, and says one number."""
    reversal: Annotated[Scheduled, AfterValidator(_not_negative)] = 1.0
    """What the gradient is reversed with at the end of the ramp; a number or a schedule."""
    ramp: NotNegative = 10.0
    """How fast it comes to that in each experience: by `2 / (1 + exp(−ramp · p)) − 1`; 0 has it from the start."""


class CDANOptions(DANNOptions):
    """Options of `cdan`."""

    entropy: bool = True
    """Weigh rows by how sure the student is of them (CDAN+E)."""
    random: Annotated[int, Field(gt=0)] = 1024
    """Where layer times classes is wider than this, random products of so many numbers stand for it."""


class DoubtOptions(DomainOptions):
    """Options of strategies that read the target's logits alone."""

    source_free: ClassVar[bool] = True


class EntropyOptions(DoubtOptions):
    """Options of `entropy`."""

    diversity: NotNegative = 0.0
    """How much an even use of the classes counts in its favour: with 1 it is the mutual information, as in SHOT."""


class MCCOptions(DoubtOptions):
    """Options of `mcc`."""

    temperature: Positive = 2.5


STRATEGIES: tuple[tuple[str, str, type[Options], str], ...] = (
    (
        "coral",
        "coral:Coral",
        CoralOptions,
        "brings the covariances of new and replayed rows' features together (Deep CORAL)",
    ),
    ("mmd", "discrepancy:one_layer", MMDOptions, "brings a layer's distributions together: maximum mean discrepancy"),
    ("dan", "discrepancy:MMD", DANOptions, "the same for several layers, each by itself (Long et al. 2015)"),
    (
        "dann",
        "discriminator:DANN",
        DANNOptions,
        "features that a discriminator cannot tell the domain of (Ganin et al. 2016)",
    ),
    (
        "cdan",
        "discriminator:CDAN",
        CDANOptions,
        "the same for features times class probabilities (Long et al. 2018, CDAN+E)",
    ),
    (
        "entropy",
        "uncertainty:Entropy",
        EntropyOptions,
        "be sure about the target's rows (Grandvalet & Bengio 2005; SHOT)",
    ),
    ("mcc", "uncertainty:MCC", MCCOptions, "confuse no classes on the target's rows (Jin et al. 2020)"),
)
