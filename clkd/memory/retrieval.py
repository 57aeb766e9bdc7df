"""The base of every retrieval: which rows of a memory are replayed in a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clkd.memory.base import Memory
from clkd.ranks import Ranks
from clkd.signals import Batch, Signals

if TYPE_CHECKING:
    from clkd.models.student import Student


@dataclass(frozen=True, slots=True)
class Moment:
    """The step that rows are retrieved for: what a retrieval may look at.

    Attributes:
        new: the new rows, as stored.
        student: in training mode.
        plain: rows as stored to rows as the student is shown them, without augmentation.
        losses: `[B]` cross-entropy of rows, by what the student says of them.
        lr: the learning rate.
        ranks: the processes that train together: all retrieve the same rows.
    """

    new: Batch
    student: Student
    plain: Callable[[Tensor], Tensor]
    losses: Callable[[Batch, Signals], Tensor]
    lr: float
    ranks: Ranks


class Retrieval:
    """Draws from memory as `memory.sample` does: each row with the same probability. Override `__call__`.

    A retrieval has no state, and works with every memory.
    """

    def __call__(
        self, memory: Memory, n: int, times: int, generator: torch.Generator, moment: Moment
    ) -> list[Batch | None]:
        """`times` draws of at most `n` distinct rows each; None in place of one while there are none."""
        return [memory.sample(n, generator) for _ in range(times)]
