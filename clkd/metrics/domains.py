"""What an experience gains on its own domain, and what that costs on the others.

R[i, j] is the accuracy on experience j after training on i; n are trained. Domain adaptation reports the first of the
two (the target's accuracy above that without adaptation), continual learning something like the second.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from clkd.metrics.average import mean
from clkd.metrics.base import Metric, Record

if TYPE_CHECKING:
    from clkd.experience import Experience


class GainNewDomain(Metric):
    """`R[n-1, n-1] − R[n-2, n-1]`: what training in the latest experience gained on its own test rows.

    For the first, against the untrained student. The terms of forward transfer and learning accuracy (Lopez-Paz &
    Ranzato 2017; Riemer et al. 2019) in one difference, of the latest experience alone. NaN where the student could not
    be asked before (it had no column for a new class).

    >>> GainNewDomain()(Record(2, [[0.9, 0.25], [0.5, 0.75]], baseline=[0.1, 0.1], trained=2))
    0.5
    """

    def __call__(self, record: Record) -> float:
        last = record.trained - 1
        if last < 0:
            return math.nan
        before = record.matrix[last - 1][last] if last else record.baseline[0]
        return record.matrix[last][last] - before


class LossOldDomains(Metric):
    """`1/|D| Σ_{d∈D} (R[n-2, d] − R[n-1, d])`: how much the latest experience cost on all other domains seen before it.

    The step-wise part of backward transfer (Lopez-Paz & Ranzato 2017), by domain: D has the latest experience of each
    domain that is not the new one, so that one that comes back counts neither as old nor twice. 0 where there is none,
    as in a stream without domains.

    Attributes:
        domains: the domain of each experience.

    >>> loss = LossOldDomains()
    >>> loss.domains = (0, 1, 0)
    >>> loss(Record(3, [[0.9, 0.2, 0.9], [0.5, 0.75, 0.5], [0.8, 0.5, 0.8]], trained=3))
    0.25
    """

    def __init__(self, experiences: tuple[Experience, ...] = ()) -> None:
        self.domains = tuple(each.train.domain for each in experiences)

    def __call__(self, record: Record) -> float:
        last = record.trained - 1
        past = self.domains[: max(last, 0)]
        latest = {domain: j for j, domain in enumerate(past) if domain != self.domains[last]}
        return mean([record.matrix[last - 1][j] - record.matrix[last][j] for j in latest.values()], empty=0.0)
