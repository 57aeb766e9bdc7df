"""A moving average of the student (Tarvainen & Valpola 2017, Mean Teacher, eq. 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from clkd.teachers.network import Snapshot

if TYPE_CHECKING:
    from clkd.experience import Experience
    from clkd.models.student import Student


class Ema(Snapshot):
    """`θ' ← decay · θ' + (1 − decay) · θ` after every step; buffers that count or index are copied.

    It grows with the student: columns of new classes start as the student's own.
    """

    frozen = False
    needs_boundaries = False
    """It follows every step; at an experience's begin it only grows."""

    def __init__(self, decay: float = 0.999, of: str = "student") -> None:
        super().__init__()
        self.decay, self.of = decay, of

    @property
    def ready(self) -> bool:
        return True

    def begin(self, experience: Experience, student: Student) -> None:
        super().begin(experience, student)
        grown = student.frozen_copy()
        if self.network is not None:
            _take(grown.state_dict(), self.network.state_dict())
            grown.head.follow(cast("Student", self.network).head)
        self.network = grown

    @torch.no_grad()
    def after_step(self, student: Student) -> None:
        ours, theirs = self._speaker().state_dict(), student.state_dict()
        averaged = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in averaged], [theirs[n] for n in averaged], 1 - self.decay)
        for name in ours.keys() - set(averaged):
            ours[name].copy_(theirs[name])


def _take(into: dict[str, Tensor], old: dict[str, Tensor]) -> None:
    """Copy old values over the grown ones: all of a tensor that kept its shape, the leading rows of one that grew."""
    for name, tensor in old.items():
        if tensor.dim():
            into[name][: len(tensor)].copy_(tensor)
        else:
            into[name].copy_(tensor)
