"""How good the student is. R[i, j] is the accuracy on experience j after training on i; n experiences are trained."""

from __future__ import annotations

import math

from clkd.metrics.base import Metric, Record


def mean(values: list[float], empty: float = math.nan) -> float:
    """The mean, or `empty` where there is nothing to average."""
    return sum(values) / len(values) if values else empty


class AverageAccuracy(Metric):
    """`1/n Σ_j R[n-1, j]` over the experiences trained (Lopez-Paz & Ranzato 2017, ACC, eq. 2). NaN before the first.

    >>> AverageAccuracy()(Record(2, [[0.9, 0.0], [0.5, 0.7]], trained=2))
    0.6
    """

    def __call__(self, record: Record) -> float:
        n = record.trained
        return mean(record.matrix[n - 1][:n]) if n else math.nan


class AverageIncrementalAccuracy(Metric):
    """`1/n Σ_i 1/(i+1) Σ_{j≤i} R[i, j]`: the mean over time (Rebuffi et al. 2017, iCaRL, §4). NaN before the first.

    >>> AverageIncrementalAccuracy()(Record(2, [[0.9, 0.0], [0.5, 0.7]], trained=2))
    0.75
    """

    def __call__(self, record: Record) -> float:
        return mean([mean(record.matrix[i][: i + 1]) for i in range(record.trained)])


class LearningAccuracy(Metric):
    """`1/n Σ_i R[i, i]`: how well each experience is learned (Riemer et al. 2019, LA). NaN before the first.

    >>> LearningAccuracy()(Record(2, [[0.9, 0.0], [0.5, 0.7]], trained=2))
    0.8
    """

    def __call__(self, record: Record) -> float:
        return mean([record.matrix[i][i] for i in range(record.trained)])


class AnytimeAccuracy(Metric):
    """`1/k Σ_i a_i`: the mean of the average accuracy at k moments, every `train.evaluate_every` steps of training.

    The area under the curve of accuracy over steps (Koh et al. 2022, A_AUC; Caccia et al. 2020, average anytime
    accuracy). Only moments within experiences that are over count. NaN without any.

    >>> AnytimeAccuracy()(Record(2, trained=1, anytime=[[0, 10, 0.5], [0, 20, 0.75], [1, 30, 0.25]]))
    0.625
    """

    def __call__(self, record: Record) -> float:
        return mean([accuracy for experience, _, accuracy in record.anytime if experience < record.trained])
