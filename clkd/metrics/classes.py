"""How good the student is at each class."""

from __future__ import annotations

from clkd.metrics.average import mean
from clkd.metrics.base import Metric, Record


class MacroF1(Metric):
    """`1/|K| Σ_k 2 TP_k / (2 TP_k + FP_k + FN_k)`, K the classes that have rows or were predicted. NaN without any.

    From the latest evaluation over all experiences seen, of the answers that the matrix counts; the same as
    scikit-learn's `f1_score(average="macro")`.

    >>> MacroF1()(Record(1, confusion=[[1, 1, 0], [0, 2, 0], [0, 0, 0]]))
    0.7333
    """

    def __call__(self, record: Record) -> float:
        rows, columns = record.confusion, list(zip(*record.confusion, strict=True))
        sizes = [sum(row) + sum(column) for row, column in zip(rows, columns, strict=True)]
        return mean([2 * rows[c][c] / size for c, size in enumerate(sizes) if size])
