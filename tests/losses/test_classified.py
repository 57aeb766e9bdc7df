"""SRRL and SimKD: the teacher's classifier judges the student's features, or becomes its own."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from clkd.errors import UserError
from clkd.losses.simkd import SimKD, is_linear
from clkd.losses.srrl import SRRL
from clkd.models.corrected import BiasCorrected
from clkd.models.heads import Cosine, Linear, Multi
from clkd.models.prototypes import NearestMean
from clkd.models.slda import StreamingLDA
from clkd.signals import Batch, Signals, Spec

SEEDS = (0, 1, 2)


def rows(width: int, seed: int, count: int = 4) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 4) -> Batch:
    i = torch.arange(count)
    return Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=count)


def said(features: torch.Tensor) -> Signals:
    return Signals(None, torch.arange(2), {"penultimate": features})


def shift(projector: nn.Module | None) -> None:
    """Biases start at zero, where nobody would miss them."""
    if projector is not None:
        nn.init.constant_(projector.bias, 0.3)


def side(width: int, classes: tuple[int, ...] = (0, 1)) -> Spec:
    return Spec(classes, (0,) * len(classes), shapes={"penultimate": (width,)})


def head(width: int, classes: tuple[int, ...], kind=Linear, seed: int = 0) -> nn.Module:
    made = kind(width)
    made.grow(classes, 0, torch.Generator().manual_seed(seed))
    return made


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("width", [3, 5])
def test_srrl(seed, width):
    f, g, teacher = rows(width, seed), rows(5, seed + 10), head(5, (0, 1, 2), seed=seed).requires_grad_(False)
    loss = SRRL(feature_weight=0.5, logit_weight=2.0, seed=seed)
    loss.bind(side(width), side(5))
    loss.borrow(teacher)
    projector = loss.aligner.projector
    assert (projector is None) == (width == 5)
    shift(projector)
    x, y = f.numpy(), g.numpy()
    if projector is not None:
        x = x @ projector.weight.detach().numpy().T + projector.bias.detach().numpy()
    weight, bias = teacher.weight.numpy(), teacher.bias.numpy()
    logits = ((x @ weight.T + bias) - (y @ weight.T + bias)) ** 2
    expected = 0.5 * ((x - y) ** 2).mean(1) + 2 * logits.mean(1)
    found = loss(batch(), said(f), said(g)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_classifier_stays_the_teachers():
    loss, teacher = SRRL(), head(5, (0, 1)).requires_grad_(False)
    loss.bind(side(3), side(5))
    loss.borrow(teacher)
    f = rows(3, 0).requires_grad_()
    loss(batch(), said(f), said(rows(5, 1))).mean().backward()
    assert f.grad.any()
    assert teacher.weight.grad is None
    assert {name for name, _ in loss.named_parameters()} == {"aligner.projector.weight", "aligner.projector.bias"}


def student(kind, width: int, classes: tuple[int, ...]) -> SimpleNamespace:
    made = kind(width)
    made.grow(classes, 0, torch.Generator())
    return SimpleNamespace(head=made, class_ids=made.class_ids, born=made.born)


@pytest.mark.parametrize("kind", [Linear, Multi])
@pytest.mark.parametrize("width", [3, 5])
@pytest.mark.parametrize("seed", SEEDS)
def test_simkd_writes_the_teachers_classifier_behind_the_projector_into_the_students_head(kind, width, seed):
    ours, theirs = (4, 0, 2), (0, 1, 2, 3, 4)
    loss, teacher = SimKD(seed=seed), head(5, theirs, seed=seed)
    loss.bind(side(width, ours), side(5, theirs))
    loss.borrow(teacher)
    shift(loss.aligner.projector)
    pupil = student(kind, width, ours)
    loss.begin(None, pupil)
    f = rows(width, seed)
    expected = loss.aligner.projector(f) if width == 3 else f
    expected = teacher(expected)[:, [4, 0, 2]]
    loss.end(None, pupil)
    torch.testing.assert_close(pupil.head(f), expected)
    np.testing.assert_allclose(
        loss(batch(), said(f), said(rows(5, 9))).detach().numpy(),
        (((loss.aligner.projector(f) if width == 3 else f) - rows(5, 9)) ** 2).mean(1).detach().numpy(),
        rtol=1e-6,
    )


def test_simkd_refuses_classes_that_the_teacher_does_not_know():
    loss = SimKD()
    loss.bind(side(5, (0, 7)), side(5, (0, 1)))
    loss.borrow(head(5, (0, 1)))
    with pytest.raises(UserError, match="does not know class 7"):
        loss.begin(None, student(Linear, 5, (0, 7)))


@pytest.mark.parametrize(("ours", "theirs", "whose"), [(Cosine, Linear, "student"), (Linear, Cosine, "teacher")])
def test_simkd_refuses_classifiers_that_are_not_linear(ours, theirs, whose):
    loss = SimKD()
    loss.bind(side(5), side(5))
    loss.borrow(head(5, (0, 1), theirs))
    with pytest.raises(UserError, match=f"the {whose}'s classifier"):
        loss.begin(None, student(ours, 5, (0, 1)))


@pytest.mark.parametrize(
    "kind", [NearestMean, StreamingLDA, BiasCorrected, partial(Linear, align=True), partial(Linear, positive=True)]
)
def test_simkd_refuses_heads_that_do_not_stay_what_is_written_into_them(kind):
    """Before anything was gathered, each is as linear as another."""
    loss = SimKD()
    loss.bind(side(5), side(5))
    loss.borrow(head(5, (0, 1)))
    pupil = student(kind, 5, (0, 1))
    assert is_linear(pupil.head)
    with pytest.raises(UserError, match=r"the student's classifier .* that stays as it is"):
        loss.begin(None, pupil)


class Scaled(nn.Linear):
    """Has weight and bias, and does something else with them."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_whether_a_classifier_is_linear_is_asked_of_itself():
    assert is_linear(nn.Linear(3, 2))
    assert not is_linear(Scaled(3, 2))
    assert not is_linear(nn.Linear(3, 2, bias=False))


@pytest.mark.parametrize("make", [SRRL, SimKD])
def test_a_layer_that_no_classifier_reads_is_refused(make):
    with pytest.raises(UserError, match="name no layer"):
        make().bind(Spec((0,), (0,), feature="stage1", shape=(3,)), side(3))
