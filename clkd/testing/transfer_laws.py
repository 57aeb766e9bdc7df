"""The laws of transfer strategies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch

from clkd.experience import Experience
from clkd.signals import Batch, Signals
from clkd.testing import material
from clkd.transfer.base import Seen, Transfer

Make = Callable[[], Transfer]


def scalar(make: Make) -> None:
    """The value is None or one finite number."""
    value = _begun(make)(material.batch(), _said(make))
    assert value is None or value.dim() == 0, "the value is not a scalar"
    assert value is None or torch.isfinite(value), f"the value is {value}"


def nothing_old(make: Make) -> None:
    """Without replayed rows, and with a single one on each side, the value is None or finite."""
    for new, replayed in ((5, 0), (1, 1), (5, 1), (1, 0)):
        value = _begun(make)(material.batch(new, replayed), _said(make, new + replayed))
        assert value is None or torch.isfinite(value), (
            f"the value is {value} with {new} new and {replayed} replayed rows"
        )


def gradient(make: Make) -> None:
    """Where there is a value, a finite gradient reaches what the student says."""
    said = _said(make)
    value = _begun(make)(material.batch(), said)
    if value is None:
        return
    torch.autograd.backward(value)
    found = material.gradients(said)
    assert any(grad.any() for grad in found), "no gradient reaches the student"
    assert all(torch.isfinite(grad).all() for grad in found), "the gradient is not finite"


def precision(make: Make) -> None:
    """Signals in bfloat16 give a value in float32."""
    said = material.changed(_said(make), lambda tensor: tensor.bfloat16())
    value = _begun(make)(material.batch(), said)
    assert value is None or value.dtype == torch.float32, f"the value is {value.dtype}"


def state(make: Make) -> None:
    """A fresh strategy that takes the state of another, amid an experience, gives the same value, bit for bit."""
    one, other = _begun(make), make()
    for _ in range(2):  # it may count, or gather what it was told
        one(material.batch(), _said(make))
    other.load_state_dict(one.state_dict())
    _begin(other)
    other.load_state_dict(one.state_dict())
    a, b = (transfer(material.batch(), _said(make)) for transfer in (one, other))
    assert material.equal(a, b), "the value differs after load_state_dict"


def moments(make: Make) -> None:
    """It can be begun and ended, and look at rows again, in every experience of a stream."""
    transfer, student = make(), material.student()
    for experience in material.experiences():
        student.grow(experience.classes, experience.index, torch.Generator())
        transfer.begin(experience, student)
        transfer.review(_seen(experience), experience, student)
        transfer.end(experience, student)


TRANSFER_LAWS: dict[str, Callable[[Make], None]] = {
    law.__name__: law for law in (scalar, nothing_old, gradient, precision, state, moments)
}


def _begun(make: Make) -> Transfer:
    transfer = make()
    _begin(transfer)
    return transfer


def _begin(transfer: Transfer) -> None:
    """The second experience: the student knows the four classes of `material.spec`."""
    _, second, _ = material.experiences()
    student = material.student()
    student.grow(second.classes, second.index, torch.Generator().manual_seed(0))
    transfer.begin(second, student)


def _seen(experience: Experience) -> Seen:
    """The experience's training rows, for rows of any kind."""

    def seen(which: Literal["new", "validation", "kept"]) -> Iterator[Batch]:
        batch = experience.train.gather(torch.arange(len(experience.train)))
        yield batch.seen_as(batch.x / 255)

    return seen


def _said(make: Make, rows: int = 9) -> Signals:
    return material.signals(rows, material.spec(), make().reads(), seed=1)
