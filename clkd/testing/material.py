"""What the laws are tried on: small batches, signals and experiences, the same at every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clkd.experience import Experience, Rows
from clkd.losses.base import Loss
from clkd.models.backbones.mlp import MLP
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.signals import Batch, Needs, Signals, Spec

CLASSES = (3, 0, 5, 1, 2, 4)
"""Global ids in the order of arrival, two per experience: not sorted, so that a column is no class id."""
SHAPE = (1, 2, 2)
WIDTH = 6
MAP = (5, 3)
"""The size of feature maps: sides that are odd and not alike."""
TAP = "penultimate"
PER_EXPERIENCE = 2
ROWS = 30
"""Training rows of each experience."""


def spec(classes: int = 4, loss: Loss | None = None, place: int = 0, shape: tuple[int, ...] | None = None) -> Spec:
    """A side that knows the first `classes` classes and whose features are `WIDTH` wide, unless a `shape` is given.

    With a `loss`, the features are those that it reads of this side (the first, 0, or the second), in the shape that
    it compares: vectors, or maps if it compares nothing else. Where it names none, one is named for it.
    """
    born = tuple(i // PER_EXPERIENCE for i in range(classes))
    shape = shape or ((WIDTH, *MAP) if loss and loss.maps_only else (WIDTH,))
    names = loss.reads(place).features if loss else ()
    if names:
        return Spec(CLASSES[:classes], born, shapes=dict.fromkeys(names, shape))
    return Spec(CLASSES[:classes], born, feature=TAP, shape=shape, shapes={TAP: shape})


def change(tensor: Tensor) -> None:
    """Give every element of a tensor of any shape another value, in place.

    >>> flags = torch.tensor([True, False])
    >>> change(flags)
    >>> flags.tolist()
    [False, True]
    """
    if tensor.dtype is torch.bool:
        tensor.logical_not_()
    else:
        tensor.add_(1)


def bound(
    loss: Loss,
    classes: int = 4,
    other: int = 2,
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None),
    order: Tensor | None = None,
) -> tuple[Spec, Spec]:
    """Bind `loss` to a student of `classes` classes and, if it has two sides, a teacher of `other`; gives the specs.

    `order` is that of the teacher's columns. A teacher's last layer is lent to a loss that wants one.
    """
    order = torch.arange(other) if order is None else order
    a, b = spec(classes, loss, 0, shapes[0]), _with_columns(spec(other, loss, 1, shapes[1]), order)
    loss.bind(a, b if loss.sides == 2 else None)
    if loss.sides == 2:
        lend(loss, other, order)
    return a, b


def lend(loss: Loss, classes: int, order: Tensor | None = None, dtype: torch.dtype = torch.float32) -> None:
    """The last layer of a teacher of so many classes, always the same one, to a loss that wants it."""
    if not loss.wants_classifier:
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = torch.nn.Linear(WIDTH, classes).requires_grad_(False)
    if order is not None:
        classifier.load_state_dict({name: tensor[order] for name, tensor in classifier.state_dict().items()})
    loss.borrow(classifier.to(dtype))


def _with_columns(side: Spec, order: Tensor) -> Spec:
    at = order.tolist()
    return replace(side, class_ids=tuple(side.class_ids[i] for i in at), born=tuple(side.born[i] for i in at))


def batch(new: int = 5, replayed: int = 4, classes: int = 4) -> Batch:
    """Labelled rows of the first `classes` classes."""
    n = new + replayed
    place = torch.arange(n) * 7 % classes
    y = torch.tensor(CLASSES)[place]
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(n))
    return Batch(x, y, torch.arange(n), torch.zeros_like(y), place // PER_EXPERIENCE, new)


def signals(rows: int, side: Spec, needs: Needs, seed: int, scale: float = 1.0) -> Signals:
    """What a model with these classes might say; tensors are leaves that ask for gradients."""
    draws = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return (torch.randn(rows, *shape, generator=draws) * scale).requires_grad_()

    features = {name: leaf(*side.shapes.get(name, (WIDTH,))) for name in dict.fromkeys((TAP, *needs.features))}
    return Signals(leaf(len(side.class_ids)), torch.tensor(side.class_ids), features)


def changed(said: Signals, change: Callable[[Tensor], Tensor]) -> Signals:
    """The same signals with `change` applied to logits and features, as new leaves."""
    assert said.logits is not None, "signals() gives logits"

    def leaf(tensor: Tensor) -> Tensor:
        return change(tensor.detach().clone()).requires_grad_()

    features = {name: leaf(tensor) for name, tensor in said.features.items()}
    return replace(said, logits=leaf(said.logits), features=features)


def tensors(said: Signals) -> list[Tensor]:
    """What a gradient may reach in these signals."""
    return [*([] if said.logits is None else [said.logits]), *said.features.values()]


def gradients(said: Signals) -> list[Tensor]:
    """The gradients that reached these signals."""
    return [tensor.grad for tensor in tensors(said) if tensor.grad is not None]


def student() -> Student:
    """A small real student that knows the classes of the first experience."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Student(MLP(SHAPE, hidden=(WIDTH,)), Linear(WIDTH), SHAPE)
    made.request((TAP,))
    made.grow(CLASSES[:PER_EXPERIENCE], 0, torch.Generator().manual_seed(0))
    return made


def pixels() -> Tensor:
    """The stored rows of a whole stream: `[90, 1, 2, 2]` uint8, no two alike."""
    count = ROWS * len(CLASSES) // PER_EXPERIENCE
    x = torch.randint(0, 256, (count, *SHAPE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    x[:, 0, 0, 0] = torch.arange(count, dtype=torch.uint8)
    return x


def experiences() -> Iterator[Experience]:
    """A class-incremental stream of three experiences with two classes each."""
    x, count = pixels(), len(CLASSES) // PER_EXPERIENCE
    for i in range(count):
        at = torch.arange(i * ROWS, (i + 1) * ROWS)
        known = i * PER_EXPERIENCE
        classes = CLASSES[known : known + PER_EXPERIENCE]
        rows = Rows(x, torch.tensor(classes)[at % PER_EXPERIENCE], at, at, domain=i, experience=i)
        none = rows.select(torch.arange(0))
        yield Experience(i, classes, CLASSES[: known + PER_EXPERIENCE], rows, none, none, str(classes), count, known)


def equal(a: Any, b: Any) -> bool:
    """Whether two states (nested tensors and plain values) are the same bit for bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)
