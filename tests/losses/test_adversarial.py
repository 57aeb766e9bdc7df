"""The discriminator learns to tell, the student to fool it: gradients against independent references."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from clkd.errors import UserError
from clkd.losses.adversarial import Adversarial
from clkd.reversal import reverse
from clkd.schedules.base import Progress, Schedule
from clkd.signals import Batch, Signals, Spec
from clkd.testing.contract import check_loss

LAMBDA = 0.7


def batch(n: int = 6) -> Batch:
    i = torch.arange(n)
    return Batch(i, i % 3, i, i * 0, i * 0, new=n)


def said(n: int, classes: int, seed: int, **features: torch.Tensor) -> Signals:
    logits = torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Signals(logits.requires_grad_(), torch.arange(classes), features)


@pytest.fixture
def bound() -> Adversarial:
    loss = Adversarial(on="logits", hidden=(5,), reversal=LAMBDA, seed=3)
    side = Spec((0, 1, 2), (0, 0, 0))
    loss.bind(side, side)
    return loss.double()


def reference(loss: Adversarial, f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of a two-layer perceptron, written anew; nothing is reversed."""
    first, _, last = loss.discriminator
    verdicts = [F.leaky_relu(x @ first.weight.T + first.bias, 0.2) @ last.weight.T + last.bias for x in (g.detach(), f)]
    targets = torch.ones_like(verdicts[0]), torch.zeros_like(verdicts[1])
    parts = [F.binary_cross_entropy_with_logits(v, t, reduction="none") for v, t in zip(verdicts, targets, strict=True)]
    return (0.5 * (parts[0] + parts[1])).squeeze(1)


def test_value_and_the_discriminators_gradient_are_those_of_binary_cross_entropy(bound: Adversarial) -> None:
    a, b = said(6, 3, 1), said(6, 3, 2)
    value = bound(batch(), a, b)
    expected = reference(bound, a.logits, b.logits)
    torch.testing.assert_close(value, expected)
    own = torch.autograd.grad(value.mean(), list(bound.parameters()), retain_graph=True)
    plain = torch.autograd.grad(expected.mean(), list(bound.parameters()))
    for one, other in zip(own, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_the_students_gradient_is_minus_lambda_times_that_of_the_value_by_finite_differences(bound) -> None:
    a, b = said(6, 3, 1), said(6, 3, 2)
    (gradient,) = torch.autograd.grad(bound(batch(), a, b).mean(), a.logits)
    step, found = 1e-6, torch.zeros_like(gradient)
    for i in range(6):
        for k in range(3):
            up, down = a.logits.detach().clone(), a.logits.detach().clone()
            up[i, k] += step
            down[i, k] -= step
            values = [bound(batch(), Signals(z, a.class_ids), b).mean() for z in (up, down)]
            found[i, k] = ((values[0] - values[1]) / (2 * step)).detach()
    torch.testing.assert_close(gradient, -LAMBDA * found, atol=1e-8, rtol=1e-5)
    assert b.logits.grad is None


class Doubling(Schedule):
    def __call__(self, progress, signals=None):
        return 2.0**progress.step


def test_lambda_may_follow_a_schedule_and_touches_the_student_alone(bound: Adversarial) -> None:
    a, b = said(6, 3, 1), said(6, 3, 2)
    gradients = []
    for loss, step in ((bound, 0), (copy.deepcopy(bound), 0), (copy.deepcopy(bound), 3)):
        if loss is not bound:
            loss.reversal, loss.progress = Doubling(), Progress(step=step)
        wanted = [a.logits, *loss.parameters()]
        gradients.append(torch.autograd.grad(loss(batch(), a, b).mean(), wanted))
    torch.testing.assert_close(gradients[1][0] * LAMBDA, gradients[0][0])
    torch.testing.assert_close(gradients[2][0], 8 * gradients[1][0])
    for same in zip(*(each[1:] for each in gradients), strict=True):
        assert torch.equal(same[0], same[1])
        assert torch.equal(same[0], same[2])


def test_reversal_keeps_the_value_bit_for_bit() -> None:
    x = torch.randn(50, requires_grad=True)
    assert torch.equal(reverse(x, 0.3), x)
    assert torch.autograd.grad(reverse(x, 0.0).sum(), x)[0].count_nonzero() == 0


def test_it_is_log_2_where_the_discriminator_is_at_a_loss(bound: Adversarial) -> None:
    for parameter in bound.parameters():
        torch.nn.init.zeros_(parameter)
    value = bound(batch(), said(6, 3, 1), said(6, 3, 2)).detach()
    torch.testing.assert_close(value, torch.full((6,), 2.0, dtype=torch.float64).log())


@pytest.mark.parametrize("options", [{"on": "logits"}, {"on": "features"}, {"hidden": (8, 4), "reversal": 3.0}])
def test_the_contract(options: dict) -> None:
    check_loss(lambda: Adversarial(**options))


def test_layers_meet_at_the_teachers_width_and_the_projector_works_against_the_discriminator() -> None:
    loss = Adversarial(reversal=LAMBDA)
    a = Spec((0,), (0,), feature="stage1", shape=(3, 4, 4))
    b = Spec((0,), (0,), feature="deep", shape=(5,))
    loss.bind(a, b)
    maps, vectors = torch.randn(6, 3, 4, 4, requires_grad=True), torch.randn(6, 5)
    sides = Signals(None, torch.arange(1), {"stage1": maps}), Signals(None, torch.arange(1), {"deep": vectors})
    learned = [maps, *loss.aligner.parameters()]
    reversed_ = torch.autograd.grad(loss(batch(), *sides).mean(), learned)
    aligned = loss.aligner(maps, vectors)[0]
    plain = torch.autograd.grad(0.5 * F.softplus(loss.discriminator(aligned)).mean(), learned)
    for one, other in zip(reversed_, plain, strict=True):
        torch.testing.assert_close(one, -LAMBDA * other)


def test_the_discriminator_is_kept_while_it_fits_and_drawn_from_the_seed() -> None:
    side, more = Spec((0, 1), (0, 0)), Spec((0, 1, 2), (0, 0, 1))
    loss, twin, other = Adversarial(seed=1), Adversarial(seed=1), Adversarial(seed=2)
    for each in (loss, twin, other):
        each.bind(side, side)
    kept = loss.discriminator
    assert all(map(torch.equal, kept.parameters(), twin.discriminator.parameters()))
    assert not torch.equal(next(kept.parameters()), next(other.discriminator.parameters()))
    loss.bind(more, side)
    assert loss.discriminator is kept, "both still share two classes"
    loss.bind(more, more)
    assert loss.discriminator is not kept


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UserError, match="no class in common"):
        Adversarial().bind(Spec((0,), (0,)), Spec((1,), (0,)))
    with pytest.raises(UserError, match="name a layer on either side"):
        Adversarial().bind(Spec((0,), (0,), feature="stage1", shape=(3,)), Spec((0,), (0,)))
    with pytest.raises(UserError, match="name a layer on either side"):
        Adversarial(on="features").bind(Spec((0,), (0,)), Spec((0,), (0,)))


def test_students_that_fool_it_come_to_be_distributed_like_the_teacher() -> None:
    """A linear student of two numbers, whose mean and spread are far off at first."""
    torch.manual_seed(0)
    loss = Adversarial(on="logits", hidden=(16,))
    side = Spec((0, 1), (0, 0))
    loss.bind(side, side)
    student = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], 0.01, betas=(0.5, 0.9))
    draws = torch.Generator().manual_seed(1)
    ids = torch.arange(2)

    def teacher() -> torch.Tensor:
        return torch.randn(64, 2, generator=draws) * 0.5 + torch.tensor([2.0, -1.0])

    for _ in range(800):
        f = student(torch.randn(64, 2, generator=draws))
        value = loss(batch(64), Signals(f, ids), Signals(teacher(), ids)).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    made = student(torch.randn(2000, 2, generator=draws)).detach()
    assert (made.mean(0) - torch.tensor([2.0, -1.0])).abs().max() < 0.4
    assert 0.6 < float(value.detach()) < 0.75
