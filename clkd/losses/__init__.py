"""Losses: what a student is trained to do, and what it is to learn from another model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from clkd.hooks import hookimpl
from clkd.losses.feature_options import FEATURE_LOSSES
from clkd.losses.relation_options import RELATION_LOSSES
from clkd.options import Options, Part, Scheduled

if TYPE_CHECKING:
    from clkd.registry import Register


class CrossEntropyOptions(Options):
    """Options of `cross_entropy`."""

    sides: ClassVar[int] = 1

    over: Literal["auto", "all", "seen", "new", "own"] = "auto"
    """Which classes compete: `all` columns of the head, those `seen` so far, those `new` in this experience's data,
    the row's `own` task's; `auto` is `own` for a task-aware head and `seen` otherwise."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How much of the target is spread evenly over the classes that compete."""


class KDOptions(Options):
    """Options of `kd`."""

    sides: ClassVar[int] = 2

    temperature: Scheduled = 2.0
    """Divides both sides' logits before the softmax."""
    variant: Literal["kl", "ce", "mse"] = "kl"
    """Kullback-Leibler divergence, cross-entropy (same gradient), or mean squared error of the logits themselves."""
    convention: Literal["t2", "plain"] = "t2"
    """`t2` multiplies by the squared temperature, so that gradients keep their size; `plain` does not."""
    scope: Literal["auto", "joint", "per_task"] = "auto"
    """One softmax over all common classes, or one per task, summed; `auto` is `per_task` for a task-aware head."""
    rows: Literal["all", "valid"] = "all"
    """Every row, or only those whose class the teacher knows."""

    @field_validator("temperature")
    @classmethod
    def _positive(cls, value: Part | float) -> Part | float:
        if not isinstance(value, Part) and value <= 0:
            raise ValueError("a temperature is greater than 0")
        return value

    @model_validator(mode="after")
    def _used(self) -> KDOptions:
        """Options that would change nothing are mistakes."""
        if self.variant == "mse" and (self.temperature != 2.0 or self.convention != "t2"):
            raise ValueError("variant 'mse' compares the logits themselves: leave out temperature and convention")
        return self


@hookimpl
def clkd_register_losses(register: Register) -> None:
    """The losses that clkd ships."""
    register(
        "cross_entropy",
        "clkd.losses.classification:CrossEntropy",
        config=CrossEntropyOptions,
        summary="cross-entropy with the labels, over all, seen, new or the own task's classes",
    )
    register(
        "kd",
        "clkd.losses.response:KD",
        config=KDOptions,
        summary="knowledge distillation of the logits (Hinton et al. 2015), class ids aligned",
    )
    for name, factory, config, summary in (*FEATURE_LOSSES, *RELATION_LOSSES):
        register(name, factory, config=config, summary=summary)
