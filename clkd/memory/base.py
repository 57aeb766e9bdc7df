"""The base of every memory: a bounded table of stored rows, and a rule for what stays in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from clkd.signals import Batch, Needs, Signals

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class Memory:
    """Keeps rows of the past, as stored (uint8 for images), never more than it declares.

    This base keeps nothing and replays nothing.
    """

    contract_optouts: ClassVar[dict[str, str]] = {}
    """Laws of `clkd.testing.contract` that do not hold for this memory, each with the reason."""

    needs: Needs | None = None
    """What it stores of what the student said about each row it is offered; None for nothing."""
    unlabelled: bool = False
    """Whether it is offered rows without a label, too."""

    def observe(self, batch: Batch, signals: Signals) -> None:
        """Offered each new row exactly once, in the first epoch of its experience (`batch` holds new rows only)."""

    def eligible(self, batch: Batch, signals: Signals) -> tuple[Batch, Signals]:
        """What of a batch's new rows it is offered. The host knows which have a label, so nothing waits."""
        if self.unlabelled or batch.labelled is None:
            return batch, signals
        at = batch.labelled.to(batch.y.device, non_blocking=True)
        return batch.pick(at), signals.pick(at)

    def sample(self, n: int, generator: torch.Generator) -> Batch | None:
        """At most `n` distinct rows, drawn evenly with `generator` (on the CPU); None while there are none."""
        return None

    def end(self, experience: Experience, student: Student) -> None:
        """After an experience: its rows are in `experience.train`."""

    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return 0

    def __len__(self) -> int:
        return 0

    def histogram(self) -> dict[int, int]:
        """How many rows are kept of each class; those without a label under -1."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, on the device the rows are used on."""

    def to(self, device: torch.device | str) -> None:
        """Keep the rows on `device` from now on."""
