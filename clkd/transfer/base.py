"""The base of every transfer strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from clkd.signals import Batch, Needs, Signals

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class Transfer(nn.Module):
    """Makes what the student says of old and new domains comparable. This base does nothing."""

    needs: ClassVar[Needs] = Needs(logits=False)
    contract_optouts: ClassVar[dict[str, str]] = {}
    """Laws of `clkd.testing.contract` that do not hold for this strategy, each with the reason."""

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

    def begin(self, experience: Experience, student: Student) -> None:
        """Before an experience, after the student has grown."""

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        """A scalar to add to the loss (unweighted), or None when this batch has nothing to compare."""
        return None

    def end(self, experience: Experience, student: Student) -> None:
        """After an experience: may still change the student, for example its batch-norm statistics."""
