"""Being sure about the target's rows: strategies that look at what the student says of them, and nothing else."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clkd.signals import Batch, Needs, Signals
from clkd.transfer.base import Transfer
from clkd.transfer.domains import LOGITS, Target, apart, read


class Doubt(Transfer):
    """A strategy about the target's logits. Of the source, it needs nothing."""

    needs = Needs()
    source_free = True

    def __init__(self, target: Target = "new") -> None:
        super().__init__()
        self.target = target

    def forward(self, batch: Batch, a: Signals) -> Tensor | None:
        target = apart(batch, a, self.target)[1]
        logits = read(target, LOGITS, None)
        return self.doubt(logits, target.competes) if len(logits) else None

    def doubt(self, logits: Tensor, competes: Tensor | None) -> Tensor:
        """The value, a scalar, from `[n, C]`. Of columns that do not compete (`[n, C]` bool), logits are the lowest."""
        raise NotImplementedError


class Entropy(Doubt):
    """`mean H(p) − diversity · H(mean p)`, p the probabilities of the target's rows.

    Grandvalet & Bengio 2005, "Semi-supervised Learning by Entropy Minimization", eq. 7 (its second term). With
    `diversity` 1 it is minus the mutual information of rows and classes, as in SHOT (Liang et al. 2020, "Do We Really
    Need to Access the Source Data?", eq. 3), which keeps all rows from falling into one class.
    """

    def __init__(self, diversity: float = 0.0, target: Target = "new") -> None:
        super().__init__(target)
        self.diversity = diversity

    def doubt(self, logits: Tensor, competes: Tensor | None) -> Tensor:
        value = entropy(logits).mean()
        if not self.diversity:
            return value
        log_mean = logits.log_softmax(1).logsumexp(0)[None] - math.log(len(logits))
        return value - self.diversity * entropy(log_mean).sum()


class MCC(Doubt):
    """`(Σ M − tr M) / C`: how much classes are confused with each other, M row by row of sum 1.

    Jin et al. 2020, "Minimum Class Confusion for Versatile Domain Adaptation", eq. 2-6: `M ∝ Pᵀ W P`, P the target's
    probabilities at the `temperature`, W the weights `1 + e^(−H)` brought to the mean 1, taken as given. C is how many
    classes compete for any of these rows.
    """

    def __init__(self, temperature: float = 2.5, target: Target = "new") -> None:
        super().__init__(target)
        self.temperature = temperature

    def doubt(self, logits: Tensor, competes: Tensor | None) -> Tensor:
        z = (logits / self.temperature).clamp(min=torch.finfo(logits.dtype).min)  # of columns that do not compete
        weight = 1 + (-entropy(z.detach())).exp()
        p = z.softmax(1)
        confusion = (p * (weight / weight.mean())[:, None]).T @ p
        confusion = confusion / confusion.sum(1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
        classes = len(confusion) if competes is None else competes.any(0).sum()
        return (confusion.sum() - confusion.diagonal().sum()) / classes


def entropy(logits: Tensor) -> Tensor:
    """`[n]` from `[n, C]`, in nats.

    >>> entropy(torch.zeros(1, 4))
    tensor([1.3863])
    """
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)
