"""DANN and CDAN against their formulas in numpy, and the signs of their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from domain_rows import batch, own, rows, said
from torch import Tensor

from clkd.schedules.base import Progress, Schedule
from clkd.testing import material
from clkd.transfer.discriminator import CDAN, DANN, Adversary


def made(strategy: Adversary, widths: tuple[int, ...]) -> Adversary:
    strategy.make(widths)
    return strategy.double()


def verdict(strategy: Adversary, x: np.ndarray) -> np.ndarray:
    """A perceptron of two hidden layers with leaky ReLUs, written anew."""
    first, second, last = (strategy.discriminator[i] for i in (0, 2, 4))
    for layer in (first, second, last):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        x = x if layer is last else np.where(x > 0, x, 0.2 * x)
    return x[:, 0]


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.log1p(np.exp(-x))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize(("new", "replayed"), [(5, 4), (2, 7), (1, 1)])
def test_dann_is_the_papers_binary_cross_entropy(new, replayed):
    f, dann = rows(new + replayed, 4), made(DANN(hidden=(5, 3)), (4,))
    d = verdict(dann, f.numpy())
    expected = -0.5 * (log_sigmoid(d[new:]).mean() + log_sigmoid(-d[:new]).mean())
    assert dann(batch(new, replayed), said(f)).item() == pytest.approx(expected, rel=1e-10)


def joint(cdan: CDAN, f: np.ndarray, p: np.ndarray) -> np.ndarray:
    if f.shape[1] * p.shape[1] <= cdan.random:
        return np.stack([np.outer(a, b).ravel() for a, b in zip(f, p, strict=True)])
    return (f @ cdan.random_f.numpy()) * (p @ cdan.random_p.numpy()) / math.sqrt(cdan.random)


@pytest.mark.parametrize("random", [1024, 7])
@pytest.mark.parametrize("weighted", [True, False])
def test_cdan_conditions_on_what_rows_are_taken_for(random, weighted):
    f, z = rows(9, 4), rows(9, 3, 1)
    cdan = made(CDAN(hidden=(5, 3), random=random, entropy=weighted), (4, 3))
    p = softmax(z.numpy())
    d = verdict(cdan, joint(cdan, f.numpy(), p))
    weight = 1 + np.exp((p * np.log(p)).sum(1)) if weighted else np.ones(9)
    source, target = (
        (weight[side] * values).sum() / weight[side].sum()
        for side, values in ((slice(5, 9), -log_sigmoid(d[5:])), (slice(0, 5), -log_sigmoid(-d[:5])))
    )
    assert cdan(batch(5, 4), said(f, z)).item() == pytest.approx(0.5 * (source + target), rel=1e-9)


def test_where_rows_are_told_their_task_cdan_takes_them_for_its_classes_alone():
    f, z, told = rows(9, 4), rows(9, 5, 1), own(2, 3)
    cdan = made(CDAN(hidden=(5, 3)), (4, 5))
    p = np.where(told.numpy(), np.exp(z.numpy()), 0.0)
    p = p / p.sum(1, keepdims=True)
    d = verdict(cdan, joint(cdan, f.numpy(), p))
    weight = np.array([1 + np.exp(sum(q * np.log(q) for q in row if q)) for row in p])
    source = (weight[5:] * -log_sigmoid(d[5:])).sum() / weight[5:].sum()
    target = (weight[:5] * -log_sigmoid(-d[:5])).sum() / weight[:5].sum()
    value = cdan(batch(5, 4), said(f, z, competes=told))
    assert value.item() == pytest.approx(0.5 * (source + target), rel=1e-9)


def gradients(strategy: Adversary, f: Tensor, z: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    f = f.clone().requires_grad_()
    strategy.zero_grad()
    strategy(batch(5, 4), said(f, z)).backward()
    return f.grad, [p.grad.clone() for p in strategy.parameters()]


@pytest.mark.parametrize(("kind", "widths"), [(DANN, (4,)), (CDAN, (4, 3))])
def test_the_students_gradient_is_reversed_and_the_discriminators_is_not(kind, widths):
    f, z = rows(9, 4), rows(9, 3, 1)
    reversed_, own = gradients(made(kind(reversal=0.25, hidden=(5, 3)), widths), f, z)
    plain, same = gradients(made(kind(reversal=-1.0, hidden=(5, 3)), widths), f, z)  # reversed twice: as it is
    torch.testing.assert_close(reversed_, -0.25 * plain)
    assert plain.any()
    for a, b in zip(own, same, strict=True):
        torch.testing.assert_close(a, b)


def test_the_ramp_is_the_papers():
    dann = DANN(reversal=0.5)
    for step, p in ((0, 0.0), (3, 0.3), (9, 0.9)):
        dann.progress = Progress(epochs=2, epoch_steps=5, epoch=step // 5, epoch_step=step % 5)
        assert dann.strength(said(rows(1, 1))) == pytest.approx(0.5 * (2 / (1 + math.exp(-10 * p)) - 1))


def test_reversal_follows_a_schedule():
    class Doubling(Schedule):
        def __call__(self, progress, signals=None):
            return 2.0**progress.step

    dann = DANN(reversal=Doubling(), ramp=0)
    dann.progress = Progress(step=3)
    assert dann.strength(said(rows(1, 1))) == 8


def test_no_gradient_comes_by_way_of_the_probabilities():
    z = rows(9, 3, 1).requires_grad_()
    made(CDAN(hidden=(5, 3)), (4, 3))(batch(5, 4), said(rows(9, 4).requires_grad_(), z)).backward()
    assert z.grad is None


@pytest.mark.parametrize(("new", "replayed"), [(5, 0), (0, 5)])
def test_without_one_side_there_is_nothing_to_tell_apart(new, replayed):
    assert made(DANN(), (4,))(batch(new, replayed), said(rows(5, 4))) is None
    assert made(CDAN(), (4, 3))(batch(new, replayed), said(rows(5, 4), rows(5, 3))) is None


def test_the_game_brings_domains_together():
    """Features of their own, 3 deviations apart: after the game their means are near, and D is at a loss."""
    f = torch.cat([rows(40, 2), rows(40, 2, 1) + 6]).requires_grad_()
    dann = made(DANN(hidden=(16, 16)), (2,))
    optimizer = torch.optim.Adam([{"params": [f], "lr": 0.05}, {"params": dann.parameters(), "lr": 0.01}])
    for _ in range(600):
        optimizer.zero_grad()
        value = dann(batch(40, 40), said(f))
        value.backward()
        optimizer.step()
    assert (f[:40].mean(0) - f[40:].mean(0)).norm() < 2
    assert value.item() > 0.5


def test_the_discriminator_stays_while_what_it_reads_does_and_is_drawn_by_itself():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    student, (first, second, _) = material.student(), material.experiences()
    dann, cdan = DANN(), CDAN()
    for strategy in (dann, cdan):
        strategy.begin(first, student)
    kept, old = dann.discriminator, cdan.discriminator
    student.grow(second.classes, 1, torch.Generator())
    for strategy in (dann, cdan):
        strategy.begin(second, student)
    assert dann.discriminator is kept
    assert cdan.discriminator is not old
    assert cdan.widths == (material.WIDTH, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    fresh = CDAN()
    fresh.load_state_dict(cdan.state_dict())
    assert material.equal(fresh.state_dict(), cdan.state_dict())
