from __future__ import annotations

import numpy as np
import pytest
import torch

from clkd.signals import Batch, Signals
from clkd.testing import material
from clkd.transfer.coral import Coral, Recolour, coral, recoloured


def batch(new: int, replayed: int) -> Batch:
    i = torch.arange(new + replayed)
    return Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=new)


def rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def said(features: torch.Tensor, tap: str = "penultimate") -> Signals:
    return Signals(None, torch.arange(0), {tap: features})


def reference(source: np.ndarray, target: np.ndarray) -> float:
    difference = np.cov(source, rowvar=False) - np.cov(target, rowvar=False)
    return float((difference**2).sum() / (4 * source.shape[1] ** 2))


def test_value_is_the_papers_from_numpys_covariance():
    source, target = rows(7, 4, 0), rows(11, 4, 1)
    assert coral(source, target).item() == pytest.approx(reference(source.numpy(), target.numpy()), rel=1e-12)


def test_replayed_rows_are_the_source_and_new_ones_the_target():
    f = rows(9, 4)
    value = Coral()(batch(5, 4), said(f))
    assert value.item() == pytest.approx(reference(f[5:].numpy(), f[:5].numpy()), rel=1e-12)


def test_shifting_one_side_changes_only_the_mean_term():
    f = rows(9, 4)
    shifted = torch.cat([f[:5], f[5:] + 3])
    torch.testing.assert_close(Coral()(batch(5, 4), said(shifted)), Coral()(batch(5, 4), said(f)))
    means = ((shifted[5:].mean(0) - shifted[:5].mean(0)) ** 2).mean()
    expected = Coral()(batch(5, 4), said(f)) + means
    torch.testing.assert_close(Coral(mean=True)(batch(5, 4), said(shifted)), expected)


def test_the_same_rows_on_both_sides_are_at_distance_zero():
    f = rows(5, 4)
    assert Coral(mean=True)(batch(5, 5), said(torch.cat([f, f.flip(0)]))).item() == pytest.approx(0, abs=1e-20)


def test_gradient_is_that_of_the_value_and_reaches_both_sides():
    f = rows(8, 3).requires_grad_()
    transfer = Coral(mean=True)
    assert torch.autograd.gradcheck(lambda f: transfer(batch(4, 4), said(f)), f)
    transfer(batch(4, 4), said(f)).backward()
    assert f.grad[:4].any()
    assert f.grad[4:].any()


@pytest.mark.parametrize(("new", "replayed"), [(5, 0), (5, 1), (1, 5), (0, 5)])
def test_a_side_with_fewer_than_two_rows_has_no_covariance(new, replayed):
    assert Coral()(batch(new, replayed), said(rows(new + replayed, 4))) is None


def test_another_layer_may_be_named_and_maps_are_averaged():
    transfer = Coral(feature="stage2")
    assert transfer.reads().features == ("stage2",)
    assert not transfer.reads().logits
    maps = rows(9, 12).reshape(9, 3, 2, 2)
    expected = Coral()(batch(5, 4), said(maps.mean((2, 3))))
    torch.testing.assert_close(transfer(batch(5, 4), said(maps, "stage2")), expected)


def root(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """By singular values, where the code takes eigenvalues."""
    u, s, vt = np.linalg.svd(matrix)
    return u @ np.diag(s**exponent) @ vt


def test_recoloured_rows_are_the_papers_and_have_the_targets_statistics():
    source, target = rows(40, 4, 0), rows(60, 4, 1) @ rows(4, 4, 2) + 5
    s, t, one = source.numpy(), target.numpy(), np.eye(4)
    expected = (s - s.mean(0)) @ root(np.cov(s, rowvar=False) + one, -0.5) @ root(np.cov(t, rowvar=False) + one, 0.5)
    np.testing.assert_allclose(recoloured(source, target, 1.0), expected + t.mean(0), rtol=1e-8)
    made = recoloured(source, target, 1e-9).numpy()
    np.testing.assert_allclose(np.cov(made, rowvar=False), np.cov(t, rowvar=False), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made.mean(0), t.mean(0), rtol=1e-8)


def test_the_closed_form_teaches_the_head_labelled_source_rows():
    student = material.student()
    strategy = Recolour()
    strategy.begin(next(material.experiences()), student)
    f = torch.randn(9, material.WIDTH, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.tensor([3, 0, 3, 0, 3, 0, -1, 3, 0])
    i = torch.arange(9)
    given = Batch(x=i, y=y, sample_id=i, domain=i, experience=i, new=5)
    value = strategy(given, Signals(None, student.class_ids_tensor, {"penultimate": f}))
    logits = student.head(recoloured(f[5:], f[:5].detach(), 1.0))[[0, 2, 3]]
    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(logits, torch.tensor([1, 0, 1])))
    value.backward()
    assert student.head.weight.grad.any()
    assert not f.grad[:5].any()
    assert list(strategy.parameters()) == []
    assert strategy(batch(8, 1), Signals(None, student.class_ids_tensor, {"penultimate": f})) is None


def test_where_rows_are_told_their_task_the_closed_form_teaches_its_classes_alone():
    student, strategy = material.student(), Recolour()
    student.grow((5, 1), 1, torch.Generator().manual_seed(0))
    strategy.begin(next(material.experiences()), student)
    f = torch.randn(9, material.WIDTH, generator=torch.Generator().manual_seed(0))
    y, i, own = torch.tensor([1, 5, 1, 5, 1, 0, 5, -1, 3]), torch.arange(9), torch.zeros(9, 4, dtype=torch.bool)
    own[[0, 1, 2, 3, 4, 6], 2:] = own[[5, 7, 8], :2] = True
    given = Batch(x=i, y=y, sample_id=i, domain=i, experience=i, new=5)
    value = strategy(given, Signals(None, student.class_ids_tensor, {"penultimate": f}, competes=own))
    z = student.head(recoloured(f[5:], f[:5], 1.0))
    old, new = z[[0, 3], :2].log_softmax(1), z[[1], 2:].log_softmax(1)  # of classes 3 and 0, and 5 and 1
    torch.testing.assert_close(value, -(old[0, 1] + new[0, 0] + old[1, 0]) / 3)


def test_a_few_rows_of_many_features_are_no_nan():
    made = recoloured(rows(2, 30), torch.ones(2, 30, dtype=torch.float64), 1.0)
    assert torch.isfinite(made).all()
