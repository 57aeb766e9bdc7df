"""What a weight or a temperature follows: the base, and where training stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from clkd.signals import Signals


@dataclass(slots=True)
class Progress:
    """Where training stands. `step` counts over the whole stream; `epoch_step` within the epoch. `forgetting` is what
    validation rows showed before this experience: how far accuracy on earlier ones fell, from 0 to 1. In a `phase`,
    epochs and steps are the phase's own."""

    experience: int = 0
    experiences: int = 1
    epoch: int = 0
    epochs: int = 1
    epoch_step: int = 0
    epoch_steps: int = 1
    step: int = 0
    old_classes: int = 0
    seen_classes: int = 1
    forgetting: float = 0.0
    phase: bool = False

    @property
    def experience_step(self) -> int:
        """Steps taken in this experience."""
        return self.epoch * self.epoch_steps + self.epoch_step

    @property
    def experience_steps(self) -> int:
        """Steps this experience will take."""
        return self.epochs * self.epoch_steps


class Schedule:
    """A number that depends on where training stands, and may look at the student's signals.

    One that is an `nn.Module`, too, has its parameters moved, optimised and saved with the term that it belongs to.
    `reads_signals` is True where the number depends on what the student says, so that nobody can tell it ahead.
    """

    reads_signals: bool = False

    @property
    def needs_boundaries(self) -> bool:
        """Whether it moves with experiences, so that a stream without boundaries refuses it."""
        return False

    def __call__(self, progress: Progress, signals: Signals | None = None) -> float | Tensor:
        raise NotImplementedError

    def weigh(self, loss: Tensor, progress: Progress, signals: Signals | None = None) -> Tensor:
        """What a term adds to the sum where this is its weight."""
        return self(progress, signals) * loss
