from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from clkd.losses.relation import Relation
from clkd.signals import Batch, Signals, Spec

SPEC = Spec((0, 1), (0, 0))


def batch(new: int, replayed: int = 0) -> Batch:
    i = torch.arange(new + replayed)
    return Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=new)


def said(features: torch.Tensor, tap: str = "penultimate") -> Signals:
    return Signals(None, torch.arange(2), {tap: features})


def rows(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def value(f: torch.Tensor, g: torch.Tensor, new: int | None = None, **options) -> torch.Tensor:
    loss = Relation(**options)
    loss.bind(SPEC, SPEC)
    new = len(f) if new is None else new
    return loss(batch(new, len(f) - new), said(f), said(g))


def huber(a: float, b: float) -> float:
    error = abs(a - b)
    return 0.5 * error**2 if error < 1 else error - 0.5


def distances(points: np.ndarray) -> dict[tuple[int, int], float]:
    pairs = {(i, j): np.linalg.norm(points[i] - points[j]) for i, j in itertools.permutations(range(len(points)), 2)}
    mean = np.mean([d for d in pairs.values() if d > 0])
    return {pair: d / mean for pair, d in pairs.items()}


def angles(points: np.ndarray) -> dict[tuple[int, int, int], float]:
    def unit(v: np.ndarray) -> np.ndarray:
        return v / np.linalg.norm(v)

    triples = itertools.permutations(range(len(points)), 3)
    return {(i, j, k): unit(points[i] - points[j]) @ unit(points[k] - points[j]) for i, j, k in triples}


def reference(f: torch.Tensor, g: torch.Tensor, relations, blocks: list[slice]) -> float:
    """The mean over all relations inside the blocks, one by one."""
    errors = []
    for cut in blocks:
        ours, theirs = relations(f[cut].numpy()), relations(g[cut].numpy())
        errors += [huber(ours[key], theirs[key]) for key in ours]
    return float(np.mean(errors))


@pytest.mark.parametrize(("variant", "relations"), [("distance", distances), ("angle", angles)])
@pytest.mark.parametrize(("mix", "blocks"), [(False, [slice(0, 4), slice(4, 9)]), (True, [slice(0, 9)])])
def test_value_is_the_mean_over_relations_one_by_one(variant, relations, mix, blocks):
    f, g = rows(9, 3, 0), rows(9, 5, 1)
    ours = value(f, g, new=4, variant=variant, mix=mix).item()
    assert ours == pytest.approx(reference(f, g, relations, blocks), rel=1e-9)


def test_both_is_distance_and_twice_the_angle():
    f, g = rows(6, 3, 0), rows(6, 5, 1)
    parts = [value(f, g, variant=variant) for variant in ("distance", "angle")]
    torch.testing.assert_close(value(f, g, variant="both"), parts[0] + 2 * parts[1])


@pytest.mark.parametrize("variant", ["distance", "angle", "both"])
def test_gradient_is_that_of_the_value(variant):
    f, g = rows(5, 3, 0).requires_grad_(), rows(5, 4, 1)
    assert torch.autograd.gradcheck(lambda f: value(f, g, new=5, variant=variant), f)


@pytest.mark.parametrize("variant", ["distance", "angle", "both"])
def test_moving_scaling_and_turning_all_rows_changes_nothing(variant):
    g = rows(6, 3, 0)
    turn = torch.linalg.qr(rows(3, 3, 1)).Q
    assert value(3 * g @ turn + 5, g, variant=variant).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("variant", ["distance", "angle", "both"])
@pytest.mark.parametrize(("new", "replayed"), [(1, 0), (1, 1), (0, 1)])
def test_too_few_rows_have_no_relations_and_add_nothing(variant, new, replayed):
    f, g = rows(new + replayed, 3, 0).requires_grad_(), rows(new + replayed, 3, 1)
    result = value(f, g, new=new, variant=variant)
    result.backward()
    assert result == 0
    assert not f.grad.any()


@pytest.mark.parametrize("variant", ["distance", "angle", "both"])
def test_identical_rows_give_finite_gradients(variant):
    f = rows(5, 3, 0).float()
    f[1] = f[0]
    f[3] = f[2] + 1e-20
    f.requires_grad_()
    value(f, rows(5, 3, 1).float(), variant=variant).backward()
    assert torch.isfinite(f.grad).all()
    assert f.grad.abs().max() < 10, "rows that coincide have no direction, not an arbitrary huge one"


def test_new_and_replayed_rows_are_related_only_on_request():
    f, g = rows(8, 3, 0), rows(8, 3, 1)
    shifted = torch.cat([f[:4], f[4:] + 100])
    torch.testing.assert_close(value(shifted, g, new=4), value(f, g, new=4))
    assert abs(value(shifted, g, new=4, mix=True) - value(f, g, new=4, mix=True)) > 0.01


def test_a_named_layer_is_read_and_maps_are_averaged():
    loss = Relation()
    loss.bind(Spec((0,), (0,), feature="stage2"), SPEC)
    maps, g = rows(5, 12, 0).reshape(5, 3, 2, 2), rows(5, 4, 1)
    expected = value(maps.mean((2, 3)), g)
    torch.testing.assert_close(loss(batch(5), said(maps, "stage2"), said(g)), expected)
