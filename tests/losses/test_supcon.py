"""Supervised contrastive learning: against Khosla's formula in plain NumPy, and what it may never depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clkd.errors import UserError
from clkd.losses.supcon import SupCon
from clkd.models.backbones.mlp import MLP
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.signals import Batch, Signals, Spec
from clkd.testing.contract import check_loss
from clkd.testing.material import experiences

Y = [0, 1, 0, -1, 1, 2, 0, -1]
BORN = (-1, 0, -1, -1, 0, -1, -1)
"""Of seven columns, five are of classes to come."""
STUDENT = Student(MLP((2,), hidden=(3,)), Linear(3), (2,))


def batch_of(y: list[int]) -> Batch:
    i = torch.arange(len(y))
    return Batch(x=i, y=torch.tensor(y), sample_id=i, domain=i, experience=i, new=len(y))


def drawn(views: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(views, len(Y), width))


def khosla(z: np.ndarray, y: list[int], temperature: float) -> float:
    """Eq. 2 one pair at a time, `z` `[V, B, D]`: the mean over rows that have a positive."""
    views, rows, _ = z.shape
    places = [(v, b) for v in range(views) for b in range(rows)]
    unit = z / np.linalg.norm(z, axis=2, keepdims=True)
    values: dict[int, list[float]] = {}
    for i in places:
        others = [a for a in places if a != i]
        total = sum(np.exp(unit[i] @ unit[a] / temperature) for a in others)
        fellows = [p for p in others if p[1] == i[1] or (y[p[1]] == y[i[1]] and y[i[1]] >= 0)]
        terms = [-np.log(np.exp(unit[i] @ unit[p] / temperature) / total) for p in fellows]
        if terms:
            values.setdefault(i[1], []).append(float(np.mean(terms)))
    return float(np.mean([np.mean(of_views) for of_views in values.values()]))


def of_features(z: np.ndarray) -> Signals:
    first, *more = (Signals(None, torch.arange(3), {"penultimate": torch.as_tensor(view)}) for view in z)
    return replace(first, views=tuple(more))


def of_logits(z: np.ndarray) -> Signals:
    first, *more = (Signals(torch.as_tensor(view), torch.arange(z.shape[2])) for view in z)
    return replace(first, views=tuple(more))


def made(spec: Spec, to_come: int = 0, **options: Any) -> SupCon:
    """Bound, in an experience that so many others follow."""
    loss = SupCon(**options)
    loss.bind(spec, None)
    first = next(experiences())
    loss.begin(replace(first, count=first.index + 1 + to_come), STUDENT)
    return loss


PLAIN = Spec((0, 1, 2), (0, 0, 0), shapes={"penultimate": (4,)})


@pytest.mark.parametrize("temperature", [0.1, 5.0])
@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_khoslas_formula(seed: int, views: int, temperature: float) -> None:
    z = drawn(views, 4, seed)
    value = made(PLAIN, views=views, temperature=temperature)(batch_of(Y), of_features(z))
    assert value.shape == (len(Y),)
    assert float(value.mean()) == pytest.approx(khosla(z, Y, temperature), rel=1e-9)


@pytest.mark.parametrize(
    ("to_come", "blocks"), [(1, [[0, 2, 3, 5, 6]]), (2, [[0, 2, 3], [5, 6]]), (4, [[0, 2, 3], [5, 6]])]
)
def test_the_columns_of_each_experience_to_come_are_compared_by_themselves(
    to_come: int, blocks: list[list[int]]
) -> None:
    """X-DER: the mean over future heads. A block has two columns at least, for one has no direction."""
    z = drawn(2, 7, 1)
    loss = made(Spec(tuple(range(7)), BORN), to_come, over="future", temperature=5.0)
    wanted = np.mean([khosla(z[:, :, block], Y, 5.0) for block in blocks])
    assert float(loss(batch_of(Y), of_logits(z)).mean()) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("over", "columns"), [("seen", [1, 4]), ("all", list(range(7)))])
def test_other_columns_are_compared_as_one(over: Any, columns: list[int]) -> None:
    z = drawn(2, 7, 2)
    value = made(Spec(tuple(range(7)), BORN), 3, over=over)(batch_of(Y), of_logits(z)).mean()
    assert float(value) == pytest.approx(khosla(z[:, :, columns], Y, 0.1), rel=1e-9)


def test_a_number_reckoned_by_hand() -> None:
    """Both rows of a class look one way and the third across: −log (e / (e + 1)) for two rows, and no third one."""
    z = np.array([[[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]]])
    loss = made(Spec((0, 1), (0, 0)), over="seen", temperature=1.0, views=1)
    assert float(loss(batch_of([0, 0, 1]), of_logits(z)).mean()) == pytest.approx(np.log(1 + 1 / np.e))


def test_it_reads_the_layer_that_is_named_and_averages_maps() -> None:
    maps = torch.randn(len(Y), 4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    said = Signals(None, torch.arange(3), {"stage3": maps})
    loss = made(Spec((0, 1, 2), (0, 0, 0), feature="stage3", shape=(4, 3, 2)), views=1)
    wanted = khosla(maps.mean((2, 3)).numpy()[None], Y, 0.1)
    assert float(loss(batch_of(Y), said).mean()) == pytest.approx(wanted, rel=1e-9)


def test_it_reads_no_more_views_than_it_asked_for() -> None:
    z = drawn(3, 4, 3)
    value = made(PLAIN, views=2)(batch_of(Y), of_features(z)).mean()
    assert float(value) == pytest.approx(khosla(z[:2], Y, 0.1), rel=1e-9)


def test_only_directions_count() -> None:
    z = drawn(2, 4, 4)
    longer = z * np.random.default_rng(5).uniform(0.5, 9, size=(2, len(Y), 1))
    values = [made(PLAIN)(batch_of(Y), of_features(each)) for each in (z, longer)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("over", ["features", "seen"])
def test_where_there_is_no_direction_the_gradient_stays_small(over: Any) -> None:
    """Behind a ReLU, all of a row's features may be 0."""
    x = torch.zeros(len(Y), 4).requires_grad_()
    said = Signals(x, torch.arange(4), {"penultimate": x})
    loss = made(Spec(tuple(range(4)), (0,) * 4), over=over)
    loss(batch_of(Y), said).mean().backward()
    nearly = torch.full((len(Y), 4), 1e-9).requires_grad_()
    said = Signals(nearly, torch.arange(4), {"penultimate": nearly})
    loss(batch_of(Y), said).mean().backward()
    assert x.grad is not None
    assert nearly.grad is not None
    assert max(float(x.grad.abs().max()), float(nearly.grad.abs().max())) < 1e-2


def test_descending_tells_classes_apart() -> None:
    """From random vectors: at the end each row is nearer to its class than to any other row."""
    y = [0, 0, 1, 1, 2, 2]
    x: Tensor = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss, optimizer = made(PLAIN, views=1, temperature=0.5), torch.optim.SGD([x], lr=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        loss(batch_of(y), Signals(None, torch.arange(3), {"penultimate": x})).mean().backward()
        optimizer.step()
    unit = torch.nn.functional.normalize(x.detach(), dim=1)
    cosine, alike = unit @ unit.T, torch.tensor(y)[:, None] == torch.tensor(y)
    assert cosine[alike].min() > 0.9 > cosine[~alike].max()


def test_who_takes_part_is_told_to_processes_that_share_a_batch() -> None:
    """Of single views, rows with a fellow; of several, all rows: each has its own other view."""
    one, two = (SupCon(views=views) for views in (1, 2))
    told = one.takes(batch_of(Y))
    assert told is not None
    assert told.tolist() == [True, True, True, False, True, False, True, False]
    assert two.takes(batch_of(Y)) is None


@pytest.mark.parametrize(
    ("born", "told"), [((0, 0, 0), "there is no column"), ((0, 0, -1), "a single column has no direction")]
)
def test_it_refuses_where_there_is_no_future(born: tuple[int, ...], told: str) -> None:
    with pytest.raises(UserError, match=f"supcon: over: future: {told}.*a head that is fixed"):
        SupCon(over="future").bind(Spec((0, 1, 2), born), None)


def test_only_the_future_needs_boundaries() -> None:
    assert SupCon(over="future").needs_boundaries
    assert not any(SupCon(over=over).needs_boundaries for over in ("features", "seen", "all"))


@pytest.mark.parametrize("options", [{"over": "seen"}, {"over": "all", "temperature": 5.0}, {"views": 1}])
def test_other_options_keep_the_contract(options: dict[str, Any]) -> None:
    check_loss(lambda: SupCon(**options))
