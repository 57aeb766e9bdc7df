"""Entropy and class confusion of the target, against their papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from domain_rows import batch, own, rows, said

from clkd.transfer.uncertainty import MCC, Entropy


def softmax(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    e = np.exp(z / temperature)
    return e / e.sum(1, keepdims=True)


def mcc(z: np.ndarray, temperature: float) -> float:
    """Jin et al. 2020, eq. 2 to 6, entry by entry."""
    p = softmax(z, temperature)
    n, c = p.shape
    weights = [1 + np.exp(sum(q * np.log(q) for q in row)) for row in p]
    weights = [n * w / sum(weights) for w in weights]
    confusion = np.array([[sum(weights[i] * p[i, j] * p[i, k] for i in range(n)) for k in range(c)] for j in range(c)])
    for row in confusion:
        row /= row.sum()
    return sum(confusion[j, k] for j in range(c) for k in range(c) if j != k) / c


def test_mcc_is_the_papers_and_looks_at_new_rows_alone():
    z = rows(9, 4)
    value = MCC(temperature=2.5)(batch(5, 4), said(z, z))
    assert value.item() == pytest.approx(mcc(z[:5].numpy(), 2.5), rel=1e-10)


def test_mcc_of_one_row_of_one_class_and_of_sure_rows():
    assert MCC()(batch(1, 0), said(rows(1, 3), rows(1, 3))).item() == pytest.approx(mcc(rows(1, 3).numpy(), 2.5))
    assert MCC()(batch(3, 0), said(rows(3, 1), rows(3, 1))).item() == 0
    sure = torch.eye(3) * 1000
    assert MCC()(batch(3, 0), said(sure, sure)).item() == pytest.approx(0, abs=1e-6)
    never = torch.tensor([[1000.0, 0.0], [1000.0, 0.0]], requires_grad=True)  # a class without any probability
    MCC()(batch(2, 0), said(never, never)).backward()
    assert torch.isfinite(never.grad).all()


def of_own(z: np.ndarray, competes: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities of each row's own classes, one row after another; 0 elsewhere."""
    p = np.zeros_like(z)
    for row, mine, into in zip(z, competes, p, strict=True):
        into[mine] = softmax(row[None, mine], temperature)[0]
    return p


def shannon(p: np.ndarray) -> float:
    return -sum(q * np.log(q) for q in p if q)


def test_where_rows_are_told_their_task_classes_of_others_are_not_there():
    """Two tasks, of two and of three classes: no class is confused with one of another task, and all five count."""
    z, told = rows(9, 5), own(2, 3)
    p = of_own(z.numpy(), told.numpy(), 2.5)
    weight = np.array([1 + np.exp(-shannon(row)) for row in p])
    confusion = p.T @ np.diag(weight) @ p
    between = [confusion[j, k] / confusion[j].sum() for j in range(5) for k in range(5) if j != k]
    assert MCC()(batch(9, 0), said(z, z, competes=told)).item() == pytest.approx(sum(between) / 5, rel=1e-10)
    q = of_own(z.numpy(), told.numpy())
    expected = np.mean([shannon(row) for row in q]) - 0.5 * shannon(q.mean(0))
    assert Entropy(0.5)(batch(9, 0), said(z, z, competes=told)).item() == pytest.approx(expected, rel=1e-10)


def test_a_temperature_below_1_leaves_the_classes_of_other_tasks_out_as_well():
    z, told = rows(9, 5), own(2, 3)
    p = of_own(z.numpy(), told.numpy(), 0.5)
    confusion = p.T @ np.diag([1 + np.exp(-shannon(row)) for row in p]) @ p
    between = [confusion[j, k] / confusion[j].sum() for j in range(5) for k in range(5) if j != k]
    value = MCC(temperature=0.5)(batch(9, 0), said(z, z, competes=told))
    assert value.item() == pytest.approx(sum(between) / 5, rel=1e-10)


def test_rows_of_one_task_are_as_if_there_were_no_other():
    z, told = rows(5, 5), torch.tensor([False, False, True, True, True]).expand(5, 5)
    for strategy in (MCC(), Entropy(), Entropy(1.0)):
        alone = strategy(batch(5, 0), said(z[:, 2:], z[:, 2:]))
        torch.testing.assert_close(strategy(batch(5, 0), said(z, z, competes=told)), alone)


@pytest.mark.parametrize("strategy", [Entropy(), Entropy(diversity=1.0), MCC()])
def test_logits_of_other_tasks_have_neither_a_say_nor_a_gradient(strategy):
    z, told = rows(9, 5).requires_grad_(), own(2, 3)
    other = z.detach() + (100 * rows(9, 5, 1)).where(~told, 0.0)
    value = strategy(batch(9, 0), said(z, z, competes=told))
    value.backward()
    assert torch.equal(value, strategy(batch(9, 0), said(other, other, competes=told)))
    assert torch.isfinite(z.grad).all()
    assert not z.grad[~told].any()
    assert z.grad[told].all()


def test_without_a_new_row_no_domain_is_the_new_ones():
    """As in a batch of kept rows alone, where memory is mixed in."""
    assert MCC(target="domain")(batch(0, 4), said(rows(4, 3), rows(4, 3))) is None
    assert MCC(target="domain")(batch(1, 4), said(rows(5, 3), rows(5, 3))) is not None


def test_entropy_is_shannons():
    z = rows(6, 4)
    p = softmax(z[:4].numpy())
    expected = -(p * np.log(p)).sum(1).mean()
    assert Entropy()(batch(4, 2), said(z, z)).item() == pytest.approx(expected, rel=1e-10)
    m = p.mean(0)
    diverse = expected + 0.5 * (m * np.log(m)).sum()
    assert Entropy(diversity=0.5)(batch(4, 2), said(z, z)).item() == pytest.approx(diverse, rel=1e-10)


@pytest.mark.parametrize("strategy", [Entropy(), Entropy(diversity=1.0), MCC()])
def test_they_need_no_source_and_leave_it_alone(strategy):
    z = rows(6, 4).requires_grad_()
    strategy(batch(4, 2), said(z, z)).backward()
    assert z.grad[:4].any()
    assert not z.grad[4:].any()
    assert strategy(batch(4, 0), said(z[:4], z[:4])) is not None
    assert strategy(batch(0, 4), said(z[:4], z[:4])) is None
    assert strategy.source_free


def test_entropy_descends_to_sure_rows_of_all_classes_with_diversity():
    z = (0.1 * rows(30, 3)).requires_grad_()
    optimizer, strategy = torch.optim.Adam([z], lr=0.1), Entropy(diversity=1.0)
    for _ in range(150):
        optimizer.zero_grad()
        strategy(batch(30, 0), said(z, z)).backward()
        optimizer.step()
    assert z.softmax(1).max(1).values.min() > 0.9
    assert len(z.argmax(1).unique()) == 3
