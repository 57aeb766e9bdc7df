"""iCaRL's loss is that of the paper: binary cross-entropy, not a softmax over the old classes (as PyCIL has it)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clkd.losses.binary import BinaryCrossEntropy, BinaryKD
from clkd.signals import Batch, Signals, Spec


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("seed", range(3))
def test_both_terms_together_are_icarls_loss(seed: int) -> None:
    """Alg. 3 as Avalanche and Mammoth write it: old columns are told by the previous self, new ones by the label."""
    draws = np.random.default_rng(seed)
    z, v, y = draws.normal(size=(7, 5)), draws.normal(size=(7, 3)), draws.integers(5, size=7)
    wanted = np.concatenate([sigmoid(v), np.eye(5)[y][:, 3:]], axis=1)
    expected = -(wanted * np.log(sigmoid(z)) + (1 - wanted) * np.log(1 - sigmoid(z))).sum(1).mean()
    student, previous = Spec(tuple(range(5)), (0, 0, 0, 1, 1)), Spec((0, 1, 2), (0, 0, 0))
    labels, old = BinaryCrossEntropy(over="new"), BinaryKD()
    labels.bind(student, None)
    old.bind(student, previous)
    i = torch.arange(7)
    batch = Batch(x=i, y=torch.as_tensor(y), sample_id=i, domain=i, experience=i, new=7)
    a, b = (Signals(torch.as_tensor(x), torch.arange(x.shape[1])) for x in (z, v))
    value = labels(batch, a).mean() + old(batch, a, b).mean()
    assert float(value) == pytest.approx(expected)


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_the_teacher_alone_may_be_softened(t: float) -> None:
    """As van de Ven et al. have it: σ(v / T) is the target of σ(z), so T = 2 draws logits to v / 2."""
    draws = np.random.default_rng(0)
    z, v = draws.normal(size=(7, 3)), draws.normal(size=(7, 3))
    wanted = sigmoid(v / t)
    expected = -(wanted * np.log(sigmoid(z)) + (1 - wanted) * np.log(1 - sigmoid(z))).sum(1)
    loss, side, i = BinaryKD(teacher_temperature=t), Spec((0, 1, 2), (0, 0, 0)), torch.arange(7)
    loss.bind(side, side)
    batch = Batch(x=i, y=i % 3, sample_id=i, domain=i, experience=i, new=7)
    a, b, rest = (Signals(torch.as_tensor(x), torch.arange(3)) for x in (z, v, v / t))
    np.testing.assert_allclose(loss(batch, a, b).numpy(), expected)
    assert (loss(batch, rest, b) <= loss(batch, a, b)).all()


def test_unlabelled_rows_are_examples_of_nothing() -> None:
    loss, i = BinaryCrossEntropy(), torch.arange(2)
    loss.bind(Spec((0, 1), (0, 0)), None)
    batch = Batch(x=i, y=torch.tensor([0, -1]), sample_id=i, domain=i, experience=i, new=2)
    z = torch.tensor([[3.0, 0.0], [5.0, 5.0]])
    alone = loss(batch.rows(0, 1), Signals(z[:1], torch.arange(2))).mean()
    assert torch.equal(loss(batch, Signals(z, torch.arange(2))).mean(), alone)


def test_with_columns_for_classes_to_come_all_are_asked_about() -> None:
    """They answer in evaluation, so what is never trained would win; a head that grows has no such columns."""
    i, z = torch.arange(1), torch.zeros(1, 3)
    batch = Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=1)
    for born, task_aware, asked in (((0, -1, -1), False, 3), ((0, -1, -1), True, 3), ((0, 0, 1), False, 3)):
        loss = BinaryCrossEntropy()
        loss.bind(Spec((0, 1, 2), born, task_aware=task_aware), None)
        assert loss(batch, Signals(z, torch.arange(3))).item() == pytest.approx(asked * np.log(2))
    seen = BinaryCrossEntropy(over="seen")
    seen.bind(Spec((0, 1, 2), (0, -1, -1)), None)
    assert seen(batch, Signals(z, torch.arange(3))).item() == pytest.approx(np.log(2))
