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


def test_unlabelled_rows_are_examples_of_nothing() -> None:
    loss, i = BinaryCrossEntropy(), torch.arange(2)
    loss.bind(Spec((0, 1), (0, 0)), None)
    batch = Batch(x=i, y=torch.tensor([0, -1]), sample_id=i, domain=i, experience=i, new=2)
    z = torch.tensor([[3.0, 0.0], [5.0, 5.0]])
    alone = loss(batch.rows(0, 1), Signals(z[:1], torch.arange(2))).mean()
    assert torch.equal(loss(batch, Signals(z, torch.arange(2))).mean(), alone)
