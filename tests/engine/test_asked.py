"""Teachers are asked about the rows that terms compare, and about no others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from noting import Noting
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
from clkd.signals import Batch, Signals
from clkd.teachers.ensemble import Ensemble
from clkd.teachers.member import Member

NEW, REPLAY, DRAWS = 6, 4, 2


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
) -> Callable[..., tuple[Noting, list[Compares], list[int]]]:
    """One step with terms about the rows that are named, after the first experience was kept: the teacher, the losses,
    and the numbers of all the step's rows."""

    def step(*about: str | None) -> tuple[Noting, list[Compares], list[int]]:
        teacher, losses = Noting(), [Compares() for _ in about]
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
            teacher.shown.clear()
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
    taught: Callable[..., tuple[Noting, list[Compares], list[int]]], about: list[str | None], start: int, stop: int
) -> None:
    teacher, losses, ids = taught(*about)
    assert len(ids) == NEW + DRAWS * REPLAY
    (asked,) = teacher.shown
    assert asked.sample_id.tolist() == ids[start:stop]
    assert asked.new == max(NEW - start, 0)
    for loss in losses:
        assert loss.told[:, 0].tolist() == loss.rows.tolist(), "each row is compared with what was said of it"


def test_of_a_batch_without_such_rows_nobody_is_asked(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    teacher, loss = Noting(), Compares()
    terms = [
        Term("ce", CrossEntropy(), (Side("student"),)),
        Term("t", loss, (Side("student", rows="replay"), Side("t"))),
    ]
    parts = Parts(make_student(), augment, terms, {"t": teacher}, Reservoir(size=50))
    parts.begin(experiences[0], 0)
    teacher.shown.clear()
    step = Step(parts, torch.optim.SGD(list(parts.parameters()), 0.01), Progress(), replay=REPLAY)
    assert "t" not in step(experiences[0].train.gather(torch.arange(NEW)), generator(0), generator(1))
    assert not teacher.shown


@pytest.mark.parametrize("rows", ["new", "replay1", None])
def test_members_that_are_trained_say_again_what_they_said_of_those_rows(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment, rows: str | None
) -> None:
    """None of them passes any row through its network a second time."""
    peer, loss = make_student(), Compares()
    member = Member(peer)
    said: list[Tensor] = []
    terms = [
        Term("ce", CrossEntropy(), (Side("student"),)),
        Term("t", loss, (Side("student", rows=rows), Side("both"))),
    ]
    both = Ensemble(("mate",), {"mate": member}, mean="logits")
    parts = Parts(make_student(), augment, terms, {"both": both}, Reservoir(size=50), peers={"mate": peer})
    parts.members = {"mate": member}
    parts.begin(experiences[0], 0)
    peer.head.register_forward_hook(lambda head, given, out: said.append(out.detach()))
    optimizer = torch.optim.SGD(list(parts.parameters()), 0.01)
    step = Step(parts, optimizer, Progress(), replay=REPLAY, replay_draws=DRAWS)
    new = experiences[0].train.gather(torch.arange(NEW))
    step(new, generator(0), generator(1))
    said.clear()
    step(new, generator(0), generator(1))
    (own,) = said
    start, stop = {"new": (0, 6), "replay1": (6, 10), None: (0, 14)}[rows]
    assert torch.equal(loss.told, own[start:stop])
