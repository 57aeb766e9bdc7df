"""What every loss will be bound to is tried before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from clkd.data.augment import Augment
from clkd.engine.parts import Parts
from clkd.engine.rehearse import refuse_undefined, rehearse
from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.frozen import state_hash
from clkd.gradients.agem import AGEM
from clkd.losses.base import Loss
from clkd.losses.classification import CrossEntropy
from clkd.losses.decoupled import DKD
from clkd.losses.feature import Features
from clkd.losses.response import KD
from clkd.losses.supcon import SupCon
from clkd.memory.reservoir import Reservoir
from clkd.models.slda import StreamingLDA
from clkd.models.student import Student
from clkd.seeding import generator
from clkd.signals import Batch, Signals, Spec
from clkd.teachers.ensemble import Ensemble
from clkd.teachers.previous import Previous

BETWEEN = (Side("student"), Side("previous"))


@pytest.fixture
def parts(make_student: Callable[[], Student], augment: Augment) -> Callable[..., Parts]:
    def make(*terms: Term) -> Parts:
        first = Term("ce", CrossEntropy(), (Side("student"),))
        return Parts(make_student(), augment, [first, *terms], {"previous": Previous()})

    return make


class Pairs(Loss):
    """Needs four classes on the student's side."""

    def bind(self, a: Spec, b: Spec | None) -> None:
        if len(a.class_ids) > 2:
            raise UserError("pairs: at most two classes")

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        return a.logits.square().sum(1)


class Zero(Loss):
    """A silent zero from the second experience on."""

    def bind(self, a: Spec, b: Spec | None) -> None:
        self.scale = float(len(a.class_ids) < 3)

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        return self.scale * a.logits.square().sum(1)


@pytest.mark.parametrize(
    ("loss", "sides", "said"),
    [
        (Pairs(), (Side("student"),), "losses.1: x has nothing to teach in experience 1: pairs: at most two classes"),
        (Zero(), BETWEEN, "experience 1: it is 0 whatever the models say: the rows .* are of class 2, 3"),
        (KD(rows="valid"), BETWEEN, "are of class 2, 3 and 'previous' knows 0, 1"),
        (CrossEntropy(), (Side("student", rows="replay"),), "experience 0 and 1 more: it is about replayed rows"),
    ],
)  # fmt: skip
def test_what_has_nothing_to_teach_later_is_refused_first_or_left_out_there(
    loss: Loss, sides: Any, said: str, parts: Callable[..., Parts], experiences: list[Experience]
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        refuse_undefined(parts(Term("x", loss, sides)), experiences)
    assert "if_undefined: skip" in str(caught.value)
    made = parts(Term("x", loss, sides, skips=True))
    refuse_undefined(made, experiences)
    names = []
    for experience in experiences:
        made.begin(experience, 0)
        names.append([term.name for term in made.active()])
        made.end(experience)
    assert names[1] == ["ce"]


def test_what_is_trained_already_is_not_asked(parts: Callable[..., Parts], experiences: list[Experience]) -> None:
    refuse_undefined(parts(Term("x", Zero(), BETWEEN)), experiences[:1])
    refuse_undefined(parts(Term("x", Zero(), BETWEEN)), experiences, start=2)


class Late(Loss):
    """Can be bound from the second experience on."""

    def bind(self, a: Spec, b: Spec | None) -> None:
        if len(a.class_ids) < 3:
            raise UserError("late: too few classes")

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        return a.logits.square().sum(1)


def test_nor_is_whether_a_loss_could_have_been_bound_then(
    parts: Callable[..., Parts], experiences: list[Experience]
) -> None:
    with pytest.raises(UserError, match="in experience 0: late: too few classes"):
        refuse_undefined(parts(Term("x", Late(), (Side("student"),))), experiences)
    refuse_undefined(parts(Term("x", Late(), (Side("student"),))), experiences, start=1)


BETWEEN_FEATURES = (Side("student", "penultimate"), Side("previous", "penultimate"))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(("loss", "sides"), [(SupCon(), (Side("student"),)), (Features(), BETWEEN_FEATURES)])
def test_a_backbone_that_stands_still_needs_a_loss_about_logits(
    loss: Loss, sides: Any, beside: bool, parts: Callable[..., Parts], experiences: list[Experience]
) -> None:
    first = Term("first", SupCon(), (Side("student"),))
    made = parts(first, Term("x", loss, sides))
    made.student.head = StreamingLDA(made.student.head.weight.shape[1])
    made.student.request(("penultimate",))
    if beside:
        refuse_undefined(made, experiences)
        return
    del made.terms[0]  # cross-entropy
    refuse_undefined(made, experiences[:1])
    with pytest.raises(UserError, match="in experience 1 they could train nothing: the backbone stands still"):
        refuse_undefined(made, experiences)


@pytest.mark.parametrize("policy", [AGEM(), None])
@pytest.mark.parametrize("rows", ["replay", "new", None])
def test_what_a_loss_learns_from_replayed_rows_alone_is_not_trained_beside_a_gradient_policy(
    rows: str | None, policy: AGEM | None, parts: Callable[..., Parts], experiences: list[Experience]
) -> None:
    student, previous = BETWEEN_FEATURES
    made = parts(Term("x", Features(align="linear"), (replace(student, rows=rows), previous)))
    made.student.request(("penultimate",))
    made.memory, made.gradient = Reservoir(10), policy
    if rows == "replay" and policy:
        with pytest.raises(UserError, match="x learns something of its own from replayed rows, and with"):
            refuse_undefined(made, experiences)
    else:
        refuse_undefined(made, experiences)


def test_one_class_alone_is_no_mistake_for_cross_entropy(
    parts: Callable[..., Parts], experiences: list[Experience]
) -> None:
    rows = experiences[0].train.select(experiences[0].train.y == 0)
    refuse_undefined(parts(), [Experience(0, (0,), (0,), rows, rows, rows, "[0]", 1)])


def test_a_stream_without_a_word_to_say_is_refused(parts: Callable[..., Parts], experiences: list[Experience]) -> None:
    made = parts(Term("kd", KD(), BETWEEN))
    del made.terms[0]
    with pytest.raises(UserError, match=r"none has anything to say in experience 0 .kd waits for previous"):
        refuse_undefined(made, experiences)


def test_an_ensemble_by_class_speaks_of_new_rows(
    parts: Callable[..., Parts], experiences: list[Experience], make_student: Callable[[], Student]
) -> None:
    """Unlike a teacher of what memory stored."""
    knowing = []
    for classes in ((0, 1), (2, 3)):
        expert = Previous()
        student = make_student()
        student.grow(classes, 0, generator(0))
        expert.end(experiences[0], student)
        knowing.append(expert)
    names = ("a", "b")
    both = Ensemble(names, dict(zip(names, knowing, strict=True)), by="class")
    made = parts(Term("dkd", DKD(few_classes="kd"), (Side("student"), Side("both"))))
    made.teachers = {**made.teachers, **dict(zip(names, knowing, strict=True)), "both": both}
    for teacher in knowing:
        teacher.end = lambda *_: None  # experts stay what they are
    refuse_undefined(made, experiences)


def test_it_leaves_no_trace(parts: Callable[..., Parts], experiences: list[Experience]) -> None:
    made = parts(Term("kd", KD(), BETWEEN))
    torch.manual_seed(0)
    before = state_hash(made.modules()), torch.get_rng_state()
    scenes = [(dict(scene.waiting), scene.parts.student.class_ids) for scene in rehearse(made, experiences)]
    assert scenes == [({"kd": "previous"}, (0, 1)), ({}, (0, 1, 2, 3))]
    assert state_hash(made.modules()) == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert not made.teachers["previous"].ready
    assert made.student.class_ids == ()
