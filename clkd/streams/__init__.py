"""Streams: how a data set is cut into experiences that arrive one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

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
    labels: Literal["own", "place"] = "own"
    """`place` calls each class by its place in its experience, so that all experiences bring the same labels in another
    guise each: domain-incremental split MNIST, where the first of two digits is 0 and the second 1."""

    @model_validator(mode="after")
    def _consistent(self) -> ClassOptions:
        if (self.experiences is None) == (self.classes is None):
            raise ValueError("give either experiences (a number) or classes (a list of lists)")
        if self.classes is not None and (self.first is not None or self.order != "natural"):
            raise ValueError("classes already says which come first: leave out first and order")
        if self.first is not None and self.experiences == 1:
            raise ValueError("first needs at least 2 experiences")
        if self.order_seed is not None and self.order != "random":
            raise ValueError("order_seed is only used with order: random")
        return self

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
    def _own_labels(self) -> TaskOptions:
        if self.labels == "place":
            raise ValueError(
                "labels: place makes domains of the classes, and tasks have classes of their own: by: class"
            )
        return self


class DomainOptions(SplitOptions):
    """All classes in each experience, in another domain."""

    transform: Literal["permuted", "rotated"]
    """`permuted` shuffles the pixels of all images alike, `rotated` turns them."""
    experiences: Positive | None = None
    """How many domains; with `angles`, as many as there are angles."""
    max_angle: Annotated[float, Field(gt=0, le=360)] = 180.0
    """Angles are drawn evenly from 0° up to this."""
    angles: tuple[float, ...] | None = None
    """Instead of drawing them: the angle of each domain, in degrees, counter-clockwise."""
    first_plain: bool = True
    """Whether the first domain of a permuted stream keeps its pixels in place."""

    @model_validator(mode="after")
    def _consistent(self) -> DomainOptions:
        if (self.experiences is None) == (self.angles is None):
            raise ValueError("give either experiences (a number) or angles (a list)")
        if self.transform == "permuted" and (self.angles is not None or self.max_angle != 180):
            raise ValueError("angles and max_angle are only used with transform: rotated")
        if self.transform == "rotated" and not self.first_plain:
            raise ValueError("first_plain is only used with transform: permuted")
        if self.angles is not None and (not self.angles or self.max_angle != 180):
            raise ValueError("angles needs at least one angle, and no max_angle beside it")
        return self


class DataOptions(SplitOptions):
    """More of the same: a random share of the training rows in each experience."""

    experiences: Positive


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
        "domain",
        "clkd.streams.domains:by_domain",
        config=DomainOptions,
        summary="all classes in each experience, pixels permuted or images rotated",
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
