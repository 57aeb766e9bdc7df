"""Gradient policies as plain vector arithmetic: nearest, harmless, and without other tools' bugs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from clkd.gradients.agem import AGEM
from clkd.gradients.base import power_of_two
from clkd.gradients.gem import GEM, nonnegative


def instance(seed, references, size=8, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    r = torch.randn(references, size, generator=draw, dtype=dtype)
    return -r.sum(0) + torch.randn(size, generator=draw, dtype=dtype), r


def brute_force(g, r):
    """The nearest z with r z ≥ 0, by trying every set of constraints that might hold with equality."""
    g, r = g.numpy(), r.numpy()
    best = None
    for count in range(len(r) + 1):
        for chosen in itertools.combinations(range(len(r)), count):
            a = r[list(chosen)]
            z = g - a.T @ np.linalg.lstsq(a @ a.T, a @ g, rcond=None)[0] if count else g
            if (r @ z >= -1e-9).all() and (best is None or np.square(z - g).sum() < np.square(best - g).sum()):
                best = z
    return torch.from_numpy(best)


@pytest.mark.parametrize("references", [1, 2, 3, 5])
def test_gem_finds_the_nearest_gradient_that_keeps_every_constraint(references):
    changed = 0
    for seed in range(25):
        g, r = instance(seed, references)
        z = GEM()(g, r)
        assert (r @ z).min() >= -1e-8 * g.norm() * r.norm(dim=1).max()
        torch.testing.assert_close(z, brute_force(g, r), rtol=1e-7, atol=1e-8)
        changed += not torch.equal(z, g)
    assert changed > 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_does_no_harm_stays_bit_for_bit(dtype):
    g, r = instance(0, 4, dtype=dtype)
    r = r * (r @ g).sign()[:, None]
    for policy, references in ((GEM(), r), (GEM(margin=0.5), r), (AGEM(), r[:1])):
        assert torch.equal(policy(g, references), g)


@pytest.mark.parametrize("seed", range(10))
def test_gem_is_right_where_references_depend_on_each_other(seed):
    """Twice the same, opposite, a sum of others, nothing at all; and of very different lengths."""
    g, r = instance(seed, 3)
    awkward = torch.cat([r, r[:1], -r[1:2], r[:2].sum(0, keepdim=True), torch.zeros(1, 8), r[2:] + 1e-9])
    scaled = awkward * torch.logspace(-6, 6, len(awkward), dtype=torch.float64)[:, None]
    z = GEM()(g, scaled)
    assert (awkward @ z).min() >= -1e-7 * g.norm()
    torch.testing.assert_close(z, brute_force(g, awkward), rtol=1e-5, atol=1e-6)


def test_more_references_than_parameters():
    g, r = instance(1, 40, size=5)
    z = GEM()(g, r)
    assert (r @ z).min() >= -1e-7
    assert g @ g >= z @ z


def test_its_dual_satisfies_the_conditions_of_karush_kuhn_and_tucker():
    for seed in range(50):
        g, r = instance(seed, 12, size=20)
        k, h = r @ r.T, r @ g
        v = nonnegative(k, h, 1e-10)
        slack = k @ v + h
        assert v.min() >= 0
        assert slack.min() >= -1e-10
        assert (v * slack).abs().max() < 1e-8


def test_the_margin_is_added_to_what_each_past_counts():
    g, r = instance(3, 3)
    plain, with_margin = GEM()(g, r), GEM(margin=0.5)(g, r)
    torch.testing.assert_close(with_margin, plain + 0.5 * r.sum(0))
    g, r = torch.tensor([1.0, -1.0]), torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    assert GEM(margin=0.5)(g, r).tolist() == [1.5, 1.0], "also of one that the step does no harm"


def test_many_parameters_are_summed_in_pieces(monkeypatch):
    g, r = instance(0, 3, size=50)
    whole = GEM()(g, r)
    monkeypatch.setattr("clkd.gradients.gem.PIECE", 7)
    torch.testing.assert_close(GEM()(g, r), whole)


def test_agem_is_gem_with_a_single_reference():
    for seed in range(20):
        g, r = instance(seed, 1)
        z = AGEM()(g, r)
        along = g @ r[0]
        assert torch.equal(z, g - (along / (r[0] @ r[0])) * r[0] if along < 0 else g)
        torch.testing.assert_close(z, GEM()(g, r))


@pytest.mark.parametrize("policy", [AGEM(), GEM()])
def test_a_reference_without_length_changes_nothing_and_one_that_is_no_number_is_not_hidden(policy):
    g, r = instance(0, 1, dtype=torch.float32)
    assert torch.equal(policy(g, torch.zeros_like(r)), g)
    assert policy(g, torch.full_like(r, torch.nan)).isnan().any()
    assert policy(torch.full_like(g, torch.nan), r).isnan().any()


def peers_gem(g, r, margin=0.0):
    """Avalanche's and Mammoth's dual: `K + 10⁻³` on the diagonal, `v ≥ margin`, whatever the size of gradients."""
    k = r @ r.T + 1e-3 * torch.eye(len(r), dtype=r.dtype)
    v = nonnegative(k, r @ g + k @ torch.full((len(r),), margin, dtype=r.dtype), 1e-12) + margin
    return g + v @ r


def test_small_gradients_keep_their_constraints():
    """In Avalanche and Mammoth a constant on the dual's diagonal undoes the projection where gradients are small."""
    g, r = instance(0, 3)
    g, r = 1e-3 * g, 1e-3 * r
    assert (r @ peers_gem(g, r)).min() < -0.5 * (r @ g).min().abs(), "they hardly change it"
    assert (r @ GEM()(g, r)).min() >= -1e-12
    torch.testing.assert_close(peers_gem(1e6 * g, 1e6 * r), 1e6 * GEM()(g, r), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1e-42, 1e-38, 1e-30, 1e-25, 1e-22, 1e-10, 1e15, 1e25])
@pytest.mark.parametrize("policy", [AGEM(), GEM()])
def test_a_constraint_is_kept_whatever_the_size_of_its_gradient(policy, size):
    """Squares of numbers below 1e-23 are 0 in float32: the projection was NaN, or hardly there; above 1e19 infinite."""
    g, r = instance(0, 1, size=100, dtype=torch.float32)
    z, before = (each.double() @ r[0].double() / r.norm() for each in (policy(g, size * r), g))
    assert before < -1
    assert abs(float(z)) < (1e-3 if size < 1e-38 else 1e-5)


def test_dividing_by_a_power_of_two_rounds_nothing():
    _, r = instance(0, 5, dtype=torch.float32)
    scale = power_of_two(r * torch.tensor([[1e-30], [1e-3], [1.0], [1e3], [1e30]]))
    assert torch.equal(torch.frexp(scale).mantissa, torch.full_like(scale, 0.5))
    assert torch.equal(r / scale * scale, r)
    assert ((r / power_of_two(r)).abs().amax(1) < 1).all()
