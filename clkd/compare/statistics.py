"""Means over seeds, and whether two of them differ by more than chance.

The distribution function is written out, since importing a library for it takes longer than everything else that
`clkd compare` does.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

MOST_TERMS, TOLERANCE, TINY = 500, 1e-15, 1e-300


def in_standard_errors(ours: float, our_error: float, theirs: float, their_error: float) -> float | None:
    """The difference of two means in standard errors of it, `(a − b) / √(s_a² + s_b²)`; None where both are 0.

    >>> in_standard_errors(70.0, 0.3, 69.0, 0.4)
    2.0
    """
    error = math.hypot(our_error, their_error)
    return (ours - theirs) / error if error else None


def standard_deviation(values: Sequence[float]) -> float | None:
    """Of a sample (n − 1); None of a single value.

    >>> standard_deviation([1.0, 2.0, 3.0]), standard_deviation([1.0])
    (1.0, None)
    """
    return statistics.stdev(values) if len(values) > 1 else None


def paired_t(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of the paired t-test (Student 1908) that the mean of `a − b` is 0, with n − 1 degrees of freedom.

    Differences that are all the same have no spread: p is 1 if they are 0, and 0 if they are not.

    >>> paired_t([3.0, 4.0, 5.0], [1.0, 2.0, 0.0])  # differences 2, 2, 5: t = 3 with 2 degrees of freedom
    0.0954659
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
    t = in_standard_errors(mean, error, 0.0, 0.0)
    return float(mean == 0) if t is None else student_p(t, len(differences) - 1)


def welch_t(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of Welch's t-test (1947) that two independent samples have one mean; variances may differ.

    >>> welch_t([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])  # t = −3.674 with 4 degrees of freedom
    0.0213116
    """
    squares = [statistics.variance(values) / len(values) for values in (a, b)]
    means = [statistics.fmean(values) for values in (a, b)]
    t = in_standard_errors(means[0], math.sqrt(squares[0]), means[1], math.sqrt(squares[1]))
    if t is None:
        return float(means[0] == means[1])
    below = sum(square**2 / (len(values) - 1) for square, values in zip(squares, (a, b), strict=True))
    return student_p(t, sum(squares) ** 2 / below)


def holm(ps: Sequence[float]) -> list[float]:
    """The p of several tests, each raised so that one false alarm among all is as rare as p says (Holm 1979).

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted


def student_p(t: float, freedom: float) -> float:
    """How likely Student's t is at least this far from 0: `I_x(ν/2, 1/2)` at `x = ν / (ν + t²)`.

    >>> student_p(2.7764451, 4), student_p(12.706205, 1)
    (0.05, 0.05)
    """
    return _beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def _beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by its continued fraction where that converges fast."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    """Lentz's evaluation (Press et al., Numerical Recipes, §6.4)."""
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / _away(1 + term * d), _away(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < TOLERANCE:
            break
    return value


def _away(value: float) -> float:
    """Not 0, which is divided by."""
    return value if abs(value) > TINY else TINY
