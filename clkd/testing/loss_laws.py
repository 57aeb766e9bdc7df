"""The laws of losses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from clkd.errors import UserError
from clkd.losses.base import Loss
from clkd.schedules.base import Progress
from clkd.signals import Batch, Signals, Spec
from clkd.testing import material

Make = Callable[[], Loss]
STUDENT, TEACHER = 6, 4
"""How many classes each side knows."""


def shape(make: Make) -> None:
    """The value is one number a row, or a scalar."""
    loss, batch, a, b = _bound(make)
    value = loss(batch, a, b)
    assert value.shape in ((len(batch),), ()), f"shape {tuple(value.shape)} for {len(batch)} rows"


def agreement(make: Make) -> None:
    """Between two models that say the same, the loss is at its minimum."""
    loss = _made(make)
    if loss.sides == 1:
        return
    batch = material.batch()
    side, _ = material.bound(loss, 4, 4)
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


def non_negative(make: Make) -> None:
    """No row is worth less than 0."""
    for seed in range(1, 9):
        loss, batch, a, b = _bound(make, seed=seed)
        least = float(loss(batch, a, b).detach().min())
        assert least >= -1e-6, f"a value of {least:.4g}"


def one_direction(make: Make) -> None:
    """A gradient reaches the first side and the parameters that the loss has registered, and nothing else."""
    loss, batch, a, b = _bound(make)
    value = loss(batch, a, b).mean()
    reached = _leaves(value)
    assert b is None or not reached & _ids(material.tensors(b)), "a gradient reaches the second side"
    assert reached <= _ids(material.tensors(a)) | _ids(loss.parameters()), (
        "a gradient reaches a tensor that is neither the first side's nor a parameter of the loss: what it learns is "
        "an nn.Parameter or a module, set as an attribute (in an nn.ModuleList or nn.ParameterList if there are many)"
    )
    _backward(value)
    assert any(grad.any() for grad in material.gradients(a)), "no gradient reaches the first side"


def trained(make: Make) -> None:
    """Every parameter that the loss owns and does not freeze takes part in its value."""
    loss, batch, a, b = _bound(make)
    reached = _leaves(loss(batch, a, b).mean())
    idle = [
        name for name, parameter in loss.named_parameters() if parameter.requires_grad and id(parameter) not in reached
    ]
    assert not idle, f"no gradient reaches its parameters {idle}"


def gradient(make: Make) -> None:
    """In float64, the gradient is that of the value (finite differences)."""
    loss, batch, a, b = _bound(make, new=3, replayed=3)
    loss.double()
    material.lend(loss, TEACHER, dtype=torch.float64)
    a, b = _changed(lambda tensor: tensor.double(), a, b)
    names = tuple(a.features)

    def value(logits: Tensor, *features: Tensor) -> Tensor:
        # A copy and the same seed each time, for losses that draw or count.
        torch.manual_seed(0)
        said = replace(a, logits=logits, features=dict(zip(names, features, strict=True)))
        made: Tensor = copy.deepcopy(loss)(batch, said, b)
        return made

    with torch.random.fork_rng(devices=[]):
        assert torch.autograd.gradcheck(value, tuple(material.tensors(a)), fast_mode=True)


def finite(make: Make) -> None:
    """Value and gradient stay finite when logits and features are 40 times as large as usual."""
    loss, batch, a, b = _bound(make, scale=40.0)
    _assert_finite(loss(batch, a, b), a)


def precision(make: Make) -> None:
    """Signals in bfloat16, of scale 40, give a finite value in float32."""
    loss, batch, a, b = _bound(make, scale=40.0)
    a, b = _changed(lambda tensor: tensor.bfloat16(), a, b)
    value = loss(batch, a, b)
    assert value.dtype == torch.float32, f"the value is {value.dtype}"
    _assert_finite(value, a)


def single_row(make: Make) -> None:
    """A batch of one row gives a finite value and gradient."""
    loss, batch, a, b = _bound(make, new=1, replayed=0)
    _assert_finite(loss(batch, a, b), a)


def equal_rows(make: Make) -> None:
    """Rows of which a model says the same give a finite value and gradient."""
    loss, batch, a, b = _bound(make)
    a, b = _changed(lambda tensor: tensor[:1].expand_as(tensor).clone(), a, b)
    _assert_finite(loss(batch, a, b), a)


def unlabelled(make: Make) -> None:
    """Without any label, value and gradient are finite; of the student alone, what reads labels has no gradient."""
    loss, batch, a, b = _bound(make)
    heeds = b is None and not torch.equal(_once(loss, batch, a), _once(loss, replace(batch, y=batch.y.flip(0)), a))
    nobody = torch.full_like(batch.y, -1)
    b = b and replace(b, valid=torch.zeros_like(nobody, dtype=torch.bool))
    _assert_finite(loss(replace(batch, y=nobody), a, b), a)
    moved = heeds and any(grad.any() for grad in material.gradients(a))
    assert not moved, "rows without a label, whose y is -1, are taken for rows of some class"


def _once(loss: Loss, batch: Batch, a: Signals) -> Tensor:
    """What it says where nothing was counted before, and with the same draws each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        value: Tensor = copy.deepcopy(loss)(batch, a)
    return value


def permutation(make: Make) -> None:
    """The order of rows, among the new and among the replayed ones, does not change the mean."""
    loss, batch, a, b = _bound(make)
    value = copy.deepcopy(loss)(batch, a, b).mean()
    order = torch.cat([torch.arange(batch.new).flip(0), torch.arange(batch.new, len(batch)).flip(0)])
    a, b = _changed(lambda tensor: tensor[order], a, b)
    b = b and replace(b, valid=None if b.valid is None else b.valid[order])
    again = loss(_reordered(batch, order), a, b).mean()
    assert torch.allclose(value, again, rtol=1e-4, atol=1e-6), f"{value:.6g} in one order, {again:.6g} in another"


def two_classes(make: Make) -> None:
    """Between sides with two classes, it teaches something; or `bind` says why not (`UserError`)."""
    loss, batch = _made(make), material.batch(classes=2)
    try:
        side, other = material.bound(loss, 2, 2)
    except UserError:
        return
    a, b = _said(loss, batch, side, other)
    value = loss(batch, a, b)
    _assert_finite(value, a)
    assert any(grad.abs().max() > 1e-6 for grad in material.gradients(a)), "its gradient is 0: refuse in bind"


def growth(make: Make) -> None:
    """Bound again after classes came, it is worth what a fresh one with its state is worth."""
    loss, batch = _made(make), material.batch(classes=5)
    side, other = material.bound(loss, 5, 3)
    loss(batch, *_said(loss, batch, side, other))
    material.bound(loss, STUDENT, TEACHER)
    fresh, batch, a, b = _bound(make)
    fresh.load_state_dict(loss.state_dict())
    value = loss(batch, a, b)
    _assert_finite(value, a)
    assert torch.equal(value, fresh(batch, a, b)), "what it was bound to before still counts"


def class_order(make: Make) -> None:
    """Columns are matched by class id: their order on the second side changes nothing."""
    loss, batch, a, b = _bound(make)
    if b is None:
        return
    value = loss(batch, a, b).mean()
    order = torch.arange(TEACHER).flip(0)
    other, batch, a, b = _bound(make, order=order)
    assert b is not None, "the loss has two sides"
    again = other(batch, a, b).mean()
    assert torch.allclose(value, again, rtol=1e-4, atol=1e-6), f"{value:.6g} in one order, {again:.6g} in another"


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
        _backward((value := copy.deepcopy(loss)(batch, said, gaps)).mean())
        found.append([value.detach(), *material.gradients(said)])
    assert all(torch.isfinite(tensor).all() for tensor in found[0]), "value or gradient is not finite"
    for value, *gradients in found:
        assert all(map(torch.equal, [value, *gradients], found[0])), "what it is told of unknown columns counts"


def untouched(make: Make) -> None:
    """It changes neither the batch nor what the models said in place."""
    loss, batch, a, b = _bound(make)
    held = [batch.x, batch.y, *(tensor for said in (a, b) if said for tensor in material.tensors(said))]
    before = [tensor.detach().clone() for tensor in held]
    _backward(loss(batch, a, b).mean())
    assert all(map(torch.equal, before, held)), "a tensor that was handed to it has other values afterwards"


def maps(make: Make) -> None:
    """Maps with odd sides that are not alike give a finite value and gradient; or `bind` says why not."""
    same = (material.WIDTH, *material.MAP)
    for mine, theirs in ((same, same), ((material.WIDTH, 7, 4), same)):
        loss, batch = _made(make), material.batch(classes=STUDENT)
        try:
            side, other = material.bound(loss, STUDENT, TEACHER, shapes=(mine, theirs))
        except UserError:
            continue
        a, b = _said(loss, batch, side, other)
        _assert_finite(loss(batch, a, b), a)


def state(make: Make) -> None:
    """A fresh loss that is bound alike and takes the state gives the same value, bit for bit."""
    loss, batch, a, b = _bound(make)
    loss(batch, a, b)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(0.5)
    other, *_ = _bound(make)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(loss(batch, a, b), other(batch, a, b)), "the value differs after load_state_dict"


LOSS_LAWS: dict[str, Callable[[Make], None]] = {
    law.__name__: law
    for law in (
        shape, agreement, non_negative, one_direction, trained, gradient, finite, precision, single_row, equal_rows,
        unlabelled, permutation, two_classes, growth, class_order, partial, untouched, maps, state,
    )
}  # fmt: skip


def _made(make: Make) -> Loss:
    loss = make()
    loss.progress = Progress()
    return loss


def _said(
    loss: Loss, batch: Batch, side: Spec, other: Spec, scale: float = 1.0, seed: int = 1
) -> tuple[Signals, Signals | None]:
    a = material.signals(len(batch), side, loss.reads(0), seed=2 * seed, scale=scale)
    if loss.sides == 1:
        return a, None
    b = material.signals(len(batch), other, loss.reads(1), seed=2 * seed + 1, scale=scale)
    return a, replace(b, valid=torch.isin(batch.y, torch.tensor(other.class_ids)))


def _bound(
    make: Make, new: int = 5, replayed: int = 4, scale: float = 1.0, seed: int = 1, order: Tensor | None = None
) -> tuple[Loss, Batch, Signals, Signals | None]:
    """A loss bound to a student (and a teacher of its first classes, perhaps in another order), with signals."""
    loss, batch = _made(make), material.batch(new, replayed, STUDENT)
    side, other = material.bound(loss, STUDENT, TEACHER, order=order)
    a, b = _said(loss, batch, side, other, scale, seed)
    if b is not None and b.logits is not None and order is not None:
        b = replace(b, logits=b.logits.detach()[:, order].requires_grad_())
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


def _leaves(value: Tensor) -> set[int]:
    """The ids of all tensors that a gradient of `value` would reach."""
    found: set[int] = set()
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [parent for parent, _ in node.next_functions]
    return found


def _ids(tensors: Iterable[Tensor]) -> set[int]:
    return set(map(id, tensors))
