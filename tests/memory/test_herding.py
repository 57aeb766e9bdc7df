"""Herding against its definition, by brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from clkd.experience import Experience
from clkd.memory.herding import Herding, herded
from clkd.models.student import Student
from clkd.testing import material


def brute_force(features: np.ndarray, n: int) -> list[int]:
    """iCaRL's algorithm 4: of all rows left, the one that brings the mean of those picked closest to that of all."""
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean, picked = rows.mean(0), []
    for _ in range(n):
        left = [i for i in range(len(rows)) if i not in picked]
        picked.append(min(left, key=lambda i: np.linalg.norm(mean - rows[[*picked, i]].mean(0))))
    return picked


@pytest.mark.parametrize("seed", range(5))
def test_it_picks_what_brute_force_picks(seed):
    features = torch.randn(25, 6, generator=torch.Generator().manual_seed(seed)).relu() + 0.01
    order = herded(features, 25).tolist()
    assert order == brute_force(features.double().numpy(), 25)
    assert herded(features, 11).tolist() == order[:11]


def test_a_row_without_any_feature_is_picked_where_it_helps():
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert herded(features, 3).tolist() == [1, 0, 2], "means 1, 1/2, 2/3: after one pick, 1/2 and 1 are 1/6 and 1/3 off"


def kept(memory: Herding, c: int) -> list[int]:
    """Sample ids of a class in the order of herding."""
    count = len(memory)
    y, key, ids = (memory.table.columns[name][:count] for name in ("y", "extra.key", "sample_id"))
    at = (y == c).nonzero().squeeze(1)
    return ids[at[key[at].argsort()]].tolist()


def expected(student: Student, experience: Experience, c: int, n: int, shown: Callable[[Tensor], Tensor]) -> list[int]:
    at = (experience.train.y == c).nonzero().squeeze(1)
    with torch.no_grad():
        features = student.eval().backbone(shown(experience.train.gather(at).x))
    return [int(experience.train.sample_id[at[i]]) for i in brute_force(features.double().numpy(), n)]


def test_shrinking_keeps_the_best_prefix():
    student, memory = material.student(), Herding(12)
    first, second, third = material.experiences()
    memory.end(first, student)
    assert student.training, "as it was"
    orders = {c: kept(memory, c) for c in first.classes}
    for c in first.classes:
        assert orders[c] == expected(student, first, c, 6, lambda x: x.float() / 255)
    memory.end(second, student)
    assert {c: kept(memory, c) for c in first.classes} == {c: order[:3] for c, order in orders.items()}
    memory.end(third, student)
    assert {c: kept(memory, c) for c in first.classes} == {c: order[:2] for c, order in orders.items()}


def test_a_class_that_comes_again_shares_its_rows():
    student, memory = material.student(), Herding(8)
    first, second, _ = material.experiences()
    again = replace(second, train=replace(second.train, y=first.train.y), classes=first.classes, seen=first.seen)
    memory.end(first, student)
    memory.end(again, student)
    for c in first.classes:
        ids = kept(memory, c)
        old, new = (expected(student, each, c, 2, lambda x: x.float() / 255) for each in (first, again))
        assert ids == [old[0], new[0], old[1], new[1]]


@pytest.mark.parametrize("seed", range(3))
def test_lengths_count_where_they_are_left(seed):
    """Brute force over features as they are, which differ in length."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(30, 4, generator=draw) * torch.rand(30, 1, generator=draw) * 3
    mean, order = features.mean(0), []
    for k in range(1, 13):
        left = [i for i in range(30) if i not in order]
        sums = {i: features[[*order, i]].sum(0) for i in left}
        order.append(min(left, key=lambda i: float((mean - sums[i] / k).norm())))
    assert herded(features, 12, normalize=False).tolist() == order
    assert herded(features, 12).tolist() != order


def test_the_student_is_told_where_the_rows_come_from():
    """Norms of each domain's own may listen, as they do in evaluation."""
    student, told = material.student(), []
    student.hear = lambda domain, ranks: told.append(domain)
    _, second, _ = material.experiences()
    student.grow(second.classes, 1, torch.Generator())
    Herding(10).end(second, student)
    assert [set(each.tolist()) for each in told] == [{1}, {1}]
