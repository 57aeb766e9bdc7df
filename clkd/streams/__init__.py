"""Streams: how a data set is cut into experiences that arrive one after another."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from clkd.errors import did_you_mean
from clkd.hooks import hookimpl
from clkd.options import Options

if TYPE_CHECKING:
    from clkd.registry import Register

Positive = Annotated[int, Field(gt=0)]
ClassName = int | str
"""A class by its id or by its name."""


class SplitOptions(Options):
    """Keys that every stream has beside its own."""

    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of each experience's training rows, class by class, that is kept aside for validation."""

    def problem(self, class_count: int) -> str | None:
        """Why a data set of `class_count` classes cannot be cut like this; None if it can, as far as one can tell."""
        return None


Percent = Annotated[float, Field(ge=0, lt=100)]


class ClassOptions(SplitOptions):
    """New classes in each experience."""

    experiences: Positive | None = None
    """How many; classes are spread evenly, earlier experiences taking what is left over."""
    classes: tuple[tuple[ClassName, ...], ...] | None = None
    """Instead of a number: the classes of each experience, by id or name. Classes not listed are left out."""
    first: Positive | None = None
    """How many classes the first experience has, where it is to have more than the others."""
    order: Literal["natural", "random"] | tuple[ClassName, ...] = "natural"
    """`natural` is by id; `random` is drawn from `order_seed`; or all classes in the order wanted."""
    order_seed: int | None = None
    """What a random order is drawn from; by default the run's seed."""
    sizes: Literal["even", "random"] = "even"
    """How many classes an experience has: as many as the others, or what random cuts through their order leave."""
    blur: Percent = 0.0
    """How many percent of each class's training rows come in the other experiences, as many in each."""
    disjoint: Annotated[float, Field(ge=0, le=100)] = 0.0
    """How many percent of the classes `blur` leaves out; which ones is drawn from the seed."""
    fuzzy: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Around each boundary, for so many percent of an experience's length, the share of the next experience's rows
    grows linearly from none to all."""
    labels: Literal["own", "place"] = "own"
    """`place` calls each class by its place in its experience, so that all experiences bring the same labels in another
    guise each: domain-incremental split MNIST, where the first of two digits is 0 and the second 1."""

    @model_validator(mode="after")
    def _consistent(self) -> ClassOptions:
        if self.sizes == "random" and (self.classes is not None or self.first is not None):
            raise ValueError("sizes: random draws how many classes come when: leave out classes and first")
        if self.disjoint and not self.blur:
            raise ValueError("disjoint is about classes that blur leaves out: give blur")
        if (self.blur or self.fuzzy) and self._count() == 1:
            raise ValueError("blur and fuzzy are about boundaries: there is only one experience")
        if (self.experiences is None) == (self.classes is None):
            raise ValueError("give either experiences (a number) or classes (a list of lists)")
        if self.classes is not None and (self.first is not None or self.order != "natural"):
            raise ValueError("classes already says which come first: leave out first and order")
        if self.first is not None and self.experiences == 1:
            raise ValueError("first needs at least 2 experiences")
        if self.labels == "place" and (self.blur or self.fuzzy):
            raise ValueError("labels: place needs classes that one experience alone has: leave out blur and fuzzy")
        if self.order_seed is not None and self.order != "random":
            raise ValueError("order_seed is only used with order: random")
        return self

    def _count(self) -> int | None:
        return self.experiences if self.classes is None else len(self.classes)

    def problem(self, class_count: int) -> str | None:
        """As `SplitOptions.problem`.

        >>> ClassOptions(experiences=11).problem(10)
        'experiences: 11 experiences need at least 11 classes, the data set has 10'
        """
        if self.experiences is not None:
            needed = self.experiences + (self.first or 1) - 1
            if needed > class_count:
                first = f" with {self.first} classes in the first" if self.first else ""
                return (
                    f"experiences: {self.experiences} experiences{first} need at least {needed} classes, "
                    f"the data set has {class_count}"
                )
        listed = (
            self.order if isinstance(self.order, tuple) else tuple(c for group in self.classes or () for c in group)
        )
        for c in listed:
            if isinstance(c, int) and not 0 <= c < class_count:
                return f"class {c} does not exist, the data set has classes 0 to {class_count - 1}"
        return None


class TaskOptions(ClassOptions):
    """New classes in each experience, and the task is told at test time."""

    @model_validator(mode="after")
    def _apart(self) -> TaskOptions:
        if self.blur or self.fuzzy:
            raise ValueError(
                "a task is told by the classes that it alone has: leave out blur and fuzzy, or use by: class"
            )
        if self.labels == "place":
            raise ValueError(
                "labels: place makes domains of the classes, and tasks have classes of their own: by: class"
            )
        return self


class RepeatedOptions(SplitOptions):
    """Classes that come again."""

    experiences: Positive
    """How many."""
    repetition: Annotated[float, Field(ge=0, le=1)]
    """The probability with which a class that has come before comes again in an experience."""
    first_occurrence: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How early classes come first: experience i has the probability ∝ (1 − p)^i. 0 is evenly over the stream, 1 all in
    the first experience."""
    rows: Positive | None = None
    """How many training rows each experience has, evenly of its classes, so that rows come again, too. By default each
    row comes once: a class's rows are split evenly over the experiences that it comes in."""
    test: Literal["own", "all"] = "own"
    """Whether an experience is tested on its own classes, or on those of the whole stream."""


Look = Literal[
    "clean", "rotated", "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "motion_blur", "contrast",
    "brightness", "haze", "pixelate", "jpeg", "elastic",
]  # fmt: skip
"""How a domain's images look: as they are, turned, or corrupted."""
NO_CORRUPTION = ("clean", "rotated")


class DomainLook(Options):
    """One domain: all images changed alike."""

    kind: Look
    """What is done to the images; `clean` leaves them as they are."""
    severity: Annotated[float, Field(gt=0, le=5)] | None = None
    """Of a corruption, from 1 to 5 as in CIFAR-10-C, or in between; 3 by default."""
    angle: float | None = None
    """Of `rotated`, in degrees, counter-clockwise."""

    @model_validator(mode="after")
    def _used(self) -> DomainLook:
        if (self.kind == "rotated") != (self.angle is not None):
            raise ValueError("rotated needs an angle, and nothing else has one")
        if self.severity is not None and self.kind in NO_CORRUPTION:
            raise ValueError(f"{self.kind} has no severity")
        return self

    @property
    def strength(self) -> float:
        """Degrees, or the severity; 0 for clean images."""
        if self.kind == "clean":
            return 0.0
        return self.angle if self.angle is not None else 3.0 if self.severity is None else self.severity


def _named_or_spelt_out(raw: Any) -> Any:
    """Either a name or a mapping, told apart here so that only the mistakes of the one meant are reported."""
    if isinstance(raw, str):
        if raw not in get_args(Look):
            raise ValueError(f"domain '{raw}' is not known ({did_you_mean(raw, get_args(Look))})")
        return DomainLook(kind=raw)  # type: ignore[arg-type]  # checked the line before
    return DomainLook.model_validate(raw)


class DomainOptions(SplitOptions):
    """All classes in each experience, in another domain: by `transform`, by `domains`, or else the data's own."""

    transform: Literal["permuted", "rotated"] | None = None
    """`permuted` shuffles the pixels of all images alike, `rotated` turns them."""
    experiences: Positive | None = None
    """How many domains a `transform` makes; with `angles`, as many as there are angles."""
    max_angle: Annotated[float, Field(gt=0, le=360)] = 180.0
    """Angles are drawn evenly from 0° up to this."""
    angles: tuple[float, ...] | None = None
    """Instead of drawing them: the angle of each domain, in degrees, counter-clockwise."""
    first_plain: bool = True
    """Whether the first domain of a permuted stream keeps its pixels in place."""
    domains: Annotated[
        tuple[Annotated[DomainLook | Look, BeforeValidator(_named_or_spelt_out)], ...] | None, Field(min_length=1)
    ] = None
    """Instead of a transform: the domains in the order they come, such as `[clean, {kind: haze, severity: 4}]`. One
    that is listed again is the same domain, come back."""
    steps: Positive = 1
    """In how many experiences each of `domains` turns into the next; 1 for all at once."""
    drift: Literal["strength", "mixture"] = "strength"
    """What changes in these steps: severity or angle, from or to `clean` or within one kind; or the share of rows that
    look like the next domain."""
    order: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Of data that names each row's domain: the domains in the order they come, which may come back; by default each
    once, ascending."""

    @model_validator(mode="after")
    def _consistent(self) -> DomainOptions:
        if self.transform is None:
            return self._listed()
        if self.domains is not None or self.order is not None:
            raise ValueError("give one of transform, domains and order")
        if (self.experiences is None) == (self.angles is None):
            raise ValueError("give either experiences (a number) or angles (a list)")
        if self.transform == "permuted" and (self.angles is not None or self.max_angle != 180):
            raise ValueError("angles and max_angle are only used with transform: rotated")
        if self.transform == "rotated" and not self.first_plain:
            raise ValueError("first_plain is only used with transform: permuted")
        if self.angles is not None and (not self.angles or self.max_angle != 180):
            raise ValueError("angles needs at least one angle, and no max_angle beside it")
        return self._steady()

    def _listed(self) -> DomainOptions:
        if self.experiences or self.angles is not None or self.max_angle != 180 or not self.first_plain:
            raise ValueError("experiences, angles, max_angle and first_plain are only used with a transform")
        if self.domains is None:
            return self._steady()
        if self.order is not None:
            raise ValueError("domains already says what comes when: leave out order")
        looks = [each for each in self.domains if isinstance(each, DomainLook)]
        pairs = pairwise(looks) if self.steps > 1 and self.drift == "strength" else ()
        for one, other in pairs:
            if one.kind != other.kind and "clean" not in (one.kind, other.kind):
                raise ValueError(
                    f"{one.kind} cannot turn into {other.kind} by strength: put clean between, or use drift: mixture"
                )
        return self

    def _steady(self) -> DomainOptions:
        if self.steps != 1 or self.drift != "strength":
            raise ValueError("steps and drift are only used with domains")
        return self


class DataOptions(SplitOptions):
    """More of the same: a random share of the training rows in each experience."""

    experiences: Positive
    """How many; rows are spread evenly over them."""


class GivenOptions(SplitOptions):
    """The experiences that the data set itself declares."""


@hookimpl
def clkd_register_streams(register: Register) -> None:
    """The built-in streams."""
    register("class", "clkd.streams.classes:by_class", config=ClassOptions, summary="new classes in each experience")
    register(
        "task",
        "clkd.streams.classes:by_task",
        config=TaskOptions,
        summary="new classes in each experience, the task is told at test time",
    )
    register(
        "repeated",
        "clkd.streams.repeated:by_repeated",
        config=RepeatedOptions,
        summary="classes come first at random times, and come again",
    )
    register(
        "domain",
        "clkd.streams.domains:by_domain",
        config=DomainOptions,
        summary="all classes in each experience, in another domain: permuted, rotated, corrupted, or the data's own",
    )
    register(
        "data",
        "clkd.streams.shares:by_data",
        config=DataOptions,
        summary="a random share of the rows in each experience",
    )
    register(
        "given", "clkd.streams.given:as_given", config=GivenOptions, summary="the experiences that the data declares"
    )
