"""The base of every transfer strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor, nn

from clkd.signals import Batch, Needs, Signals

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student
    from clkd.schedules.base import Progress, Schedule

Seen = Callable[[Literal["new", "validation", "kept"]], Iterator[Batch]]
"""Rows of one kind, normalised and not augmented, some hundreds at a time: the experience's own training rows (`new`,
in random order, so that a batch has the statistics of all), the validation rows of all experiences so far, or all that
memory has `kept`."""


class Transfer(nn.Module):
    """Makes what the student says of old and new domains comparable. This base does nothing."""

    needs: ClassVar[Needs] = Needs(logits=False)
    source_free: ClassVar[bool] = False
    """Whether it does all of its work without a row of the source: so it needs no memory."""
    contract_optouts: ClassVar[dict[str, str]] = {}
    """Laws of `clkd.testing.contract` that do not hold for this strategy, each with the reason."""
    progress: Progress | None = None
    """Where training stands; set before each `forward`, for options that follow a schedule."""

    told: Mapping[str, Tensor] = {}
    """What it is made of, if that is several values: for logs, by name, without a gradient."""

    @property
    def speaks(self) -> bool:
        """Whether it ever adds to the loss, or acts on the student alone."""
        return type(self).forward is not Transfer.forward

    @property
    def needs_boundaries(self) -> bool:
        """Whether it has to be told where experiences begin and end, so that a stream without boundaries refuses it.

        A class that overrides `begin` or `end` does, unless it says here that it does not: then `begin` and `end` are
        called as ever, and mean no more than that new classes may have come. A class attribute will do.
        """
        return False

    def reads(self) -> Needs:
        """What it reads of the student."""
        return self.needs

    def prepare(self, student: Student) -> None:
        """Once, when all is composed: may exchange layers of the student. Raises `UserError` for one of no use to it.

        Of what it leaves in the student, all state has to be in the student's own.
        """

    def begin(self, experience: Experience, student: Student) -> None:
        """Before an experience, after the student has grown."""

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        """A scalar to add to the loss (unweighted), or None when this batch has nothing to compare."""
        return None

    def review(self, seen: Seen, experience: Experience, student: Student) -> None:
        """After an experience that was trained, before `end`: rows may be looked at once more."""

    def end(self, experience: Experience, student: Student) -> None:
        """After an experience: may still change the student, for example its batch-norm statistics."""

    def now(self, option: float | Schedule, a: Signals) -> float | Tensor:
        """What an option that may follow a schedule says at this step."""
        if not callable(option):
            return option
        assert self.progress is not None, "whoever gives a strategy a schedule also sets progress before each step"
        return option(self.progress, a)

    def weighed(self, weight: float | Schedule, value: Tensor, a: Signals) -> Tensor:
        """What it adds to the loss: `weight · value`, or what a schedule makes of it; a weight of one leaves the value,
        bit for bit."""
        if not callable(weight):
            return value if weight == 1.0 else weight * value
        assert self.progress is not None, "whoever gives a strategy a schedule also sets progress before each step"
        return weight.weigh(value, self.progress, a)
