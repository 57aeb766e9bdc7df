"""Nothing in the step waits for the device: every way from a tensor to a Python number is watched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clkd.data.augment import Augment
from clkd.engine.parts import Parts
from clkd.engine.step import Step
from clkd.engine.term import Side, Term
from clkd.experience import Experience
from clkd.losses.classification import CrossEntropy
from clkd.losses.ewc import EWC
from clkd.losses.feature import Features
from clkd.losses.relation import Relation
from clkd.losses.response import KD
from clkd.losses.rwalk import RWalk
from clkd.losses.si import SI
from clkd.memory.reservoir import Reservoir
from clkd.models.student import Student
from clkd.schedules.base import Progress
from clkd.schedules.old_fraction import OldFraction
from clkd.seeding import generator
from clkd.teachers.ema import Ema
from clkd.teachers.previous import Previous
from clkd.teachers.stored import Stored
from clkd.transfer.coral import Coral

HELD = {"ewc", "si", "total", "rwalk"}


@pytest.fixture
def step(make_student: Callable[[], Student], experiences: list[Experience]) -> tuple[Step, Experience]:
    """A step of everything at once, in the second experience. (Offering rows to a memory comes with draws that are made
    on the host, so the first epoch is not watched.)"""
    student = make_student()
    previous, ema, stored = Previous(), Ema(0.9), Stored(("a", "b", "c", "d"))
    memory = Reservoir(size=8, store=("logits",), class_names=("a", "b", "c", "d"))
    terms = [
        Term("ce", CrossEntropy(), (Side("student"),)),
        Term("kd", KD(), (Side("student"), Side("previous")), OldFraction()),
        Term("valid", KD(rows="valid"), (Side("student"), Side("ema"))),
        Term("features", Features(), (Side.read("student.penultimate@new"), Side.read("previous.penultimate"))),
        Term("relation", Relation("both"), (Side("student"), Side("previous"))),
        Term("ewc", EWC(), (Side("student"),)),
        Term("si", SI(), (Side("student"),)),
        Term("total", SI(gradient="total"), (Side("student"),)),
        Term("rwalk", RWalk(every=1), (Side("student"),)),
        Term("stored", KD(), (Side.read("student@replay2"), Side.read("stored@replay2"))),
    ]
    augment = Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=2, flip=True)
    parts = Parts(student, augment, terms, {"previous": previous, "ema": ema, "stored": stored}, memory, Coral(), 0.1)
    parts.begin(experiences[0], 0)
    first = Step(parts, torch.optim.SGD(list(parts.parameters()), 0.01), Progress(), replay=8)
    first(experiences[0].train.gather(torch.arange(16)), generator(0), generator(1))
    parts.end(experiences[0])
    parts.begin(experiences[1], 0)
    optimizer = torch.optim.SGD(list(parts.parameters()), 0.01, momentum=0.9)
    progress = Progress(experience=1, experiences=2, old_classes=2, seen_classes=4, epoch=1)
    made = Step(parts, optimizer, progress, replay=8, clip_norm=1.0, replay_draws=2)
    made(experiences[1].train.gather(torch.arange(16)), generator(0), generator(1))
    return made, experiences[1]


def test_the_step_never_waits(step: tuple[Step, Experience], waits: list[str]) -> None:
    made, experience = step
    rows, draws, noise = experience.train.gather(torch.arange(16)), generator(0), generator(1)
    waits.clear()
    values = made(rows, draws, noise)
    assert waits == []
    assert (
        set(values) == {"loss", "ce", "kd", "valid", "features", "relation", "stored", "transfer", "weighted/kd"} | HELD
    )


def test_the_watch_sees_a_wait(waits: list[str]) -> None:
    assert float(torch.ones(()))
    assert waits
