"""Focal loss (Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 4, without α)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from clkd import Batch, Loss, Signals, Spec
from clkd.losses.base import among, logits_of


class Focal(Loss):
    """`−(1 − p_y)^γ · log p_y` over the classes the student knows.

    >>> from clkd_example.focal import focal
    >>> round(focal(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), gamma=2.0).item(), 4)
    0.1733
    """

    sides: ClassVar[int] = 1

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def bind(self, a: Spec, b: Spec | None) -> None:
        """Which column answers for which class, looked up once per experience; the last entry is for no label, -1."""
        column = torch.full((max(a.class_ids) + 2,), -1)
        column[list(a.class_ids)] = torch.arange(len(a.class_ids))
        self.register_buffer("column", column, persistent=False)

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        assert isinstance(self.column, Tensor)
        target = self.column[batch.y]
        return among(focal(logits_of(a), target.clamp(min=0), self.gamma), target >= 0)


def focal(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """`[B, C]` logits and `[B]` columns to `[B]` losses."""
    log_p = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    return -((1 - log_p.exp()) ** gamma) * log_p
