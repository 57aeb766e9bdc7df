"""A frozen teacher that is asked once and recalled says what it would have said, and is asked no more than that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from clkd.data.augment import Augment
from clkd.engine.loop import Loop
from clkd.engine.parts import Parts
from clkd.engine.term import Side, Term
from clkd.errors import ClkdError
from clkd.experience import Experience
from clkd.losses.classification import CrossEntropy
from clkd.losses.feature import Features
from clkd.losses.response import KD
from clkd.memory.reservoir import Reservoir
from clkd.models.student import Student
from clkd.optimizers import OptimizerOptions
from clkd.scenario.train import TrainOptions
from clkd.signals import Batch, Needs, Signals
from clkd.teachers.previous import Previous


class Counted(Previous):
    """Counts the rows its network is really asked about."""

    asked = 0

    def _say(self, batch: Batch, needs: Needs) -> Signals:
        self.asked += len(batch)
        return super()._say(batch, needs)


def view(crop: int, flip: bool, views: int | None) -> Augment:
    return Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=crop, flip=flip, views=views)


def trained(
    student: Student, experiences: list[Experience], augment: Augment, recall: bool, **options: Any
) -> tuple[Student, Counted]:
    teacher = Counted()
    teacher.recall = recall
    terms = [
        Term("ce", CrossEntropy(), (Side("student"),)),
        Term("kd", KD(), (Side("student"), Side("previous"))),
        Term("features", Features(), (Side.read("student.penultimate"), Side.read("previous.penultimate"))),
    ]
    parts = Parts(student, augment, terms, {"previous": teacher}, Reservoir(size=10))
    recipe = TrainOptions(batch_size=16, optimizer=OptimizerOptions(kind="sgd", lr=0.05), **options)
    loop = Loop(parts, recipe, seed=0)
    for experience in experiences:
        loop.train(experience, parts.begin(experience, 0))
        parts.end(experience)
    return student, teacher


@pytest.mark.parametrize("augment", [view(0, False, None), view(1, True, 3)])
def test_recalled_answers_train_the_same_student(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    """Up to rounding: answers are given in larger batches, and features are kept as float16."""
    asked, teacher = trained(make_student(), experiences, augment, recall=False, epochs=3)
    recalled, quiet = trained(make_student(), experiences, augment, recall=True, epochs=3)
    for a, b in zip(asked.parameters(), recalled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert teacher.asked == 3 * 48 + 3 * 3 * 10, "each epoch's new rows, and the whole memory at each of its steps"
    assert quiet.asked == (augment.views or 0) * (48 + 10), "each row once in each view"


def test_where_views_are_drawn_anew_nothing_is_recalled(
    make_student: Callable[[], Student], experiences: list[Experience]
) -> None:
    _, teacher = trained(make_student(), experiences, view(1, True, None), recall=True)
    assert teacher.asked == 48 + 3 * 10


def test_answers_that_would_take_too_much_memory_are_not_kept(
    make_student: Callable[[], Student],
    experiences: list[Experience],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """48 + 10 rows of 2 logits (float32) and 16 features (float16): 2,320 bytes."""
    for limit, asked in [(2320, 58), (2319, 48 + 3 * 10)]:
        monkeypatch.setattr("clkd.engine.parts.RECALL_LIMIT", limit)
        with caplog.at_level("INFO", logger="clkd.engine"):
            _, teacher = trained(make_student(), experiences, view(0, False, None), recall=True)
        assert teacher.asked == asked
    assert "so it is asked in every step" in caplog.text


def test_a_row_that_was_not_shown_is_told_and_not_guessed(
    make_student: Callable[[], Student], experiences: list[Experience]
) -> None:
    class Inventive(Reservoir):
        def sample(self, n: int, generator: torch.Generator) -> Batch | None:
            made = super().sample(n, generator)
            if made is not None and n != len(self):
                made.sample_id.add_(1).clamp_(max=40)  # rows it never held
            return made

    augment, student = view(0, False, None), make_student()
    terms = [Term("kd", KD(), (Side("student"), Side("previous"))), Term("ce", CrossEntropy(), (Side("student"),))]
    parts = Parts(student, augment, terms, {"previous": Previous()}, Inventive(size=10))
    recipe = TrainOptions(batch_size=16, optimizer=OptimizerOptions(kind="sgd", lr=0.05))
    loop = Loop(parts, recipe, seed=0)
    loop.train(experiences[0], parts.begin(experiences[0], 0))
    parts.end(experiences[0])
    loop.train(experiences[1], parts.begin(experiences[1], 0))
    with pytest.raises(ClkdError, match="rows were replayed that the memory did not hold"):
        parts.end(experiences[1])


def test_fixed_views_are_the_same_in_every_run_and_spread_evenly() -> None:
    augment = view(2, True, 8)
    lattice = 25 * 2
    sample = torch.arange(4000).repeat_interleave(8)
    number = torch.arange(8).repeat(4000)
    drawn = augment._view_of(sample, number)
    assert torch.equal(drawn, augment._view_of(sample, number))
    counts = torch.bincount(drawn, minlength=lattice).double()
    expected = len(drawn) / lattice
    assert len(counts) == lattice
    assert ((counts - expected).abs() < 5 * (expected * (1 - 1 / lattice)) ** 0.5).all(), "5 sigma, each view"
    pairs = drawn.view(4000, 8)
    repeats = (pairs[:, :1] == pairs[:, 1:]).double().mean().item()
    assert abs(repeats - 1 / lattice) < 5 * (1 / lattice / 28000) ** 0.5, "a row's views are independent of each other"


def test_epochs_go_through_the_views_in_turn(table: tuple[torch.Tensor, torch.Tensor]) -> None:
    augment = view(1, True, 2)
    i = torch.arange(6)
    rows = Batch(x=table[0][:6], y=i, sample_id=i, domain=i, experience=i, new=4)
    looks = [augment.look(rows, torch.Generator().manual_seed(e), epoch=e) for e in range(3)]
    assert [look.view[:4].tolist() for look in looks] == [[0] * 4, [1] * 4, [0] * 4]
    assert torch.equal(looks[0].x[:4], looks[2].x[:4])
    assert not torch.equal(looks[0].x[:4], looks[1].x[:4])
    assert looks[0].raw is rows.x
