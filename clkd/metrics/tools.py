"""Forgetting and backward transfer as other tools compute them, so that their numbers can be compared with.

R[i, j] is the accuracy on j after training on i; n are trained. All are 0 where a tool has nothing to average.
"""

from __future__ import annotations

from clkd.metrics.average import mean
from clkd.metrics.base import Metric, Record
from clkd.metrics.stability import best


class Drop(Metric):
    """`1/(n-1) Σ_{j<n-1} (before(j) − R[n-1, j])`: tools differ in what was before."""

    def __call__(self, record: Record) -> float:
        matrix, last = record.matrix, record.trained - 1
        return mean([self.before(matrix[: last + 1], j) - matrix[last][j] for j in range(last)], empty=0.0)

    def before(self, rows: list[list[float]], j: int) -> float:
        """What accuracy on j is compared with; `rows` are all that are filled."""
        raise NotImplementedError


class ForgettingAvalanche(Drop):
    """Before is `R[j, j]`, just after training (Avalanche 0.6, `forgetting_bwt.py`, `StreamForgetting`).

    >>> ForgettingAvalanche()(Record(3, [[0.8, 0.1, 0], [0.9, 0.6, 0], [0.5, 0.7, 0.7]], trained=3))
    0.1
    """

    def before(self, rows: list[list[float]], j: int) -> float:
        return rows[j][j]


class BackwardTransferAvalanche(ForgettingAvalanche):
    """Minus its forgetting (Avalanche 0.6, `forgetting_bwt.py`, `StreamBWT`): the number of `backward_transfer`.

    >>> BackwardTransferAvalanche()(Record(2, [[0.9, 0.0], [0.5, 0.7]], trained=2))
    -0.4
    """

    def __call__(self, record: Record) -> float:
        return -super().__call__(record) or 0.0  # no -0.0


class ForgettingMammoth(Drop):
    """Before is the best of all rows, the last included: never below 0 (Mammoth, `utils/metrics.py`, `forgetting`).

    >>> ForgettingMammoth()(Record(3, [[0.8, 0.1, 0], [0.9, 0.6, 0], [0.5, 0.7, 0.7]], trained=3))
    0.2
    """

    def before(self, rows: list[list[float]], j: int) -> float:
        return best(rows, j)


class ForgettingPycil(Drop):
    """Before is the best since j was trained, the last row included (PyCIL, `trainer.py`, "Forgetting (CNN)").

    PyCIL's own columns are its blocks of 10 classes; here they are experiences, as in its later descendants.

    >>> ForgettingPycil()(Record(3, [[0.8, 0.9, 0], [0.9, 0.6, 0], [0.5, 0.7, 0.7]], trained=3))
    0.2
    """

    def before(self, rows: list[list[float]], j: int) -> float:
        return best(rows[j:], j)


class ForgettingFacil(Drop):
    """Before is the best since j was trained, without the last row: may be below 0 (FACIL, `main_incremental.py`).

    >>> ForgettingFacil()(Record(3, [[0.8, 0.9, 0], [0.9, 0.6, 0], [0.5, 0.7, 0.7]], trained=3))
    0.15
    """

    def before(self, rows: list[list[float]], j: int) -> float:
        return best(rows[j:-1], j)


class ForgettingLibcontinual(Metric):
    """`1/(n-1) Σ_{j<n-2} (R[j, j] − R[n-1, j])`, without the last experience but one; 0 with fewer than 3.

    LibContinual, `core/utils/utils.py`, `compute_frgt`.

    >>> ForgettingLibcontinual()(Record(3, [[0.8, 0.1, 0], [0.9, 0.6, 0], [0.5, 0.7, 0.7]], trained=3))
    0.15
    """

    def __call__(self, record: Record) -> float:
        matrix, last = record.matrix, record.trained - 1
        return sum(matrix[j][j] - matrix[last][j] for j in range(last - 1)) / max(last, 1)


class BackwardTransferLibcontinual(Metric):
    """`2/(n(n-1)) Σ_{1<i<n} Σ_{j<i-1} (R[i, j] − R[j, j])`, over all rows; 0 with fewer than 3 experiences.

    LibContinual, `core/utils/utils.py`, `compute_bwt`.

    >>> BackwardTransferLibcontinual()(Record(3, [[0.8, 0.1, 0], [0.9, 0.6, 0], [0.5, 0.7, 0.7]], trained=3))
    -0.1
    """

    def __call__(self, record: Record) -> float:
        matrix, n = record.matrix, record.trained
        changes = sum(matrix[i][j] - matrix[j][j] for i in range(2, n) for j in range(i - 1))
        return 2 * changes / max(n * (n - 1), 1)
