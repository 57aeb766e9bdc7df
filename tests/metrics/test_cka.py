"""CKA keeps its laws, and is what an independent NumPy reference says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from clkd.metrics.cka import CKA

BOTH = pytest.mark.parametrize("debiased", [True, False])


def drawn(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cka(x: Tensor, y: Tensor, debiased: bool) -> float:
    both = CKA(2, debiased)
    both.add([x, y])
    return both.values()[0, 1].item()


def hsic(x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    """Written from the papers: Gretton et al. 2005, and Song et al. 2012, eq. 5."""
    k, l, n = x @ x.T, y @ y.T, len(x)  # noqa: E741  # the papers' letters
    one = np.ones(n)
    if not debiased:
        h = np.eye(n) - np.outer(one, one) / n
        return np.trace(k @ h @ l @ h) / (n - 1) ** 2
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


@BOTH
def test_minibatches_equal_an_independent_reference(debiased: bool) -> None:
    """Three layers, one of them a map, over minibatches of different sizes."""
    made = CKA(3, debiased)
    sums = np.zeros((3, 3))
    for n, seed in ((30, 1), (29, 2), (4, 3)):
        x = drawn(n, 5, seed=seed)
        wide = x[:, :3] @ drawn(3, 7) + drawn(n, 7, seed=seed + 10)
        layers = [x, wide, drawn(n, 2, 3, 2, seed=seed + 20) + x.mean(1).view(n, 1, 1, 1)]
        made.add(layers)
        plain = [each.flatten(1).numpy() for each in layers]
        sums += [[hsic(a, b, debiased) for b in plain] for a in plain]
    wanted = sums / np.sqrt(np.outer(np.diag(sums), np.diag(sums)))
    np.testing.assert_allclose(made.values().numpy(), wanted, rtol=1e-10)


@BOTH
def test_it_sees_neither_rotation_nor_scale_nor_shift(debiased: bool) -> None:
    x = drawn(40, 6)
    rotation = torch.linalg.qr(drawn(6, 6, seed=1))[0]
    assert cka(x, x, debiased) == pytest.approx(1)
    assert cka(x, 0.01 * x @ rotation + 5, debiased) == pytest.approx(1)
    y = x[:, :2] + 0.5 * drawn(40, 2, seed=2)
    assert cka(-3 * x @ rotation, y, debiased) == pytest.approx(cka(x, y, debiased))
    assert cka(x * torch.tensor([9.0, 1, 1, 1, 1, 1]), y, debiased) != pytest.approx(cka(x, y, debiased)), "other axes"


@BOTH
def test_the_order_of_rows_does_not_matter_as_long_as_it_is_the_same(debiased: bool) -> None:
    x, y = drawn(40, 6), drawn(40, 3, seed=1) + drawn(40, 6)[:, :3]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert cka(x[order], y[order], debiased) == pytest.approx(cka(x, y, debiased))
    assert cka(x[order], y, debiased) < 0.5 * cka(x, y, debiased)


def test_wide_layers_that_share_nothing_are_near_0_only_without_bias() -> None:
    """Each minibatch has far fewer rows than the layers are wide."""
    debiased, biased = CKA(2), CKA(2, debiased=False)
    for seed in range(20):
        layers = [drawn(32, 256, seed=2 * seed), drawn(32, 256, seed=2 * seed + 1)]
        debiased.add(layers)
        biased.add(layers)
    assert abs(debiased.values()[0, 1]) < 0.02
    assert biased.values()[0, 1] > 0.7


def test_minibatches_estimate_the_whole_without_bias() -> None:
    x = drawn(1024, 8)
    y = x[:, :4] + drawn(1024, 4, seed=1)
    parts = {debiased: CKA(2, debiased) for debiased in (True, False)}
    for debiased, made in parts.items():
        for i in range(0, 1024, 16):
            made.add([x[i : i + 16], y[i : i + 16]])
        whole = cka(x, y, debiased)
        close = abs(made.values()[0, 1].item() - whole) < 0.02
        assert close == debiased, (made.values()[0, 1].item(), whole)


def test_float32_and_maps_are_taken_as_they_are() -> None:
    x = drawn(20, 3, 2, 2)
    assert cka(x.float(), x.flatten(1).float(), True) == pytest.approx(1)
    assert cka(x.float(), (x + 100).float(), True) == pytest.approx(1, abs=1e-4)


def test_a_layer_that_always_says_the_same_has_no_cka() -> None:
    assert math.isnan(cka(torch.ones(8, 3), drawn(8, 3), True))
