"""Teachers are asked about the rows that terms compare, and about no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from clkd.data.augment import Augment
from clkd.engine.parts import Parts
from clkd.engine.step import Step
from clkd.engine.term import Side, Term
from clkd.experience import Experience
from clkd.losses.base import Loss
from clkd.losses.classification import CrossEntropy
from clkd.memory.reservoir import Reservoir
from clkd.models.student import Student
from clkd.schedules.base import Progress
from clkd.seeding import generator
from clkd.signals import Batch, Needs, Signals, Spec
from clkd.teachers.base import Teacher
from clkd.teachers.ensemble import Ensemble
from clkd.teachers.member import Member

NEW, REPLAY, DRAWS = 6, 4, 2


class Numbers(Teacher):
    """Says of each row its number, and notes what it was asked about."""

    def __init__(self) -> None:
        self.asked: list[Batch] = []

    def begin(self, experience: Experience, student: Student) -> None:
        self.of_student = student.spec()

    def spec(self, feature: str | None = None) -> Spec:
        return self.of_student

    def signals(self, batch: Batch, needs: Needs) -> Signals:
        self.asked.append(batch)
        ids = torch.tensor(self.of_student.class_ids)
        return Signals(batch.sample_id[:, None].float().expand(-1, len(ids)), ids)


class Compares(Loss):
    """Notes the rows it is given, and what the teacher said of each."""

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        assert b is not None
        self.rows, self.told = batch.sample_id, b.logits
        assert a.logits is not None
        return a.logits.sum(1)


@pytest.fixture
def taught(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> Callable[..., tuple[Numbers, list[Compares], list[int]]]:
    """One step with terms about the rows that are named, after the first experience was kept: the teacher, the losses,
    and the numbers of all the step's rows."""

    def step(*about: str | None) -> tuple[Numbers, list[Compares], list[int]]:
        teacher, losses = Numbers(), [Compares() for _ in about]
        terms = [Term("ce", CrossEntropy(), (Side("student"),))]
        terms += [
            Term(f"t{i}", loss, (Side("student", rows=rows), Side("t")))
            for i, (loss, rows) in enumerate(zip(losses, about, strict=True))
        ]
        parts = Parts(make_student(), augment, terms, {"t": teacher}, Reservoir(size=50))
        seen: list[Batch] = []
        for experience in experiences[:2]:
            parts.begin(experience, 0)
            optimizer = torch.optim.SGD(list(parts.parameters()), 0.01)
            train = Step(parts, optimizer, Progress(), replay=REPLAY, replay_draws=DRAWS)
            look = parts.augment.look
            teacher.asked.clear()
            parts.augment.look = lambda rows, *rest, look=look: seen.append(rows) or look(rows, *rest)  # type: ignore[method-assign, func-returns-value, misc]  # to see what the step is made of
            train(experience.train.gather(torch.arange(NEW)), generator(0), generator(1))
        return teacher, losses, seen[-1].sample_id.tolist()

    return step


@pytest.mark.parametrize(
    ("about", "start", "stop"),
    [
        (["new"], 0, 6),
        (["replay"], 6, 14),
        (["replay1"], 6, 10),
        (["replay2"], 10, 14),
        (["new", "replay1"], 0, 10),
        (["replay1", "replay2"], 6, 14),
        (["new", "replay2"], 0, 14),
        ([None], 0, 14),
        (["replay2", None], 0, 14),
    ],
    ids=str,
)
def test_it_is_asked_from_the_first_to_the_last_row_that_is_compared(
    taught: Callable[..., tuple[Numbers, list[Compares], list[int]]], about: list[str | None], start: int, stop: int
) -> None:
    teacher, losses, ids = taught(*about)
    assert len(ids) == NEW + DRAWS * REPLAY
    (asked,) = teacher.asked
    assert asked.sample_id.tolist() == ids[start:stop]
    assert asked.new == max(NEW - start, 0)
    for loss in losses:
        assert loss.told[:, 0].tolist() == loss.rows.tolist(), "each row is compared with what was said of it"


def test_of_a_batch_without_such_rows_nobody_is_asked(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    teacher, loss = Numbers(), Compares()
    terms = [
        Term("ce", CrossEntropy(), (Side("student"),)),
        Term("t", loss, (Side("student", rows="replay"), Side("t"))),
    ]
    parts = Parts(make_student(), augment, terms, {"t": teacher}, Reservoir(size=50))
    parts.begin(experiences[0], 0)
    teacher.asked.clear()
    step = Step(parts, torch.optim.SGD(list(parts.parameters()), 0.01), Progress(), replay=REPLAY)
    assert "t" not in step(experiences[0].train.gather(torch.arange(NEW)), generator(0), generator(1))
    assert not teacher.asked


def test_whose_peers_are_members_hears_of_all_rows_what_they_just_said(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    """They would have to be asked again about a part of them."""
    peer, passes = make_student(), []
    member = Member(peer)
    both = Ensemble(("mate",), {"mate": member})
    terms = [
        Term("ce", CrossEntropy(), (Side("student"),)),
        Term("t", Compares(), (Side("student", rows="new"), Side("both"))),
    ]
    parts = Parts(make_student(), augment, terms, {"both": both}, Reservoir(size=50), peers={"mate": peer})
    parts.members = {"mate": member}
    parts.begin(experiences[0], 0)
    peer.backbone.register_forward_hook(lambda *_: passes.append(1))
    step = Step(parts, torch.optim.SGD(list(parts.parameters()), 0.01), Progress(), replay=REPLAY)
    rows = experiences[0].train.gather(torch.arange(NEW))
    step(rows, generator(0), generator(1))
    passes.clear()
    step(replace(rows), generator(0), generator(1))
    assert len(passes) == 1
