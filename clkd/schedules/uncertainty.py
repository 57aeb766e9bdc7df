"""A weight that is learned: the less a term can be fitted, the less it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clkd.schedules.base import Progress, Schedule

if TYPE_CHECKING:
    from clkd.signals import Signals


class Uncertainty(Schedule, nn.Module):
    """`e^(−s) · value · L + s/2`, s = log σ² a learned number that starts at 0.

    Kendall, Gal, Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses", eq. 10 (the form for
    likelihoods over classes). For a constant L, the best weight is e^(−s) = 1 / (2 · value · L). s is trained by the
    student's optimizer, whose weight decay therefore draws the weight towards `value`. A term that is 0 says nothing of
    how well it can be fitted: there, s is left out and has the gradient 0.

    >>> weight = Uncertainty(value=2.0)
    >>> weight(Progress()).detach(), weight.weigh(torch.tensor(3.0), Progress()).detach()
    (tensor(2.), tensor(6.))
    """

    def __init__(self, value: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.value = value
        self.log_variance = nn.Parameter(torch.zeros(()))

    def __call__(self, progress: Progress, signals: Signals | None = None) -> Tensor:
        return self.value * torch.exp(-self.log_variance)

    def weigh(self, loss: Tensor, progress: Progress, signals: Signals | None = None) -> Tensor:
        weight = self(progress, signals)
        # The best weight for 0 is infinite: what is 0 for long (ewc in the first experience) would drive s there.
        return torch.where(loss == 0, weight.detach() * loss, weight * loss + self.log_variance / 2)
