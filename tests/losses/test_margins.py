"""PODNet's, LUCIR's and X-DER's margins, against the papers' formulas in NumPy; and that they have an effect."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clkd.errors import UserError
from clkd.losses.margins import NCA, LogitMargin, MarginRanking
from clkd.models.backbones.mlp import MLP
from clkd.models.heads import Cosine, Head, Linear
from clkd.models.student import Student
from clkd.signals import Batch, Signals, Spec
from clkd.testing.material import experiences

D = 4
BORN = (0, 0, 1, 1, 1)
FIRST = next(experiences())


def batch_of(y: torch.Tensor) -> Batch:
    i = torch.arange(len(y))
    return Batch(x=i, y=y, sample_id=i, domain=i, experience=i, new=len(y))


def student(head: Head) -> Student:
    return Student(MLP((D,), hidden=(D,)), head, (D,))


def drawn(seed: int) -> tuple[torch.Tensor, np.ndarray]:
    draws = np.random.default_rng(seed)
    return torch.as_tensor(draws.uniform(-1, 1, size=(9, 5))), draws.integers(5, size=9)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_nca_is_its_formula(seed: int, scale: float) -> None:
    cosines, y = drawn(seed)
    loss = NCA(margin=0.6)
    loss.bind(Spec(tuple(range(5)), BORN), None)
    loss.begin(FIRST, student(Cosine(D, scale=scale)))
    value = loss(batch_of(torch.as_tensor(y)), Signals(scale * cosines, torch.arange(5)))
    for row, c, told in zip(cosines.numpy(), y, value.detach(), strict=True):
        others = np.log(np.exp(scale * np.delete(row, c)).sum())
        assert float(told) == pytest.approx(max(0.0, others - scale * (row[c] - 0.6)), abs=1e-6)


def test_its_margin_has_an_effect() -> None:
    """PyCIL subtracts it from every logit, and then the largest, so that it cancels out."""
    cosines, y = drawn(5)
    values = []
    for margin in (0.0, 0.6):
        loss = NCA(margin=margin)
        loss.bind(Spec(tuple(range(5)), BORN), None)
        values.append(loss(batch_of(torch.as_tensor(y)), Signals(cosines, torch.arange(5))))
    torch.testing.assert_close(values[1], values[0] + 0.6)


def test_classes_to_come_are_rivals_where_the_head_has_columns_for_them() -> None:
    """They answer in evaluation; `over: seen` leaves them out."""
    z, y = torch.zeros(1, 3), torch.zeros(1, dtype=torch.long)
    for loss, rivals in ((NCA(margin=0.5), 2), (NCA(margin=0.5, over="seen"), 1)):
        loss.bind(Spec((0, 1, 2), (0, 0, -1)), None)
        assert loss(batch_of(y), Signals(z, torch.arange(3))).item() == pytest.approx(np.log(rivals) + 0.5)


def test_nca_refuses_a_single_class() -> None:
    with pytest.raises(UserError, match="a single class"):
        NCA().bind(Spec((3,), (0,)), None)


@pytest.mark.parametrize("seed", range(3))
def test_margin_ranking_is_its_formula(seed: int) -> None:
    cosines, y = drawn(seed)
    y[0] = 0
    loss = MarginRanking(margin=0.5, top=2)
    loss.bind(Spec(tuple(range(5)), BORN), None)
    loss.begin(FIRST, student(Cosine(D, scale=4.0)))
    value = loss(batch_of(torch.as_tensor(y)), Signals(4 * cosines, torch.arange(5))).mean()
    old = [(row, c) for row, c in zip(cosines.numpy(), y, strict=True) if BORN[c] == 0]
    hinges = [max(0.0, 0.5 - row[c] + k) for row, c in old for k in sorted(row[2:])[-2:]]
    assert float(value.detach()) == pytest.approx(np.mean(hinges), abs=1e-6)


def test_margin_ranking_needs_cosines() -> None:
    with pytest.raises(UserError, match="use the head cosine or split_cosine"):
        MarginRanking().begin(FIRST, student(Linear(D)))


@pytest.mark.parametrize("born", [(0, 0, 1, 1, 1), (0, 1, 2, -1, -1), (0, 0, -1, -1, -1), (0, 0, 1, 2, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_logit_margin_is_its_formula(seed: int, born: tuple[int, ...]) -> None:
    logits, y = drawn(seed)
    y[0], y[1] = 0, -1
    y = np.where(np.array(born)[y] < 0, 1, y) * (y >= 0) - (y < 0)
    loss = LogitMargin(margin=0.3)
    loss.bind(Spec(tuple(range(5)), born), None)
    value = loss(batch_of(torch.as_tensor(y)), Signals(logits, torch.arange(5))).mean()
    hinges, latest = [], max(born)
    for row, c in zip(logits.numpy(), y, strict=True):
        if c < 0:
            continue
        own = [row[k] for k in range(5) if born[k] == born[c]]
        rivals = [row[k] for k in range(5) if born[k] < 0 or (born[c] == latest and born[k] != born[c])]
        if rivals:
            hinges.append(max(0.0, 0.3 + max(rivals) - max(own)))
    assert float(value) == pytest.approx(np.mean(hinges), abs=1e-6)
    assert float(value) > 0


def test_logit_margin_refuses_where_there_is_neither_past_nor_future() -> None:
    with pytest.raises(UserError, match="no class of the past, and no column for one to come"):
        LogitMargin().bind(Spec((3, 4), (0, 0)), None)
