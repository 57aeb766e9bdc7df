"""Schedules: what a weight or a temperature follows while training goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from clkd.hooks import hookimpl
from clkd.options import Options, Part

if TYPE_CHECKING:
    from clkd.registry import Register
    from clkd.scenario.model import Scenario


class ConstantOptions(Options):
    """Options of `constant`."""

    value: float = 1.0
    """What it always says."""


class WarmupOptions(Options):
    """Options of `warmup`: how long it rises, in epochs or in steps; by default the whole experience."""

    value: float = 1.0
    """What it rises to, from 0."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """How long it rises in each experience."""
    steps: Annotated[int, Field(gt=0)] | None = None
    """The same in optimiser steps."""

    @model_validator(mode="after")
    def _one_length(self) -> WarmupOptions:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give the length in epochs or in steps, not both")
        return self


class RampOptions(Options):
    """Options of `linear` and `cosine`. By default it takes the whole experience, and begins anew in each."""

    start: float = 0.0
    """What it begins with."""
    end: float = 1.0
    """What it ends with, and stays at."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """How long it takes, counted in each experience."""
    steps: Annotated[int, Field(gt=0)] | None = None
    """The same in optimiser steps."""
    experiences: Annotated[float, Field(gt=0)] | None = None
    """How long it takes, counted from the stream's begin, so that it does not begin anew."""

    @model_validator(mode="after")
    def _one_length(self) -> RampOptions:
        if sum(length is not None for length in (self.epochs, self.steps, self.experiences)) > 1:
            raise ValueError("give one length: epochs, steps or experiences")
        return self


class PerExperienceOptions(Options):
    """Options of `per_experience`."""

    values: Annotated[tuple[float, ...], Field(min_length=1)]
    """One for each experience, from the first on."""
    past: Literal["last", "repeat"] = "last"
    """What is said past the end of `values`: the last one, or all of them again."""


class AdaptiveOptions(Options):
    """Options of `confidence` and `entropy`."""

    low: float = 0.0
    """Where the measure is 0."""
    high: float = 1.0
    """Where the measure is 1."""


class CurriculumOptions(Options):
    """Options of `curriculum`."""

    low: Annotated[float, Field(gt=0)] = 1.0
    """The lowest temperature."""
    span: Annotated[float, Field(gt=0)] = 20.0
    """What the highest is above it."""
    epochs: Annotated[float, Field(gt=0)] = 10.0
    """In how many epochs of each experience it comes to its full strength."""

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """As a weight it would raise itself as far as it can."""
        options = [getattr(loss.options, "temperature", None) for loss in scenario.losses]
        if not any(isinstance(option, Part) and option.options is self for option in options):
            yield "it is learned to raise the loss, so it can be a loss's temperature, and nothing else"


class UncertaintyOptions(Options):
    """Options of `uncertainty`."""

    value: float = 1.0
    """What the loss is multiplied by, beside what is learned."""

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """What keeps it from falling to 0 is added where it weighs a term."""
        weights = [getattr(loss.shared, "weight", None) for loss in scenario.losses]
        if not any(isinstance(weight, Part) and weight.options is self for weight in weights):
            yield "it weighs a loss: give it as a loss's `weight`"


class ForgettingOptions(Options):
    """Options of `forgetting`."""

    value: float = 1.0
    """What it is where nothing was forgotten."""
    gain: float = 1.0
    """By how much it grows: it is `value · (1 + gain)` where everything was."""

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """Test rows may not steer training."""
        if not getattr(scenario.stream.split.options, "validation", 0.0):
            yield "it reads accuracy on validation rows, and none are kept aside: set stream.split.validation: 0.1"


class OldFractionOptions(Options):
    """Options of `old_fraction`."""

    value: float = 1.0
    """What the fraction is multiplied by."""
    of: Literal["classes", "experiences"] = "classes"
    """What is counted: classes, or experiences, whatever they bring."""


class NewFractionOptions(Options):
    """Options of `new_fraction`."""

    value: float = 1.0
    """What the fraction is multiplied by."""
    of: Literal["classes", "experiences"] = "classes"
    """What is counted: classes, or experiences, whatever they bring."""


class ImbalanceOptions(Options):
    """Options of `imbalance`."""

    value: float = 1.0
    """What the root is multiplied by."""
    of: Literal["old", "seen"] = "old"
    """Of which classes there are how many times as many as new ones."""


SCHEDULES: tuple[tuple[str, str, type[Options], str], ...] = (
    ("constant", "constant:Constant", ConstantOptions, "the same value all the time"),
    ("warmup", "warmup:Warmup", WarmupOptions, "rises linearly from 0 in every experience, then stays"),
    (
        "old_fraction",
        "old_fraction:OldFraction",
        OldFractionOptions,
        "the share of old classes among those seen: 0 in the first experience, growing later",
    ),
    (
        "new_fraction",
        "new_fraction:NewFraction",
        NewFractionOptions,
        "the share of new classes among those seen: what old_fraction leaves",
    ),
    (
        "imbalance",
        "imbalance:Imbalance",
        ImbalanceOptions,
        "the root of how many old classes, or seen ones, there are for each new one (LUCIR, PODNet)",
    ),
    ("linear", "ramp:Linear", RampOptions, "a straight line from one value to another"),
    ("cosine", "ramp:Cosine", RampOptions, "half a cosine from one value to another"),
    ("per_experience", "per_experience:PerExperience", PerExperienceOptions, "a list, one value for each experience"),
    ("confidence", "adaptive:Confidence", AdaptiveOptions, "follows how sure the student is of the batch"),
    ("entropy", "adaptive:Entropy", AdaptiveOptions, "follows how unsure the student is of the batch"),
    (
        "curriculum",
        "curriculum:Curriculum",
        CurriculumOptions,
        "a learned temperature that makes distillation harder (CTKD)",
    ),
    (
        "uncertainty",
        "uncertainty:Uncertainty",
        UncertaintyOptions,
        "a learned weight: the less a term can be fitted, the less it counts",
    ),
    ("forgetting", "forgetting:Forgetting", ForgettingOptions, "grows with what validation rows show was forgotten"),
)


@hookimpl
def clkd_register_schedules(register: Register) -> None:
    """The schedules that clkd ships."""
    for name, factory, config, summary in SCHEDULES:
        register(name, f"clkd.schedules.{factory}", config=config, summary=summary)
