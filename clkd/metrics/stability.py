"""What training does to other experiences. R[i, j] is the accuracy on j after training on i; n are trained."""

from __future__ import annotations

import math

from clkd.metrics.average import mean
from clkd.metrics.base import Metric, Record


class Forgetting(Metric):
    """`1/(n-1) Σ_{j<n-1} (max_{i<n-1} R[i, j] − R[n-1, j])`; 0 with one experience. Lower is better.

    Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning", eq. 3. The maximum is over all rows before the
    last, as in the paper; rows where j could not be evaluated (NaN) do not count. Negative where accuracy still rises.

    >>> Forgetting()(Record(3, [[0.8, 0, 0], [0.9, 0.6, 0], [0.5, 0.4, 0.7]], trained=3))
    0.3
    """

    def __call__(self, record: Record) -> float:
        matrix, last = record.matrix, record.trained - 1
        return mean([best(matrix[:last], j) - matrix[last][j] for j in range(last)], empty=0.0)


class BackwardTransfer(Metric):
    """`1/(n-1) Σ_{j<n-1} (R[n-1, j] − R[j, j])`; 0 with one experience. Higher is better.

    Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory", BWT, eq. 3.

    >>> BackwardTransfer()(Record(2, [[0.9, 0.0], [0.5, 0.7]], trained=2))
    -0.4
    """

    def __call__(self, record: Record) -> float:
        matrix, last = record.matrix, record.trained - 1
        return mean([matrix[last][j] - matrix[j][j] for j in range(last)], empty=0.0)


class ForwardTransfer(Metric):
    """`1/(n-1) Σ_{0<i<n} (R[i-1, i] − b[i])`, b the untrained student's accuracy; 0 with one experience.

    Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory", FWT, eq. 4. Where the head has no column for the coming
    classes, accuracy cannot be had (NaN): an untrained student that does not know them is never right (b = 0), and one
    that was trained adds nothing. So in a class-incremental stream with a growing head it is 0 by construction, which
    says nothing about the features; where classes come again, all that was learned of them counts.

    >>> ForwardTransfer()(Record(2, [[0.9, 0.3], [0.5, 0.7]], baseline=[0.1, 0.2], trained=2))
    0.1
    """

    def __call__(self, record: Record) -> float:
        pairs = [(record.matrix[i - 1][i], record.baseline[i]) for i in range(1, record.trained)]
        return mean([0.0 if math.isnan(r) else r if math.isnan(b) else r - b for r, b in pairs], empty=0.0)


def best(rows: list[list[float]], j: int) -> float:
    """The highest accuracy on j in any of these rows; NaN where it was never evaluated."""
    return max((row[j] for row in rows if not math.isnan(row[j])), default=math.nan)
