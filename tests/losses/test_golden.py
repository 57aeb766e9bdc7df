"""Each logit loss is its definition, written down once more in NumPy, row by row and in probabilities."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from clkd.losses.correlation import DIST
from clkd.losses.decoupled import DKD, NKD
from clkd.losses.divergence import standardized
from clkd.losses.multilevel import MLKD
from clkd.losses.pseudo_label import HardLabel
from clkd.losses.response import KD
from clkd.losses.virtual import VirtualTeacher

SEEDS = range(4)


def drawn(seed: int, rows: int = 7, columns: int = 5):
    draws = np.random.default_rng(seed)
    z, v = (draws.normal(size=(rows, columns)) * 3 for _ in range(2))
    return z, v, draws.integers(columns, size=rows)


def tensors(*arrays):
    return tuple(map(torch.as_tensor, arrays))


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def kl(q, p):
    return float((q * np.log(q / p)).sum())


def dkd_row(z, v, y, temperature, alpha, beta):
    p, q = softmax(z / temperature), softmax(v / temperature)
    target = kl(np.array([q[y], 1 - q[y]]), np.array([p[y], 1 - p[y]]))
    others = kl(softmax(np.delete(v, y) / temperature), softmax(np.delete(z, y) / temperature))
    return temperature**2 * (alpha * target + beta * others)


def nkd_row(z, v, y, temperature, gamma):
    p, q = softmax(z), softmax(v)
    others = softmax(np.delete(v, y) / temperature) * np.log(softmax(np.delete(z, y) / temperature))
    return -q[y] * np.log(p[y]) - gamma * temperature**2 * others.sum()


def dist(z, v, temperature, beta, gamma):
    p, q = (np.array([softmax(row / temperature) for row in x]) for x in (z, v))
    inter = np.mean([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(len(p))])
    intra = np.mean([1 - np.corrcoef(p[:, k], q[:, k])[0, 1] for k in range(p.shape[1])])
    return temperature**2 * (beta * inter + gamma * intra)


def mlkd(z, v, temperatures, instance, batch, classes):
    total = 0.0
    for t in temperatures:
        p, q = (np.array([softmax(row / t) for row in x]) for x in (z, v))
        total += instance * t**2 * np.mean([kl(q[i], p[i]) for i in range(len(p))])
        total += batch * ((p @ p.T - q @ q.T) ** 2).sum() / len(p)
        total += classes * ((p.T @ p - q.T @ q) ** 2).sum() / p.shape[1]
    return total


def virtual_row(z, y, temperature, correct):
    u = np.full(len(z), (1 - correct) / (len(z) - 1))
    u[y] = correct
    u = u ** (1 / temperature)
    return temperature**2 * kl(u / u.sum(), softmax(z / temperature))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("temperature", "alpha", "beta"), [(4.0, 1.0, 8.0), (1.0, 0.5, 2.0)])
def test_dkd(worth, seed, temperature, alpha, beta):
    z, v, y = drawn(seed)
    expected = [dkd_row(*row, temperature, alpha, beta) for row in zip(z, v, y, strict=True)]
    value = worth(DKD(temperature, alpha, beta), *tensors(z, v, y))
    np.testing.assert_allclose(value, expected, rtol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("temperature", "gamma"), [(1.0, 1.5), (3.0, 0.5)])
def test_nkd(worth, seed, temperature, gamma):
    z, v, y = drawn(seed)
    expected = [nkd_row(*row, temperature, gamma) for row in zip(z, v, y, strict=True)]
    np.testing.assert_allclose(worth(NKD(temperature, gamma), *tensors(z, v, y)), expected, rtol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("temperature", "beta", "gamma"), [(1.0, 1.0, 1.0), (2.0, 2.0, 0.5)])
def test_dist(worth, seed, temperature, beta, gamma):
    z, v, _ = drawn(seed)
    value = worth(DIST(temperature, beta, gamma), *tensors(z, v)).mean().item()
    assert value == pytest.approx(dist(z, v, temperature, beta, gamma), rel=1e-5)  # their 1e-8 beside the norms


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
def test_mlkd(worth, seed, weights):
    z, v, _ = drawn(seed)
    value = worth(MLKD((2.0, 5.0), *weights), *tensors(z, v)).mean().item()
    assert value == pytest.approx(mlkd(z, v, (2.0, 5.0), *weights), rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_hard(worth, seed):
    z, v, _ = drawn(seed)
    expected = np.array([-np.log(softmax(a)[b.argmax()]) for a, b in zip(z, v, strict=True)])
    np.testing.assert_allclose(worth(HardLabel(), *tensors(z, v)), expected, rtol=1e-9)
    sure = np.array([softmax(b).max() >= 0.9 for b in v])
    np.testing.assert_allclose(worth(HardLabel(threshold=0.9), *tensors(z, v)), expected * sure, rtol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("temperature", "correct"), [(20.0, 0.99), (1.0, 0.7)])
def test_tfkd(one_sided, seed, temperature, correct):
    z, _, y = drawn(seed)
    expected = [virtual_row(*row, temperature, correct) for row in zip(z, y, strict=True)]
    np.testing.assert_allclose(one_sided(VirtualTeacher(correct, temperature), *tensors(z, y)), expected, rtol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_logit_standardisation(worth, seed):
    z, v, y = drawn(seed)
    standard = [(x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True, ddof=1) + 1e-7) for x in (z, v)]
    np.testing.assert_allclose(standardized(*tensors(z)), standard[0], rtol=1e-9)
    expected = [4 * kl(softmax(b / 2), softmax(a / 2)) for a, b in zip(*standard, strict=True)]
    np.testing.assert_allclose(worth(KD(standardize=True), *tensors(z, v)), expected, rtol=1e-9)
    expected = [dkd_row(*row, 2.0, 1.0, 8.0) for row in zip(*standard, y, strict=True)]
    np.testing.assert_allclose(worth(DKD(2.0, standardize=True), *tensors(z, v, y)), expected, rtol=1e-9)
    value = worth(MLKD((2.0,), standardize=True), *tensors(z, v)).mean().item()
    assert value == pytest.approx(mlkd(*standard, (2.0,), 1, 1, 1), rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [1, 3])
def test_top_k(worth, seed, k):
    z, v, _ = drawn(seed)
    expected = []
    for a, b in zip(z, v, strict=True):
        best = np.argsort(-b)[:k]
        p, q = softmax(a / 2)[best], softmax(b / 2)[best]
        expected.append(4 * kl(np.append(q, 1 - q.sum()), np.append(p, 1 - p.sum())))
    np.testing.assert_allclose(worth(KD(top_k=k), *tensors(z, v)), expected, rtol=1e-9)
    best = np.argsort(-v, axis=1)[:, :k]
    squares = np.take_along_axis((z - v) ** 2, best, 1).mean(1)
    np.testing.assert_allclose(worth(KD(variant="mse", top_k=k), *tensors(z, v)), squares, rtol=1e-9)


def test_top_k_of_all_is_all_and_never_more_than_all(worth):
    z, v, _ = drawn(0)
    whole = worth(KD(), *tensors(z, v))
    torch.testing.assert_close(worth(KD(top_k=5), *tensors(z, v)), whole)
    torch.testing.assert_close(worth(KD(top_k=4), *tensors(z, v)), whole)  # the rest is one class by itself
    fewer = [worth(KD(top_k=k), *tensors(z, v)) for k in (1, 2, 3, 4)]
    assert all((a <= b + 1e-12).all() for a, b in pairwise(fewer))


def test_dkd_is_kd_where_beta_is_the_teachers_doubt(worth):
    """The paper's identity: KD = KL(b) + (1 − p_y of the teacher) · KL(p̂)."""
    z, v, y = tensors(*drawn(0))
    binary = worth(DKD(2.0, 1.0, 0.0), z, v, y)
    others = worth(DKD(2.0, 0.0, 1.0), z, v, y)
    doubt = 1 - (v / 2).softmax(1).gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(binary + doubt * others, worth(KD(2.0), z, v))


def test_tfkd_at_temperature_one_has_the_gradient_of_label_smoothing(one_sided):
    z, _, y = tensors(*drawn(0))
    grads = []
    for loss in (
        lambda z: one_sided(VirtualTeacher(1 - 0.1 + 0.1 / 5, 1.0), z, y),
        lambda z: torch.nn.functional.cross_entropy(z, y, reduction="none", label_smoothing=0.1),
    ):
        leaf = z.clone().requires_grad_()
        loss(leaf).mean().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("seed", range(3))
def test_l2_is_the_distance_of_probabilities(seed, worth):
    """FDR as Mammoth has it: `norm(softmax(out) - softmax(stored))`, row by row."""
    z, v, _ = drawn(seed)
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (z, v))
    apart = np.sqrt(((p - q) ** 2).sum(1))
    np.testing.assert_allclose(worth(KD(1.0, variant="l2"), *tensors(z, v)), apart, rtol=1e-9)
