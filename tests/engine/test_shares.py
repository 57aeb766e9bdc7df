"""Each term's weighted value, and its share of the gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from clkd.data.augment import Augment
from clkd.engine.loop import Loop
from clkd.engine.parts import Parts
from clkd.engine.shares import gradient_shares
from clkd.engine.term import Side, Term
from clkd.experience import Experience
from clkd.losses.classification import CrossEntropy
from clkd.losses.response import KD
from clkd.memory.reservoir import Reservoir
from clkd.models.student import Student
from clkd.optimizers import OptimizerOptions
from clkd.scenario.train import TrainOptions
from clkd.schedules.old_fraction import OldFraction
from clkd.schedules.warmup import Warmup
from clkd.teachers.previous import Previous


def trained(student: Student, augment: Augment, experiences: list[Experience], every: int | None) -> list[dict]:
    """Two experiences; what was logged of each epoch."""
    between = (Side("student"), Side("previous"))
    terms = [
        Term("ce", CrossEntropy(), (Side("student"),)),
        Term("kd", KD(), between, OldFraction()),
        Term("rising", KD(variant="mse"), between, Warmup(2.0)),
        Term("replayed", CrossEntropy(), (Side("student", rows="replay"),), 0.5),
    ]
    parts = Parts(
        student, augment, terms, {"previous": Previous()}, Reservoir(size=8, class_names=("a", "b", "c", "d"))
    )
    options = TrainOptions(
        optimizer=OptimizerOptions(kind="sgd", lr=0.05), batch_size=16, epochs=2, gradient_shares=every
    )
    logged: list[dict] = []
    loop = Loop(parts, options, seed=0, on_epoch=lambda experience, metrics: logged.append(metrics))
    for experience in experiences:
        loop.train(experience, parts.begin(experience, 0))
        parts.end(experience)
    return logged


def test_looking_changes_no_bit_and_shares_sum_to_one(
    make_student: Callable[[], Student], augment: Augment, experiences: list[Experience]
) -> None:
    plain, watched = make_student(), make_student()
    before = trained(plain, augment, experiences, None)
    after = trained(watched, augment, experiences, 2)
    assert torch.equal(parameters_to_vector(plain.parameters()), parameters_to_vector(watched.parameters()))
    for without, metrics in zip(before, after, strict=True):
        shares = {name: value for name, value in metrics.items() if name.startswith("train/gradient_share_")}
        assert sum(shares.values()) == pytest.approx(1)
        assert {name: value for name, value in metrics.items() if name not in shares} == without
    assert set(after[-1]) >= {f"train/gradient_share_{name}" for name in ("ce", "kd", "rising", "replayed")}


def test_each_term_is_logged_raw_and_weighted_and_the_weighted_sum_to_the_loss(
    make_student: Callable[[], Student], augment: Augment, experiences: list[Experience]
) -> None:
    *_, last = trained(make_student(), augment, experiences, None)
    names = ("ce", "kd", "rising", "replayed")
    assert sum(last[f"train/weighted_{name}"] for name in names) == pytest.approx(last["train/loss"])
    assert last["train/weighted_kd"] == pytest.approx(0.5 * last["train/loss_kd"])
    assert last["train/weighted_replayed"] == 0.5 * last["train/loss_replayed"]
    assert 0 < last["train/weighted_rising"] < 2 * last["train/loss_rising"]


def test_shares_are_ratios_of_gradient_norms_taken_one_by_one(
    make_student: Callable[[], Student], augment: Augment, experiences: list[Experience]
) -> None:
    student = make_student()
    parts = Parts(student, augment, [Term("absent", CrossEntropy(), (Side("student"),))])
    parts.begin(experiences[0], 0)
    logits = student(torch.rand(5, 3, 8, 8))
    terms = {"a": logits.square().sum(), "b": 3 * logits.sin().sum(), "nothing": torch.ones(())}
    norms = {}
    for name in ("a", "b"):
        student.zero_grad()
        terms[name].backward(retain_graph=True)
        norms[name] = torch.cat([p.grad.flatten() for p in student.parameters()]).norm()
    student.zero_grad()
    found = gradient_shares(terms, parts)
    torch.testing.assert_close(found["gradient_share/a"], norms["a"] / (norms["a"] + norms["b"]))
    assert found["gradient_share/nothing"] == found["gradient_share/absent"] == 0
    assert all(p.grad is None for p in student.parameters())
