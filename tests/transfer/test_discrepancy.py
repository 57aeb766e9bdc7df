"""Maximum mean discrepancy against loops over pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from domain_rows import batch, own, rows, said

from clkd.transfer.discrepancy import JAN, MMD, one_layer

ALPHAS = (0.5, 2.0)


def kernel(x: np.ndarray, alphas=ALPHAS) -> np.ndarray:
    n = len(x)
    squared = np.array([[((a - b) ** 2).sum() for b in x] for a in x])
    typical = squared.sum() / (n * (n - 1))
    return sum(np.exp(-squared / (2 * alpha * typical)) for alpha in alphas) / len(alphas)


def reference(source: np.ndarray, target: np.ndarray, estimator: str) -> float:
    """Gretton et al. 2012, eq. 3 and 5, pair by pair."""
    n, m = len(source), len(target)
    k = kernel(np.concatenate([source, target]))
    value = 0.0
    for i in range(n + m):
        for j in range(n + m):
            if estimator == "unbiased" and i == j:
                continue
            if (i < n) != (j < n):
                value -= k[i, j] / (n * m)
            else:
                side = n if i < n else m
                value += k[i, j] / (side * (side if estimator == "biased" else side - 1))
    return value


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize(("new", "replayed"), [(5, 4), (3, 7)])
def test_value_is_the_sum_over_pairs(estimator, new, replayed):
    f = rows(new + replayed, 4)
    value = one_layer(bandwidths=ALPHAS, estimator=estimator)(batch(new, replayed), said(f))
    assert value.item() == pytest.approx(reference(f[new:].numpy(), f[:new].numpy(), estimator), rel=1e-10)


def test_several_layers_add_up():
    f, z = rows(9, 4), rows(9, 3, 1)
    value = MMD(("penultimate", "logits"), ALPHAS)(batch(5, 4), said(f, z))
    both = [reference(x[5:].numpy(), x[:5].numpy(), "biased") for x in (f, z)]
    assert value.item() == pytest.approx(sum(both), rel=1e-10)


def test_jan_multiplies_the_kernels_of_layers_and_reads_probabilities():
    f, z = rows(9, 4), rows(9, 3, 1)
    p = z.softmax(1).numpy()
    squared = ((p[:, None] - p[None]) ** 2).sum(2)
    k = kernel(f.numpy()) * np.exp(-squared / 1.68)
    side = np.where(np.arange(9) < 5, 1 / 5, -1 / 4)
    value = JAN(("penultimate", "logits"), ALPHAS)(batch(5, 4), said(f, z))
    assert value.item() == pytest.approx(side @ k @ side, rel=1e-10)
    same = torch.cat([f[:4], f[:4]]), torch.cat([z[:4], z[:4]])
    assert JAN()(batch(4, 4), said(*same)).item() == pytest.approx(0, abs=1e-12)
    assert JAN()(batch(9, 0), said(f, z)) is None


def test_it_is_symmetric_zero_for_equal_rows_and_never_negative():
    f = rows(12, 4)
    mmd = one_layer()
    there, back = mmd(batch(5, 7), said(f)), mmd(batch(7, 5), said(torch.cat([f[5:], f[:5]])))
    torch.testing.assert_close(there, back)
    assert there > 0.01
    assert mmd(batch(5, 5), said(torch.cat([f[:5], f[:5].flip(0)]))).item() == pytest.approx(0, abs=1e-12)
    assert all(mmd(batch(6, 6), said(rows(12, 4, seed))) > 0 for seed in range(20))


def test_the_unbiased_estimate_is_right_on_average():
    """Between samples of one distribution: the mean over many draws is 0, where the biased one is above 0."""
    drawn = {e: torch.stack([one_layer(estimator=e)(batch(6, 6), said(rows(12, 2, s))) for s in range(300)])
             for e in ("biased", "unbiased")}  # fmt: skip
    mean, error = drawn["unbiased"].mean(), drawn["unbiased"].std() / math.sqrt(300)
    assert abs(mean) < 3 * error
    assert drawn["biased"].mean() > 0.05


def test_gradient_is_that_of_the_value_at_a_fixed_bandwidth():
    """The bandwidth is taken as given: the gradient is that of the kernel alone."""
    f = rows(8, 3).requires_grad_()
    one_layer(bandwidths=(1.0,))(batch(4, 4), said(f)).backward()
    fixed = f.detach().clone().requires_grad_()
    squared = torch.cdist(fixed, fixed).square()
    k = (-squared / (2 * squared.detach().sum() / 56)).exp()
    (k[:4, :4].mean() + k[4:, 4:].mean() - 2 * k[:4, 4:].mean()).backward()
    torch.testing.assert_close(f.grad, fixed.grad)


def test_training_by_it_brings_domains_together():
    f = torch.cat([rows(20, 3), rows(20, 3, 1) + 4]).requires_grad_()
    optimizer, mmd = torch.optim.Adam([f], lr=0.1), one_layer()
    before = mmd(batch(20, 20), said(f)).item()
    for _ in range(100):
        optimizer.zero_grad()
        value = mmd(batch(20, 20), said(f))
        value.backward()
        optimizer.step()
    assert value.item() < before / 10


@pytest.mark.parametrize(("new", "replayed"), [(5, 0), (0, 5)])
def test_without_one_side_there_is_nothing_to_compare(new, replayed):
    assert one_layer()(batch(new, replayed), said(rows(5, 4))) is None


def test_a_single_row_has_no_pairs_and_equal_rows_are_no_nan():
    assert one_layer(estimator="unbiased")(batch(1, 5), said(rows(6, 4))) is None
    assert torch.isfinite(one_layer()(batch(1, 1), said(rows(2, 4))))
    f = torch.ones(4, 3, requires_grad=True)
    one_layer()(batch(2, 2), said(f)).backward()
    assert torch.isfinite(f.grad).all()


@pytest.mark.parametrize(
    "make", [one_layer, lambda: MMD(("penultimate", "logits")), lambda: JAN(("penultimate", "logits"))]
)
def test_rows_that_differ_by_rounding_alone_are_not_torn_apart(make):
    """Divided by a distance that is rounding itself, gradients were 1e23."""
    row = torch.rand(1, 16, generator=torch.Generator().manual_seed(0)) + 1
    for noise in (0.0, 1e-7):
        f = (row + noise * torch.randn(9, 16, generator=torch.Generator().manual_seed(1))).requires_grad_()
        make()(batch(5, 4), said(f, f)).backward()
        assert f.grad.abs().max() < 1


@pytest.mark.parametrize("target", ["unlabelled", "domain"])
def test_the_target_may_be_told_by_labels_or_domains(target):
    f = rows(8, 4)
    ours = torch.tensor([True, False, True, True, False, False, True, False])
    told = {"y": torch.where(ours, -1, 3)} if target == "unlabelled" else {"domain": torch.where(ours, 7, 2)}
    value = one_layer(bandwidths=ALPHAS, target=target)(batch(5, 3, **told), said(f))
    assert value.item() == pytest.approx(reference(f[~ours].numpy(), f[ours].numpy(), "biased"), rel=1e-10)
    nothing = {"y": torch.full((8,), -1)} if target == "unlabelled" else {"domain": torch.full((8,), 2)}
    assert one_layer(target=target)(batch(5, 3, **nothing), said(f)) is None


def test_where_rows_are_told_their_task_other_logits_are_0_to_dan_and_improbable_to_jan():
    y, f, z, told = torch.tensor([-1, -1, -1, -1, -1, 0, 0, 0, 0]), rows(9, 4), rows(9, 5, 1), own(2, 3)
    batch_, heard = batch(9, 0, y=y), said(f, z, competes=told)
    kept, p = np.where(told.numpy(), z.numpy(), 0.0), np.where(told.numpy(), np.exp(z.numpy()), 0.0)
    p = p / p.sum(1, keepdims=True)
    both = sum(reference(x[5:], x[:5], "biased") for x in (f.numpy(), kept))
    assert MMD(bandwidths=ALPHAS, target="unlabelled")(batch_, heard).item() == pytest.approx(both, rel=1e-10)
    k = kernel(f.numpy()) * np.exp(-((p[:, None] - p[None]) ** 2).sum(2) / 1.68)
    joint = k[5:, 5:].mean() + k[:5, :5].mean() - 2 * k[5:, :5].mean()
    assert JAN(bandwidths=ALPHAS, target="unlabelled")(batch_, heard).item() == pytest.approx(joint, rel=1e-10)
