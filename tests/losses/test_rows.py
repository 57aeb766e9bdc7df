"""Losses about pairs of rows give what a reference written pair by pair gives, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from clkd.errors import UserError
from clkd.losses.base import Loss
from clkd.losses.cc import CC
from clkd.losses.irg import IRG
from clkd.losses.pkt import PKT
from clkd.losses.relation import Relation
from clkd.losses.similarity import SP
from clkd.signals import Batch, Signals, Spec

SEEDS = (0, 1, 2)
NEW, REPLAYED = 4, 3
MIXED = [slice(0, NEW + REPLAYED)]
APART = [slice(0, NEW), slice(NEW, NEW + REPLAYED)]


def draw(shape: tuple[int, ...], seed: int, count: int = NEW + REPLAYED) -> torch.Tensor:
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def batch(new: int = NEW, replayed: int = REPLAYED) -> Batch:
    i = torch.arange(new + replayed)
    return Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=new)


def value(loss: Loss, f: torch.Tensor, g: torch.Tensor, rows: Batch | None = None) -> torch.Tensor:
    spec = Spec((0, 1), (0, 0))
    loss.bind(spec, spec)
    a, b = (Signals(None, torch.arange(2), {"penultimate": x}) for x in (f, g))
    return loss(rows or batch(), a, b)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def over_pairs(f: torch.Tensor, g: torch.Tensor, blocks: list[slice], matrix) -> float:
    """The mean over all pairs, row with itself included, of the squared difference of two matrices."""
    errors = [(matrix(f[cut].numpy()) - matrix(g[cut].numpy())) ** 2 for cut in blocks]
    return sum(e.sum() for e in errors) / sum(e.size for e in errors)


def alike(x: np.ndarray) -> np.ndarray:
    products = np.array([[a.ravel() @ b.ravel() for b in x] for a in x])
    return np.array([unit(row) for row in products])


def correlated(kernel: str, gamma: float, order: int):
    def of(x: np.ndarray) -> np.ndarray:
        rows = [unit(row.reshape(len(row), -1).mean(1)) for row in x]
        if kernel == "gaussian":
            return np.array([[math.exp(-gamma * ((a - b) ** 2).sum()) for b in rows] for a in rows])
        if kernel == "bilinear":
            return np.array([[a @ b for b in rows] for a in rows])
        series = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
        return np.array([[sum(c * (a @ b) ** p for p, c in enumerate(series)) for b in rows] for a in rows])

    return of


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("mix", "blocks"), [(False, APART), (True, MIXED)])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_sp(seed, mix, blocks, shape):
    f, g = draw(shape, seed), draw((6,), seed + 10)
    assert value(SP(mix=mix), f, g).item() == pytest.approx(over_pairs(f, g, blocks, alike), rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("mix", "blocks"), [(False, APART), (True, MIXED)])
@pytest.mark.parametrize(
    ("kernel", "gamma", "order"), [("taylor", 0.4, 2), ("taylor", 0.7, 4), ("gaussian", 0.7, 2), ("bilinear", 0.4, 2)]
)
def test_cc(seed, mix, blocks, kernel, gamma, order):
    f, g = draw((5, 2, 3), seed), draw((6,), seed + 10)
    loss = CC(kernel=kernel, gamma=gamma, order=order, mix=mix)
    assert value(loss, f, g).item() == pytest.approx(
        over_pairs(f, g, blocks, correlated(kernel, gamma, order)), rel=1e-9
    )


def test_the_taylor_series_of_cc_ends_in_the_gaussian():
    f, g = draw((5,), 0), draw((6,), 1)
    torch.testing.assert_close(value(CC(order=20), f, g), value(CC(kernel="gaussian"), f, g))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("mix", "blocks"), [(False, APART), (True, MIXED)])
@pytest.mark.parametrize("variant", ["paper", "repdistiller"])
def test_pkt(seed, mix, blocks, variant):
    f, g = draw((5,), seed), draw((6,), seed + 10)
    expected = []
    for cut in blocks:
        n = cut.stop - cut.start
        near = []
        for x in (f, g):
            rows = [unit(row) for row in x[cut].numpy()]
            k = np.array([[(a @ b + 1) / 2 if i != j or variant != "paper" else 0.0 for j, b in enumerate(rows)]
                          for i, a in enumerate(rows)])  # fmt: skip
            near.append(k / k.sum(1, keepdims=True))
        q, p = near
        rows = [sum(p[i, j] * math.log((p[i, j] + 1e-7) / (q[i, j] + 1e-7)) for j in range(n)) for i in range(n)]
        expected += rows if variant == "paper" else [row / n for row in rows]
    found = value(PKT(variant=variant, mix=mix), f, g)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)
    if mix and variant == "repdistiller":  # which is the mean over all entries, as it is written there
        assert found.mean().item() == pytest.approx((p * np.log((p + 1e-7) / (q + 1e-7))).mean(), rel=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("mix", "blocks"), [(False, APART), (True, MIXED)])
def test_irg(seed, mix, blocks):
    layers, against = ("stage1", "stage2", "penultimate"), ("layer1", "layer2", "penultimate")
    shapes = [(2, 3, 4), (5,), (3,)]
    fs = {name: draw(shape, seed + i) for i, (name, shape) in enumerate(zip(layers, shapes, strict=True))}
    gs = {name: draw((4,), seed + 10 + i) for i, name in enumerate(against)}
    z, v = draw((3,), seed + 20), draw((2,), seed + 21)  # the classes 4, 7, 9 and 9, 4
    loss = IRG(vertex=0.3, edge=2.0, transformation=0.7, layers=layers, against=against, mix=mix)
    loss.bind(Spec((4, 7, 9), (0, 0, 1)), Spec((9, 4), (0, 0)))
    found = loss(batch(), Signals(z, torch.arange(3), fs), Signals(v, torch.arange(2), gs))

    def edges(x: np.ndarray) -> np.ndarray:
        square = np.array([[((a - b) ** 2).sum() for b in x] for a in x])
        return square / square.max()

    edge, change, count = 0.0, 0.0, sum((cut.stop - cut.start) ** 2 for cut in blocks)
    for cut in blocks:
        ours, theirs = ([edges(x[cut].numpy()) for x in side.values()] for side in (fs, gs))
        edge += sum(((a - b) ** 2).sum() for a, b in zip(ours, theirs, strict=True)) / 3
        change += sum((((ours[i + 1] - ours[i]) - (theirs[i + 1] - theirs[i])) ** 2).sum() for i in range(2)) / 2
    vertex = ((z.numpy()[:, [2, 0]] - v.numpy()) ** 2).mean()
    assert found.item() == pytest.approx(0.3 * vertex + (2.0 * edge + 0.7 * change) / count, rel=1e-9)


def test_vertices_of_irg_are_those_that_a_row_knew():
    z, v, known = draw((3,), 0), draw((2,), 1), torch.arange(NEW + REPLAYED)[:, None] % 3 > torch.arange(2)
    loss, layer = IRG(vertex=1, edge=0, layers=("penultimate",)), {"penultimate": draw((4,), 2)}
    loss.bind(Spec((4, 7, 9), (0, 0, 1)), Spec((9, 4), (1, 0)))
    found = loss(batch(), Signals(z, torch.arange(3), layer), Signals(v, torch.arange(2), layer, known=known))
    assert found.item() == pytest.approx((z[:, [2, 0]] - v)[known].square().mean().item(), rel=1e-9)


def test_irg_needs_a_class_in_common_or_no_vertices():
    with pytest.raises(UserError, match="vertex: 0"):
        IRG().bind(Spec((1,), (0,)), Spec((2,), (0,)))
    assert not IRG(vertex=0).reads(0).logits
    IRG(vertex=0).bind(Spec((1,), (0,)), Spec((2,), (0,)))
    with pytest.raises(UserError, match="option layers"):
        IRG().bind(Spec((1,), (0,), feature="stage1", shape=(3,)), Spec((1,), (0,)))


MAKERS: dict[str, Callable[..., Loss]] = {
    "sp": SP,
    "pkt": PKT,
    "cc": CC,
    "irg": lambda **options: IRG(vertex=0, **options),
    "rkd": lambda **options: Relation(variant="both", **options),
}


@pytest.mark.parametrize("name", MAKERS)
def test_gradient_is_that_of_the_value(name):
    f, g = draw((3, 2, 1), 0).requires_grad_(), draw((4,), 1)
    assert torch.autograd.gradcheck(lambda f: value(MAKERS[name](), f, g).mean(), f)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("new", "replayed"), [(1, 0), (0, 1), (1, 1), (2, 1), (5, 0), (0, 5)])
@pytest.mark.parametrize("equal", [False, True])
def test_few_and_equal_rows_give_finite_values_and_gradients(name, new, replayed, equal):
    """RKD of one row is not a number in mdistiller and torchdistill."""
    f, g = draw((3, 2, 5), 0, new + replayed), draw((4,), 1, new + replayed)
    if equal:
        f, g = (x[:1].expand_as(x).clone() for x in (f, g))
    f, g = f.bfloat16().requires_grad_(), g.half().requires_grad_()
    found = value(MAKERS[name](), f, g, batch(new, replayed)).mean()
    assert torch.isfinite(found)
    assert found.dtype == torch.float32
    if found.requires_grad:
        found.backward()
        assert f.grad is None or torch.isfinite(f.grad).all()
    assert g.grad is None
    if max(new, replayed) == 1:
        assert found.item() == pytest.approx(0, abs=1e-6), "one row relates to nothing"


@pytest.mark.parametrize("name", MAKERS)
def test_new_and_replayed_rows_are_related_only_on_request(name):
    """What is between the two kinds may be anything: it is not looked at."""
    f, g = draw((3,), 0), draw((4,), 1)
    other = draw((3,), 2)
    turn = torch.linalg.qr(other[:3]).Q
    turned = torch.cat([f[:NEW], f[NEW:] @ turn])
    plain, moved = (value(MAKERS[name](), x, g).mean().item() for x in (f, turned))
    assert moved == pytest.approx(plain, rel=1e-9)
    plain, moved = (value(MAKERS[name](mix=True), x, g).mean().item() for x in (f, turned))
    assert abs(moved - plain) > 1e-4 * abs(plain)


@pytest.mark.parametrize("name", MAKERS)
def test_equal_relations_are_the_minimum(name):
    f = draw((4,), 0)
    assert value(MAKERS[name](), f, f).mean().item() == pytest.approx(0, abs=1e-12)
    assert value(MAKERS[name](), draw((4,), 1), f).mean() > 0
