"""The engine adds nothing: with cross-entropy alone its weights are those of a plain PyTorch loop, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from clkd.data.augment import Augment
from clkd.engine.loop import Loop
from clkd.engine.parts import Parts
from clkd.engine.term import Side, Term
from clkd.experience import Experience
from clkd.losses.classification import CrossEntropy
from clkd.models.backbones.resnet import ResNet
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.optimizers import OptimizerOptions
from clkd.scenario.train import TrainOptions
from clkd.seeding import generator

Recipe = dict[str, dict[str, float]]
RECIPE: Recipe = {"sgd": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}, "adam": {"lr": 1e-2}}


LEARNED: Recipe = {"sgd": {"lr": 0.5, "momentum": 0.9}, "adam": {"lr": 0.05}}
"""Rates at which a small network soon has nothing to learn: its gradients are 0."""


def plain_loop(
    model: nn.Module,
    kind: str,
    experience: Experience,
    augment: Augment,
    epochs: int,
    size: int,
    recipe: Recipe = RECIPE,
) -> Optimizer:
    """What a good engineer would write; gives its optimizer."""
    x, y = augment.plain(experience.train.x), torch.full((len(experience.train.x),), -1)
    y[experience.train.index] = experience.train.y
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind](model.parameters(), **recipe[kind])
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(experience.train), generator=generator(0, "order", experience.index, epoch))
        for at in order.split(size):
            rows = experience.train.index[at]
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return optimizer


def trained(
    student: Student,
    kind: str,
    experiences: list[Experience],
    augment: Augment,
    epochs: int,
    size: int,
    recipe: Recipe = RECIPE,
    seed: int = 0,
) -> Loop:
    options = TrainOptions(epochs=epochs, batch_size=size, optimizer=OptimizerOptions(kind=kind, **recipe[kind]))
    parts = Parts(student, augment, [Term("ce", CrossEntropy(), (Side("student"),))])
    loop = Loop(parts, options, seed)
    for experience in experiences:
        loop.train(experience, parts.begin(experience, seed))
    return loop


def assert_same_bits(ours: Loop, plain: Student) -> None:
    student = ours.parts.student.state_dict()
    for (name, a), b in zip(student.items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def subnormals(optimizer: Optimizer | None) -> int:
    """How many of the numbers that it remembers are below the smallest normal one, and not 0."""
    assert optimizer is not None
    kept = [value.abs() for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(int(((value > 0) & (value < torch.finfo(value.dtype).tiny)).sum()) for value in kept)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("size", [16, 7])
def test_cross_entropy_alone_is_a_plain_loop(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment, kind: str, size: int
) -> None:
    ours = trained(make_student(), kind, experiences, augment, epochs=3, size=size)
    plain = make_student()
    for experience in experiences:
        plain.grow(experience.classes, experience.index, generator(0, "head", experience.index))
        plain_loop(plain, kind, experience, augment, epochs=3, size=size)
    assert_same_bits(ours, plain)


@pytest.mark.parametrize("kind", LEARNED)
def test_so_it_is_where_only_the_plain_loop_remembers_gradients_that_are_long_gone(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment, kind: str
) -> None:
    ours, plain = trained(make_student(), kind, experiences[:1], augment, 400, 16, LEARNED), make_student()
    plain.grow((0, 1), 0, generator(0, "head", 0))
    theirs = plain_loop(plain, kind, experiences[0], augment, 400, 16, LEARNED)
    assert_same_bits(ours, plain)
    assert subnormals(theirs) > 3000, "this proves nothing"
    assert subnormals(ours.optimizer) == 0


def test_so_it_is_for_a_convolutional_network_with_batch_norm(experiences: list[Experience], augment: Augment) -> None:
    def make() -> Student:
        torch.manual_seed(3)
        return Student(ResNet((3, 8, 8), blocks=(1, 1, 1), width=4), Linear(16), (3, 8, 8), channels_last=True)

    ours, plain = trained(make(), "sgd", experiences[:1], augment, 2, 16), make()
    plain.grow((0, 1), 0, generator(0, "head", 0))
    plain_loop(plain, "sgd", experiences[0], augment, 2, 16)
    assert_same_bits(ours, plain)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    loops = (trained(make_student(), "sgd", experiences, augment, 1, 16, seed=seed) for seed in (0, 0, 1))
    a, b, other = (loop.parts.student.state_dict() for loop in loops)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], other[name]) for name in a)
