"""Options of the transfer strategies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from clkd.errors import did_you_mean
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

    form: Literal["deep", "closed"] = "deep"
    """`deep` is a distance that features learn to make small. `closed` gives source features the target's statistics,
    and lets the head learn the labels of what comes of that."""
    mean: bool = False
    """Of `deep`: bring the means together, too. (`closed` always does.)"""
    ridge: Positive = 1.0
    """Of `closed`: added to the diagonal of both covariances, as in the paper."""

    @model_validator(mode="after")
    def _readable(self) -> CoralOptions:
        if self.form == "closed" and self.feature != "penultimate":
            raise ValueError("form closed is about what the head reads: leave feature at penultimate")
        return self

    @model_validator(mode="after")
    def _used(self) -> CoralOptions:
        """Options that would change nothing are mistakes."""
        if self.mean and self.form == "closed":
            raise ValueError("mean is about form: deep, and closed always brings the means together: leave it out")
        if self.ridge != 1 and self.form == "deep":
            raise ValueError("ridge is about form: closed, and deep inverts no covariance: leave it out")
        return self


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
    """What logits are divided by before the softmax."""


class AFNOptions(LayerOptions):
    """Options of `afn`."""

    source_free: ClassVar[bool] = True
    variant: Literal["stepwise", "hard"] = "stepwise"
    """Every feature longer by a step, or their mean length near a radius."""
    step: Positive = 1.0
    """Of `stepwise`."""
    radius: Positive = 25.0
    """Of `hard`."""

    @model_validator(mode="after")
    def _used(self) -> AFNOptions:
        """Options that would change nothing are mistakes."""
        if self.step != 1 and self.variant == "hard":
            raise ValueError("step is about variant: stepwise, and hard goes for a radius: leave it out")
        if self.radius != 25 and self.variant == "stepwise":
            raise ValueError("radius is about variant: hard, and stepwise goes by steps: leave it out")
        return self


class BSPOptions(LayerOptions):
    """Options of `bsp`."""

    k: Annotated[int, Field(gt=0)] = 1
    """How many singular values of each side count, the largest first."""


class StartingPointOptions(Options):
    """Options of strategies that look back to the experience's begin."""

    source_free: ClassVar[bool] = True
    first: bool = False
    """Also in the first experience: for a student whose weights come from elsewhere."""


class L2SPOptions(StartingPointOptions):
    """Options of `l2_sp`."""

    fresh: NotNegative = 1.0
    """How much the decay of new classes' columns counts, beside the way of all other weights."""


class DeltaOptions(StartingPointOptions):
    """Options of `delta`."""

    layers: Annotated[tuple[str, ...], Field(min_length=1)] = ("penultimate",)
    """The student's layers that are to say what they said."""


class AdaBNOptions(Options):
    """Options of `adabn`."""

    source_free: ClassVar[bool] = True
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How much of the new statistics is the new rows'; the rest is what training left."""


def _shares(raw: Any) -> Any:
    """Told apart here, so that only the mistake of the one that is meant is reported."""
    if isinstance(raw, str) and raw != "validation":
        raise ValueError(f"'{raw}' is not known ({did_you_mean(raw, ('validation',))})")
    shares = raw.values() if isinstance(raw, Mapping) else () if isinstance(raw, str) else (raw,)
    if any(isinstance(each, bool) or not isinstance(each, int | float) or not 0 <= each <= 1 for each in shares):
        raise ValueError("give a share from 0 to 1, one for each layer ({backbone: 0.9, head: 0.5}), or validation")
    return raw


def _renewal(raw: Any) -> Any:
    """One line of a mistake, where a union would have one for each of its types."""
    if not isinstance(raw, bool) and raw != "balanced":
        raise ValueError(f"give true, false or balanced; got '{raw}'")
    return raw


Renewal = Annotated[bool | Literal["balanced"], BeforeValidator(_renewal)]


class InterpolateOptions(Options):
    """Options of `interpolate`."""

    source_free: ClassVar[bool] = True
    previous: Annotated[float | dict[str, float] | Literal["validation"], BeforeValidator(_shares)] = 0.5
    """The previous self's share: a number; one for each layer by the beginning of its path (`backbone.layer1`), and 0
    for all others; or `validation`: the one of `grid` that is best on the validation rows of all experiences so far."""
    grid: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=2)] = (0.0, 0.25, 0.5, 0.75)
    """What `previous: validation` chooses from: the first of the best."""
    reestimate: Renewal = True
    """Take batch-norm statistics from the experience's training rows afterwards, instead of interpolating them; or
    (`balanced`) from batches of as many of these as of those that memory keeps of earlier experiences."""

    @model_validator(mode="after")
    def _used(self) -> InterpolateOptions:
        """Options that would change nothing are mistakes."""
        if self.grid != type(self).model_fields["grid"].default and self.previous != "validation":
            raise ValueError("grid is what previous: validation chooses from: set that, or leave grid out")
        return self

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """Test rows may not choose."""
        if self.previous == "validation" and not getattr(scenario.stream.split.options, "validation", 0.0):
            yield "previous: it is chosen on validation rows, and none are kept aside: set stream.split.validation: 0.1"
        yield from _unbalanced(self.reestimate, scenario)


def _unbalanced(reestimate: Renewal, scenario: Scenario) -> Iterator[str]:
    """A memory that keeps rows is what it would be balanced with."""
    if reestimate == "balanced" and (kind := scenario.memory.name) in ("none", "generator"):
        yield f"reestimate: balanced is with rows that memory keeps, but memory is {kind}: use one that keeps some"


class AverageOptions(Options):
    """Options of `average`."""

    source_free: ClassVar[bool] = True
    last: Annotated[int, Field(gt=1)] = 3
    """How many selves, the present one among them: each as training left it, at an experience's end."""
    reestimate: Renewal = True
    """As at `interpolate`."""

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """What makes no sense in this scenario."""
        yield from _unbalanced(self.reestimate, scenario)


class MCDOptions(DomainOptions):
    """Options of `mcd`."""

    hidden: tuple[Annotated[int, Field(gt=0)], ...] = (64,)
    """Widths of the second classifier's hidden layers."""
    reversal: NotNegative = 1.0
    """What the gradient that features get of the discrepancy is reversed with."""

    def problems(self, scenario: Scenario) -> list[str]:
        """It learns labels of any rows, so it goes without a memory."""
        return []


class DSBNOptions(Options):
    """Options of `dsbn`."""

    source_free: ClassVar[bool] = True
    by: Literal["nearest", "domain"] = "nearest"
    """What chooses the statistics at test time: the `nearest` ones to each row, or the id of the row's `domain`."""

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """Layers that it exchanges remember what they saw."""
        if scenario.train.compile:
            yield "its layers look at what rows are told to be, which cannot be compiled: leave out train.compile"
        if scenario.resets:
            yield "a reset would take the statistics of all domains away: leave one of the two out"


STRATEGIES: tuple[tuple[str, str, type[Options], str], ...] = (
    (
        "coral",
        "coral:make",
        CoralOptions,
        "brings the covariances of new and replayed rows' features together (Deep CORAL)",
    ),
    ("mmd", "discrepancy:one_layer", MMDOptions, "brings a layer's distributions together: maximum mean discrepancy"),
    ("dan", "discrepancy:MMD", DANOptions, "the same for several layers, each by itself (Long et al. 2015)"),
    ("jan", "discrepancy:JAN", DANOptions, "the same for several layers jointly (Long et al. 2017)"),
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
    ("afn", "norms:AFN", AFNOptions, "longer features in either domain (Xu et al. 2019)"),
    ("feature_norm", "norms:FeatureNorm", LayerOptions, "features as long in one domain as in the other"),
    ("bsp", "spectral:BSP", BSPOptions, "no singular value that towers; beside dann or cdan (Chen et al. 2019)"),
    ("l2_sp", "starting_point:L2SP", L2SPOptions, "weights near those of the experience's begin (Li et al. 2018)"),
    ("delta", "starting_point:Delta", DeltaOptions, "layers that say what they said at its begin (Li et al. 2019)"),
    ("mcd", "classifiers:MCD", MCDOptions, "two classifiers that agree on the target (Saito et al. 2018)"),
    ("dsbn", "domain_norm:DSBN", DSBNOptions, "batch-norm statistics of each domain's own (Chang et al. 2019)"),
    ("adabn", "batch_norm:AdaBN", AdaBNOptions, "batch-norm statistics of the new rows (Li et al. 2016)"),
    (
        "interpolate",
        "fusion:Interpolate",
        InterpolateOptions,
        "at the end, between its weights and its previous self's",
    ),
    ("average", "fusion:Average", AverageOptions, "at the end, the mean of the last selves' weights"),
)
