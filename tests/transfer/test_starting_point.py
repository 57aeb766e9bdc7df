"""Staying near the student of the experience's begin, against sums over its parameters and layers."""

from __future__ import annotations

import pytest
import torch
from domain_rows import said

from clkd.signals import Needs
from clkd.testing import material
from clkd.transfer.starting_point import L2SP, Delta


def entered(strategy):
    """The second experience: columns 2 and 3 of the head are new. All weights have moved by 0.1 since."""
    _, second, _ = material.experiences()
    student = material.student()
    student.grow(second.classes, 1, torch.Generator().manual_seed(0))
    strategy.begin(second, student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1
    return student


def test_l2_sp_is_the_squared_way_from_the_start_and_decay_for_new_columns():
    strategy = L2SP(fresh=0.25)
    student = entered(strategy)
    new = student.head.weight[2:].square().sum() + student.head.bias[2:].square().sum()
    old = sum(p.numel() for p in student.backbone.parameters()) + student.head.weight[:2].numel() + 2
    expected = 0.5 * (0.01 * old + 0.25 * new.item())
    value = strategy(material.batch(), said(torch.zeros(9, 1)))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    torch.testing.assert_close(student.head.weight.grad[:2], torch.full((2, material.WIDTH), 0.1))
    torch.testing.assert_close(student.head.weight.grad[2:], 0.25 * student.head.weight.detach()[2:])


def test_delta_is_half_the_squared_distance_of_features_and_teaches_the_student_alone():
    strategy, needs = Delta(), Needs(logits=False, features=("penultimate",))
    batch = material.batch()
    before = material.student().signals(batch.x, needs).features["penultimate"].detach()
    student = entered(strategy)
    a = student.signals(batch.x, needs)
    expected = 0.5 * (a.features["penultimate"] - before).square().sum(1).mean()
    value = strategy(batch, a)
    torch.testing.assert_close(value, expected)
    assert value > 0
    value.backward()
    assert all(p.grad is None for p in strategy._before[0].parameters())
    assert list(strategy.parameters()) == []
    assert strategy.state_dict() == {}


@pytest.mark.parametrize("kind", [L2SP, Delta])
def test_in_the_first_experience_there_is_no_start_worth_staying_at_unless_it_is_said(kind):
    student, first = material.student(), next(material.experiences())
    a = student.signals(material.batch().x, Needs(features=("penultimate",)))
    strategy = kind()
    strategy.begin(first, student)
    assert strategy(material.batch(), a) is None
    strategy = kind(first=True)
    strategy.begin(first, student)
    value = strategy(material.batch(), a).item()
    new = 0.5 * sum(p.square().sum().item() for p in student.head.parameters()) if kind is L2SP else 0
    assert value == pytest.approx(new)


def test_at_the_start_nothing_pulls():
    strategy = Delta(first=True)
    student = material.student()
    strategy.begin(next(material.experiences()), student)
    strategy(material.batch(), student.signals(material.batch().x, strategy.reads())).backward()
    assert not any(p.grad.any() for p in student.backbone.parameters())
