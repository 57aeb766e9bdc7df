"""A temperature that learns to make distillation harder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clkd.schedules.base import Progress, Schedule
from clkd.schedules.ramp import Cosine

if TYPE_CHECKING:
    from clkd.signals import Signals


class Curriculum(Schedule, nn.Module):
    """T = low + span · sigmoid(θ), θ learned to *raise* the loss: its gradient comes back times −s.

    Li et al. 2023, "Curriculum Temperature for Knowledge Distillation" (CTKD), eq. 5 and 7, the global version: the
    student minimises what the temperature maximises. s rises from 0 to 1 along a cosine in `epochs` epochs of each
    experience (the authors move it once an epoch, here it moves every step). θ starts at 1 and is trained by the
    student's optimizer, whose weight decay therefore draws T towards low + span/2.

    >>> Curriculum(low=1.0, span=20.0)(Progress()).detach()
    tensor(15.6212)
    """

    needs_boundaries = True

    def __init__(self, low: float = 1.0, span: float = 20.0, epochs: float = 10.0) -> None:
        nn.Module.__init__(self)
        self.low, self.span = low, span
        self.strength = Cosine(0.0, 1.0, epochs=epochs)
        self.theta = nn.Parameter(torch.ones(()))

    def __call__(self, progress: Progress, signals: Signals | None = None) -> Tensor:
        theta: Tensor = _Reversed.apply(self.theta, self.strength(progress))  # type: ignore[no-untyped-call]  # torch's
        return self.low + self.span * torch.sigmoid(theta)


class _Reversed(torch.autograd.Function):
    """The same number; its gradient comes back times `−strength` (Ganin & Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * -ctx.strength, None
