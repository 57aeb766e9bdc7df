"""Feature norms and spectra against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from domain_rows import batch, rows, said

from clkd.transfer.norms import AFN, FeatureNorm
from clkd.transfer.spectral import BSP


def lengths(f: torch.Tensor) -> np.ndarray:
    return np.sqrt((f.numpy() ** 2).sum(1))


def test_stepwise_afn_is_always_the_step_squared_and_lengthens_each_side_by_itself():
    f = rows(9, 4).requires_grad_()
    value = AFN(step=0.5)(batch(5, 4), said(f))
    assert value.item() == pytest.approx(2 * 0.25)
    value.backward()
    # d/df of (‖f‖ − c)² / n with ‖f‖ − c = −0.5 is −2 · 0.5 · f / ‖f‖ / n: the step goes outwards
    size = np.where(np.arange(9) < 5, 5, 4)[:, None]
    expected = -f.detach().numpy() / lengths(f.detach())[:, None] / size
    np.testing.assert_allclose(f.grad.numpy(), expected, rtol=1e-10)


def test_hard_afn_is_the_papers():
    f = rows(9, 4)
    expected = (lengths(f[:5]).mean() - 3) ** 2 + (lengths(f[5:]).mean() - 3) ** 2
    assert AFN(variant="hard", radius=3)(batch(5, 4), said(f)).item() == pytest.approx(expected, rel=1e-10)
    alone = AFN(variant="hard", radius=3)(batch(5, 0), said(f[:5]))
    assert alone.item() == pytest.approx((lengths(f[:5]).mean() - 3) ** 2, rel=1e-10)
    assert AFN(step=0.5)(batch(1, 0), said(f[:1])).item() == pytest.approx(0.25)


def test_feature_norm_compares_mean_lengths():
    f = rows(9, 4)
    expected = (lengths(f[:5]).mean() - lengths(f[5:]).mean()) ** 2
    there = FeatureNorm()(batch(5, 4), said(f))
    assert there.item() == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(FeatureNorm()(batch(4, 5), said(torch.cat([f[5:], f[:5]]))), there)
    assert FeatureNorm()(batch(5, 5), said(torch.cat([f[:5], -f[:5]]))).item() == pytest.approx(0, abs=1e-20)
    assert FeatureNorm()(batch(5, 0), said(f[:5])) is None


def test_a_row_of_zeros_is_no_nan():
    for strategy in (AFN(), AFN(variant="hard"), FeatureNorm()):
        f = torch.zeros(4, 3, requires_grad=True)
        strategy(batch(2, 2), said(f)).backward()
        assert torch.isfinite(f.grad).all()


@pytest.mark.parametrize("k", [1, 2])
def test_bsp_is_the_sum_of_squared_singular_values(k):
    f = rows(9, 4)
    expected = sum((np.linalg.svd(side.numpy(), compute_uv=False)[:k] ** 2).sum() for side in (f[:5], f[5:]))
    there = BSP(k=k)(batch(5, 4), said(f))
    assert there.item() == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(BSP(k=k)(batch(4, 5), said(torch.cat([f[5:], f[:5]]))), there)
    f.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: BSP(k=k)(batch(5, 4), said(f)), f)


def test_bsp_of_a_row_is_its_length_squared_and_needs_both_sides():
    f = rows(2, 4)
    assert BSP(k=3)(batch(1, 1), said(f)).item() == pytest.approx((f**2).sum().item())
    assert BSP()(batch(2, 0), said(f)) is None
