"""The laws of losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from clkd.losses.base import Loss
from clkd.signals import Batch, Signals
from clkd.testing import material

Make = Callable[[], Loss]


def shape(make: Make) -> None:
    """The value is one number a row, or a scalar."""
    loss, batch, a, b = _bound(make)
    value = loss(batch, a, b)
    assert value.shape in ((len(batch),), ()), f"shape {tuple(value.shape)} for {len(batch)} rows"


def agreement(make: Make) -> None:
    """Between two models that say the same, the loss is at its minimum."""
    loss = make()
    if loss.sides == 1:
        return
    batch = material.batch()
    side, _ = material.bound(loss, other=4)
    b = material.signals(len(batch), side, loss.reads(0), seed=1)
    a = material.changed(b, lambda tensor: tensor)
    least = loss(batch, a, b).mean()
    _backward(least)
    steep = max((float(grad.abs().max()) for grad in material.gradients(a)), default=0.0)
    assert steep < 1e-5, f"the gradient at agreement is {steep:.2g}"
    for seed in range(2, 12):
        other = material.signals(len(batch), side, loss.reads(0), seed)
        value = loss(batch, other, b).mean()
        assert value >= least - 1e-6, f"{value:.4g} away from agreement, but {least:.4g} at it"


def one_direction(make: Make) -> None:
    """A gradient reaches the first side and never the second."""
    loss, batch, a, b = _bound(make)
    _backward(loss(batch, a, b).mean())
    assert any(grad.any() for grad in material.gradients(a)), "no gradient reaches the first side"
    assert b is None or not any(grad.any() for grad in material.gradients(b)), "a gradient reaches the second side"


def finite(make: Make) -> None:
    """Value and gradient stay finite when logits and features are 40 times as large as usual."""
    loss, batch, a, b = _bound(make, scale=40.0)
    _assert_finite(loss(batch, a, b), a)


def single_row(make: Make) -> None:
    """A batch of one row gives a finite value and gradient."""
    loss, batch, a, b = _bound(make, new=1, replayed=0)
    _assert_finite(loss(batch, a, b), a)


def equal_rows(make: Make) -> None:
    """Rows of which a model says the same give a finite value and gradient."""
    loss, batch, a, b = _bound(make)
    a, b = _changed(lambda tensor: tensor[:1].expand_as(tensor).clone(), a, b)
    _assert_finite(loss(batch, a, b), a)


def permutation(make: Make) -> None:
    """The order of rows, among the new and among the replayed ones, does not change the mean."""
    loss, batch, a, b = _bound(make)
    value = loss(batch, a, b).mean()
    order = torch.cat([torch.arange(batch.new).flip(0), torch.arange(batch.new, len(batch)).flip(0)])
    a, b = _changed(lambda tensor: tensor[order], a, b)
    again = loss(_reordered(batch, order), a, b).mean()
    assert torch.allclose(value, again, rtol=1e-4, atol=1e-6), f"{value:.6g} in one order, {again:.6g} in another"


def growth(make: Make) -> None:
    """A loss that is bound again after classes came works with the new columns."""
    loss, *_ = _bound(make)
    side, other = material.bound(loss, classes=6, other=4)
    batch = material.batch(classes=6)
    a = material.signals(len(batch), side, loss.reads(0), seed=1)
    b = None if other is None else material.signals(len(batch), other, loss.reads(1), seed=2)
    _assert_finite(loss(batch, a, b), a)


def precision(make: Make) -> None:
    """Signals in bfloat16 give a value in float32."""
    loss, batch, a, b = _bound(make)
    a, b = _changed(lambda tensor: tensor.bfloat16(), a, b)
    value = loss(batch, a, b)
    assert value.dtype == torch.float32, f"the value is {value.dtype}"


def state(make: Make) -> None:
    """A fresh loss that is bound alike and takes the state gives the same value, bit for bit."""
    loss, batch, a, b = _bound(make)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(0.5)
    other, *_ = _bound(make)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(loss(batch, a, b), other(batch, a, b)), "the value differs after load_state_dict"


def partial(make: Make) -> None:
    """A loss that reads `known` takes nothing from a column that the second side did not know of a row."""
    loss, batch, a, b = _bound(make)
    if b is None or b.logits is None or not loss.reads_known:
        return
    known = torch.arange(len(batch))[:, None] % (b.logits.shape[1] + 1) > torch.arange(b.logits.shape[1])
    found = []
    for other in (0.0, 9.0, -9.0):
        said, _ = _changed(lambda tensor: tensor, a, None)
        gaps = replace(b, logits=torch.where(known, b.logits.detach(), other), known=known)
        _backward((value := loss(batch, said, gaps)).mean())
        found.append([value.detach(), *material.gradients(said)])
    for value, *gradients in found:
        assert all(map(torch.equal, [value, *gradients], found[0])), "what it is told of unknown columns counts"


LOSS_LAWS: dict[str, Callable[[Make], None]] = {
    law.__name__: law
    for law in (
        shape, agreement, one_direction, finite, single_row, equal_rows, permutation, growth, precision, partial, state
    )
}  # fmt: skip


def _bound(
    make: Make, new: int = 5, replayed: int = 4, scale: float = 1.0
) -> tuple[Loss, Batch, Signals, Signals | None]:
    """A loss bound to a student of four classes (and a teacher of the first two), with signals to compare."""
    loss, batch = make(), material.batch(new, replayed)
    side, other = material.bound(loss)
    a = material.signals(len(batch), side, loss.reads(0), seed=1, scale=scale)
    b = material.signals(len(batch), other, loss.reads(1), seed=2, scale=scale) if other else None
    return loss, batch, a, b


def _changed(change: Callable[[Tensor], Tensor], a: Signals, b: Signals | None) -> tuple[Signals, Signals | None]:
    return material.changed(a, change), None if b is None else material.changed(b, change)


def _reordered(batch: Batch, order: Tensor) -> Batch:
    x, y, sample_id = batch.x[order], batch.y[order], batch.sample_id[order]
    return Batch(x, y, sample_id, batch.domain[order], batch.experience[order], new=batch.new)


def _assert_finite(value: Tensor, a: Signals) -> None:
    assert torch.isfinite(value).all(), f"the value is {value}"
    _backward(value.mean())
    assert all(torch.isfinite(grad).all() for grad in material.gradients(a)), "the gradient is not finite"


def _backward(value: Tensor) -> None:
    """A value may be constant, for example that of a relation between the rows of a batch of one."""
    if value.requires_grad:
        torch.autograd.backward(value)
