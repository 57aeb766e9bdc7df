"""Two-sample statistics: against plain sums, at their limits, and the monitor's false alarms by simulation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clkd.metrics.shift import a_distance, drift, kernel, mmd, permutation_p


def sample(n: int, seed: int, shift: float = 0.0, width: int = 3) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mmd_is_the_sum_over_pairs() -> None:
    """Unequal batches, written as loops."""
    x, y = sample(4, 0), sample(6, 1, 0.5)
    rows = [*x.tolist(), *y.tolist()]
    far = [[sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) for v in rows] for u in rows]
    pairs = sorted(far[i][j] for i in range(10) for j in range(i))
    middle = pairs[(len(pairs) - 1) // 2]
    k = [[math.exp(-d / middle) for d in line] for line in far]
    within = sum(k[i][j] for i in range(4) for j in range(4) if i != j) / 12
    others = sum(k[i][j] for i in range(4, 10) for j in range(4, 10) if i != j) / 30
    across = sum(k[i][j] for i in range(4) for j in range(4, 10)) / 24
    assert mmd(kernel(torch.cat([x, y])), 4) == pytest.approx(within + others - 2 * across)


def test_mmd_of_one_distribution_is_0_on_average_and_symmetric() -> None:
    values = torch.tensor([mmd(kernel(torch.cat([sample(20, 2 * i), sample(30, 2 * i + 1)])), 20) for i in range(200)])
    assert abs(values.mean()) < 5 * values.std() / 200**0.5
    x, y = sample(20, 0), sample(20, 1, 1.0)
    assert mmd(kernel(torch.cat([x, y])), 20) == pytest.approx(mmd(kernel(torch.cat([y, x])), 20))
    assert mmd(kernel(torch.zeros(8, 2)), 4) == 0, "constant rows"


def test_a_distance_from_0_to_2() -> None:
    near = [a_distance(sample(60, 2 * i), sample(90, 2 * i + 1), draws(i)) for i in range(20)]
    assert sum(near) / len(near) < 0.3
    assert a_distance(sample(60, 0), sample(90, 1, 20.0), draws()) == 2
    assert a_distance(torch.ones(10, 2), torch.ones(10, 2), draws()) == 0, "constant rows"
    some = [a_distance(sample(200, 7), sample(200, 8, shift), draws()) for shift in (0.2, 0.6, 1.2)]
    assert some == sorted(some)
    # Normal samples a distance d apart are told apart with error Φ(-d/2): here d = 0.6 · √3.
    best = 0.5 * math.erfc(0.6 * 3**0.5 / 2 / 2**0.5)
    assert some[1] == pytest.approx(2 * (1 - 2 * best), abs=0.25)


def test_a_distance_is_told_from_rows_that_the_classifier_did_not_learn() -> None:
    """With more features than rows, all that are learned can be told apart, whatever they are of."""
    near = [a_distance(sample(30, 2 * i, width=200), sample(30, 2 * i + 1, width=200), draws(i)) for i in range(5)]
    assert sum(near) / len(near) < 0.5


def test_the_permutation_test_is_exact() -> None:
    """600 samples of one distribution: p is even on its steps, to 5 sigma; and small where samples differ."""
    found = [
        permutation_p(kernel(torch.cat([sample(12, 2 * i), sample(18, 2 * i + 1)])), 12, 39, draws(i))
        for i in range(600)
    ]
    for level in (0.05, 0.1, 0.25, 0.5):
        share = sum(p <= level + 1e-9 for p in found) / len(found)
        assert abs(share - level) < 5 * (level * (1 - level) / 600) ** 0.5
    assert permutation_p(kernel(torch.cat([sample(30, 0), sample(30, 1, 1.5)])), 30, 99, draws()) == 0.01


@pytest.mark.parametrize("false_alarms", [0.1, 0.2])
def test_the_monitor_cries_out_no_more_often_than_it_says(false_alarms: float) -> None:
    """Incoming rows of the second of three known domains, in two layers that say nearly the same (the worst case of
    Bonferroni is independence, so there it is near its level, and here below it)."""
    alarms = {"independent": 0, "alike": 0}
    for i in range(300):
        for kind in alarms:

            def rows(seed: int, n: int, shift: float, kind: str = kind) -> dict[str, Tensor]:
                first = sample(n, seed, shift)
                return {"a": first, "b": first + 0.1 if kind == "alike" else sample(n, seed + 10**6, shift)}

            known = {d: rows(3 * i + d, 20, 3.0 * d) for d in range(3)}
            found = drift(rows(10**5 + i, 20, 3.0), known, false_alarms, 59, draws(i))
            alarms[kind] += found.alarm
            assert found.p == max(found.domains.values()) == found.domains[found.nearest]
            assert found.alarm or found.nearest == 1, "the others lie 3 deviations away"
    sd = (false_alarms * (1 - false_alarms) * 300) ** 0.5
    assert alarms["independent"] < 300 * false_alarms + 4 * sd
    assert alarms["alike"] < 300 * false_alarms + 4 * sd
    assert alarms["independent"] > 300 * false_alarms * 0.4, "a test that never alarms is none"


def test_the_monitor_sees_a_new_domain() -> None:
    known = {d: {"a": sample(40, d, 2.0 * d), "b": sample(40, d, 0.0)} for d in range(2)}
    found = drift({"a": sample(40, 9, 1.0), "b": sample(40, 10)}, known, 0.05, 99, draws())
    assert found.alarm
    assert found.p == pytest.approx(0.02)
    assert set(found.domains) == {0, 1}
