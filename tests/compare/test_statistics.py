"""Tests and their p, against numbers worked out by hand and against SciPy."""

import math
import random

import pytest

from clkd.compare.statistics import holm, paired_t, standard_deviation, student_p, welch_t

stats = pytest.importorskip("scipy.stats", reason="scikit-learn brings SciPy")


def test_the_critical_values_of_the_printed_tables():
    """Student's t at 5 % two-sided, as every textbook prints it."""
    for freedom, t in ((1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042), (120, 1.980)):
        assert student_p(t, freedom) == pytest.approx(0.05, abs=5e-5)
        assert student_p(-t, freedom) == student_p(t, freedom)


def test_closed_forms_of_one_and_two_degrees_of_freedom():
    for t in (0.0, 0.3, 1.0, 7.0, 100.0):
        assert student_p(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, abs=1e-12)
        assert student_p(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12)


def test_the_paired_test_by_hand():
    """Differences 1, 2, 3: mean 2, standard deviation 1, t = 2√3 with 2 degrees of freedom."""
    t = 2 * math.sqrt(3)
    assert paired_t([11.0, 22.0, 33.0], [10.0, 20.0, 30.0]) == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert paired_t([1.0, 2.0], [1.0, 2.0]) == 1
    assert paired_t([2.0, 3.0], [1.0, 2.0]) == 0


@pytest.mark.parametrize("trial", range(20))
def test_both_tests_are_scipys(trial):
    draw = random.Random(trial)
    a = [draw.gauss(0, 1) for _ in range(2 + trial % 7)]
    b = [draw.gauss(trial / 4, 3) for _ in a]
    c = [draw.gauss(trial / 4, 3) for _ in range(2 + trial % 5)]
    assert paired_t(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9, abs=1e-14)
    assert welch_t(a, c) == pytest.approx(stats.ttest_ind(a, c, equal_var=False).pvalue, rel=1e-9, abs=1e-14)
    t, freedom = draw.uniform(0, 40), draw.uniform(0.5, 300)
    assert student_p(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-9, abs=1e-14)


def test_holm_by_hand():
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]


def test_one_value_has_no_spread():
    assert standard_deviation([3.0]) is None
    assert standard_deviation([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]) == pytest.approx(math.sqrt(32 / 7))
