"""Schedules that look at what the student says about the batch at hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clkd.schedules.base import Progress, Schedule
from clkd.signals import Signals, confined


class Adaptive(Schedule):
    """`low + (high − low) · m`, m from 0 to 1 a measure of the student's answers; no gradient goes through it.

    The mean is over all rows of the batch, replayed ones too, and for a temperature over those of its term. With
    several processes each looks at its own rows. Where rows are told their task (head `multi`), its
    classes alone count.
    """

    reads_signals = True

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        self.low, self.high = low, high

    def __call__(self, progress: Progress, signals: Signals | None = None) -> Tensor:
        assert signals is not None, "an adaptive schedule is asked with the student's signals"
        assert signals.logits is not None, "the student always says its logits"
        logits = confined(signals.logits.detach().float(), signals.competes)
        return self.low + (self.high - self.low) * self.measure(logits, signals.competes)

    def measure(self, logits: Tensor, competes: Tensor | None) -> Tensor:
        """`[B, C]` to a scalar from 0 to 1. Of columns that do not compete (`[B, C]` bool), logits are the lowest."""
        raise NotImplementedError


class Confidence(Adaptive):
    """m = mean over rows of `max p`, p the student's softmax: the surer the student, the nearer to `high`.

    >>> said = Signals(torch.tensor([[0.0, math.log(3.0)]]), torch.arange(2))
    >>> Confidence(low=1.0, high=5.0)(Progress(), said)
    tensor(4.)
    """

    def measure(self, logits: Tensor, competes: Tensor | None) -> Tensor:
        return torch.softmax(logits, 1).amax(1).mean()


class Entropy(Adaptive):
    """m = mean over rows of `−Σ p log p / log C`, p the student's softmax over C classes: 1 where it knows nothing.

    C is the number of classes that compete for the row.

    >>> said = Signals(torch.zeros(3, 4), torch.arange(4))
    >>> Entropy(low=1.0, high=5.0)(Progress(), said)
    tensor(5.)
    """

    def measure(self, logits: Tensor, competes: Tensor | None) -> Tensor:
        logp = torch.log_softmax(logits, 1)
        rows = -(logp.exp() * logp).sum(1)
        if competes is None:
            return rows.mean() / math.log(max(logits.shape[1], 2))
        return (rows / competes.sum(1).clamp(min=2).log()).mean()
