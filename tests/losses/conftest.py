"""What a logit loss makes of plain tensors."""

from __future__ import annotations

import pytest
import torch

from clkd.signals import Batch, Signals, Spec


def batch_of(y: torch.Tensor) -> Batch:
    i = torch.arange(len(y))
    return Batch(x=i, y=y, sample_id=i, domain=i, experience=i, new=len(y))


@pytest.fixture
def worth():
    """`worth(loss, z, v, y)`: the value per row, between sides that know classes 0, 1, … unless `a` or `b` says."""

    def value(loss, z, v, y=None, a=None, b=None, valid=None, known=None):
        a, b = (side or Spec(tuple(range(classes(x))), (0,) * classes(x)) for side, x in ((a, z), (b, v)))
        loss.bind(a, b)
        y = torch.full((len(z),), -1) if y is None else torch.as_tensor(y)
        said = Signals(z, torch.tensor(a.class_ids)), Signals(v, torch.tensor(b.class_ids), {}, valid, known)
        return loss(batch_of(y), *said)

    return value


@pytest.fixture
def one_sided():
    """The same for a loss of the student alone."""

    def value(loss, z, y, a=None):
        a = a or Spec(tuple(range(classes(z))), (0,) * classes(z))
        loss.bind(a, None)
        return loss(batch_of(torch.as_tensor(y)), Signals(z, torch.tensor(a.class_ids)))

    return value


def classes(logits: torch.Tensor) -> int:
    return logits.shape[-1] if logits.dim() == 3 else logits.shape[1]
