"""The base of every loss, and the alignment of classes that two-sided losses share."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from clkd.signals import Batch, Needs, Signals, Spec

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class Loss(nn.Module):
    """A term between two models' signals, or of one model alone.

    Override `forward`; override `bind` when shapes or classes matter, and `needs` when logits are not enough.
    Parameters and buffers that a loss owns are moved, optimised and saved with the student.
    """

    needs: ClassVar[Needs] = Needs()
    """What this loss reads of each side. A tap named in `between` is added to it."""
    sides: ClassVar[int] = 2
    """How many models it compares: 1 (the student alone) or 2."""

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Called before the first batch of each experience, when both sides' classes and shapes are known."""

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """The loss as `[B]`, one value a row, where it has one; else a scalar. Lower is better, unweighted."""
        raise NotImplementedError

    def begin(self, experience: Experience, student: Student) -> None:
        """Before an experience, after `bind`."""

    def after_step(self, student: Student) -> None:
        """After each optimiser step."""

    def end(self, experience: Experience, student: Student) -> None:
        """After an experience."""


def common_columns(a: Spec, b: Spec) -> tuple[Tensor, Tensor]:
    """Where the classes that both sides know lie in each: two `[K]` index tensors, in the order of `b`.

    >>> a = Spec(class_ids=(4, 7, 9), born=(0, 0, 1))
    >>> b = Spec(class_ids=(9, 4), born=(0, 0))
    >>> [t.tolist() for t in common_columns(a, b)]
    [[2, 0], [0, 1]]
    """
    place = {c: i for i, c in enumerate(a.class_ids)}
    pairs = [(place[c], j) for j, c in enumerate(b.class_ids) if c in place]
    return torch.tensor([i for i, _ in pairs]), torch.tensor([j for _, j in pairs])
