"""The base of every memory: a bounded table of stored rows, and a rule for what stays in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from clkd.signals import Batch, Needs, Signals

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


def scaled(x: Tensor) -> Tensor:
    """Images to [0, 1], and vectors as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def viewed(rows: Batch, number: Tensor) -> Batch:
    """The rows in the one view that there is where nothing is augmented."""
    return rows.seen_as(scaled(rows.x), number)


class Memory:
    """Keeps rows of the past, as stored (uint8 for images), never more than it declares.

    This base keeps nothing and replays nothing.
    """

    contract_optouts: ClassVar[dict[str, str]] = {}
    """Laws of `clkd.testing.contract` that do not hold for this memory, each with the reason."""

    needs: Needs | None = None
    """What it reads of what the student said about each row it is offered; None for nothing."""

    compares: ClassVar[bool] = False
    """Whether `observe` is given the rows that were replayed in the step, too, behind the new ones."""

    every_epoch: bool = False
    """Whether rows are offered again in each epoch of their experience, as if they were new."""

    invents: ClassVar[bool] = False
    """Whether it makes rows up, so that nobody can know before an experience what will be replayed in it."""

    plain: Callable[[Tensor], Tensor] = staticmethod(scaled)
    """Rows as stored to rows as the student is shown them, without augmentation; set by who composes the parts."""

    fixed: Callable[[Batch, Tensor], Batch] = staticmethod(viewed)
    """Rows, each in its fixed view of a number (`[B]` int64), as the student is shown them; set by the same."""

    @property
    def stores(self) -> tuple[str, ...]:
        """What of the student's words comes back beside each row, and so belongs to the view that it was said about.

        `logits`, or a tap's name. By default, all that it `needs`.
        """
        if self.needs is None:
            return ()
        return (*(("logits",) if self.needs.logits else ()), *self.needs.features)

    @property
    def needs_boundaries(self) -> bool:
        """Whether it has to be told where experiences begin and end, so that a stream without boundaries refuses it.

        A class that overrides `end` does, unless it says here that it does not: then `end` is called as
        ever, and means no more than that new classes may have come. A class attribute will do.
        """
        return False

    unlabelled: bool = False
    """Whether it is offered rows without a label, too."""

    def observe(self, batch: Batch, signals: Signals) -> None:
        """Offered each new row exactly once, in the first epoch of its experience, after the step that it was new in;
        or in all of its epochs, where it asks for `every_epoch`.

        `batch` holds new rows only, unless the memory `compares`. `signals` are the student's, from before the step's
        update, and detached.
        """

    def learn(self, rows: Batch) -> dict[str, Tensor]:
        """After every step, in all epochs: the step's new rows and the replayed ones behind them, as stored.

        Returns what is logged of it, by name (`part/what`), on the device. Nothing here may wait for that.
        """
        return {}

    def eligible(self, batch: Batch, signals: Signals) -> tuple[Batch, Signals]:
        """What it is offered: those new rows that have a label, which the host knows, so nothing waits; and whatever
        comes behind them."""
        if self.unlabelled or batch.labelled is None:
            return batch, signals
        new = batch.labelled.to(batch.y.device, non_blocking=True)
        replayed = torch.arange(batch.new, len(batch), device=batch.y.device)
        return batch.pick(new, replayed), signals.pick(torch.cat([new, replayed]))

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
