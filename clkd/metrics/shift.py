"""How far two samples of rows are apart: kernel MMD with a permutation test, and the proxy A-distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

FOLDS = 5
RIDGE = 1.0
"""Of the linear classifier, on standardised features."""

Layers = Mapping[str, Tensor]
"""Of each layer, what some rows look like there: `[n, D]`."""


def kernel(rows: Tensor) -> Tensor:
    """`[n, n]`: `exp(-d² / median d²)` of the rows `[n, D]`; the median of all pairs (Gretton et al. 2012, §8)."""
    rows = rows.double()
    squares = rows.square().sum(1)
    far = (squares[:, None] + squares - 2 * rows @ rows.T).clamp_(min=0).fill_diagonal_(0)
    pairs = torch.triu_indices(len(far), len(far), 1)
    median = far[pairs[0], pairs[1]].median()
    return torch.exp(-far / (median if median > 0 else 1.0))


def mmd(k: Tensor, n: int) -> float:
    """The unbiased squared maximum mean discrepancy of the first `n` rows and the others (Gretton et al. 2012, eq. 3).

    About 0 for samples of one distribution, and below it half of the time.

    >>> mmd(torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]), 2)
    2.0
    """
    m = len(k) - n
    one, other = (each.sum() - each.trace() for each in (k[:n, :n], k[n:, n:]))
    return float(one / (n * (n - 1)) + other / (m * (m - 1)) - 2 * k[:n, n:].mean())


def permutation_p(k: Tensor, n: int, permutations: int, draws: torch.Generator) -> float:
    """The p-value of the first `n` rows and the others being of one distribution.

    The share of ways to deal the rows out, this one among them, in which the samples are at least as far apart. Exact
    for exchangeable rows: `P(p ≤ α) ≤ α`.
    """
    dealt = torch.rand(permutations, len(k), generator=draws).argsort(1) < n
    dealt = torch.cat([(torch.arange(len(k)) < n)[None], dealt]).double()
    weights = dealt / n - (1 - dealt) / (len(k) - n)
    far = ((weights @ k) * weights).sum(1)
    return float((far >= far[0] - 1e-12).double().mean())


def a_distance(one: Tensor, other: Tensor, draws: torch.Generator) -> float:
    """`2 (1 − 2 ε)`, ε the error of a linear classifier that tells the samples apart (Ben-David et al. 2007, §4).

    From 0 (it does no better than guessing) to 2 (it is always right). ε is the mean of both samples' errors, each row
    classified by ridge regression to ±1 on the other folds.

    Args:
        one, other: `[n, D]` and `[m, D]`, at least as many rows as folds.
    """
    rows = torch.cat([one, other]).double()
    side = torch.cat([torch.ones(len(one)), -torch.ones(len(other))]).double()
    weight = torch.where(side > 0, 0.5 / len(one), 0.5 / len(other))
    rows = rows - (rows * weight[:, None]).sum(0)
    rows = rows / rows.std(0).clamp(min=1e-9)
    fold = torch.cat([torch.randperm(len(each), generator=draws) % FOLDS for each in (one, other)])
    gram = rows @ rows.T / rows.shape[1]
    wrong = torch.zeros(len(rows), dtype=torch.float64)
    for i in range(FOLDS):
        held, kept = fold == i, fold != i
        # Each sample counts the same, whatever its size: the kernel form of weighted ridge regression.
        damped = gram[kept][:, kept] + torch.diag(RIDGE / (weight[kept] * len(rows)))
        told = gram[held][:, kept] @ torch.linalg.solve(damped, side[kept])
        wrong[held] = torch.where(told * side[held] > 0, 0.0, torch.where(told == 0, 0.5, 1.0)).double()
    return max(0.0, 2 * (1 - 2 * float((wrong * weight).sum())))


class Drift(NamedTuple):
    """Whether incoming rows are of a known domain.

    Attributes:
        alarm: whether they are of none, as far as the test can tell.
        p: the largest of the known domains' p-values.
        nearest: the domain that has it.
        domains: the p-value of each, over all layers.
    """

    alarm: bool
    p: float
    nearest: int
    domains: dict[int, float]


def drift(
    incoming: Layers, known: Mapping[int, Layers], false_alarms: float, permutations: int, draws: torch.Generator
) -> Drift:
    """Test incoming rows against each known domain: an alarm where all are rejected.

    A domain's p-value is the least of its layers' (MMD permutation tests), times their number (Bonferroni, as Rabanser
    et al. 2019, "Failing Loudly", §3). If the incoming rows are exchangeable with those of one known domain, that one
    is rejected with probability `false_alarms` at most; so there is an alarm with no larger one.
    """
    found = {}
    for domain, layers in known.items():
        least = min(
            permutation_p(kernel(torch.cat([incoming[name], rows])), len(incoming[name]), permutations, draws)
            for name, rows in layers.items()
        )
        found[domain] = min(1.0, least * len(layers))
    nearest = max(found, key=lambda domain: found[domain])
    return Drift(found[nearest] <= false_alarms, found[nearest], nearest, found)
