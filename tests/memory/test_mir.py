"""Maximally interfered retrieval against a copied model that really takes the step."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.losses.classification import CrossEntropy
from clkd.memory.base import Memory, scaled
from clkd.memory.mir import Mir
from clkd.memory.reservoir import Reservoir
from clkd.memory.retrieval import Moment, Retrieval
from clkd.models.backbones.mlp import MLP
from clkd.models.backbones.resnet import resnet8
from clkd.models.heads import Head, Linear, Multi
from clkd.models.prototypes import NearestMean
from clkd.models.student import Student
from clkd.ranks import ALONE
from clkd.signals import Batch, Signals

SHAPE, CLASSES, LR = (3, 8, 8), (4, 1, 3, 0), 0.3


def student(kind: str = "mlp", head: type[Head] = Linear) -> Student:
    torch.manual_seed(0)
    backbone = MLP(SHAPE, hidden=(16,), dropout=0.5) if kind == "mlp" else resnet8(SHAPE, width=4)
    made = Student(backbone, head(backbone.out_features), SHAPE)
    for experience in (0, 1):
        made.grow(CLASSES[2 * experience : 2 * experience + 2], experience, torch.Generator().manual_seed(experience))
    return made.train()


def rows(start: int, stop: int, experience: int) -> Batch:
    i = torch.arange(start, stop)
    x = torch.randint(0, 256, (len(i), *SHAPE), generator=torch.Generator().manual_seed(start), dtype=torch.uint8)
    y = torch.tensor(CLASSES)[i % 2 + 2 * experience]
    return Batch(x=x, y=y, sample_id=i, domain=i * 0, experience=i * 0 + experience, new=len(i))


def memory() -> Reservoir:
    made = Reservoir(40)
    made.observe(rows(0, 40, 0), Signals(None, torch.arange(0)))
    return made


def moment(model: Student, new: Batch) -> Moment:
    losses = CrossEntropy()
    losses.bind(model.spec(), None)
    return Moment(new, model, scaled, losses, LR, ALONE)


def own_losses(model: Student, batch: Batch) -> Tensor:
    """With columns in the order that classes came in, and a task's own where there are tasks."""
    logits = model(batch.x.float() / 255)
    if model.task_aware:
        first = 2 * batch.experience[:, None]
        logits = logits.gather(1, first + torch.arange(2))
        return F.cross_entropy(logits, batch.sample_id % 2, reduction="none")
    return F.cross_entropy(logits, batch.sample_id % 2 + 2 * batch.experience, reduction="none")


def by_a_real_step(model: Student, new: Batch, candidates: Batch, n: int) -> list[int]:
    before, after = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(after.parameters(), lr=LR)
    own_losses(after, new).mean().backward()
    optimizer.step()
    with torch.no_grad():
        raised = own_losses(after, candidates) - own_losses(before, candidates)
    return candidates.sample_id[raised.argsort(descending=True)[:n]].tolist()


@pytest.mark.parametrize(("kind", "head"), [("mlp", Linear), ("mlp", Multi), ("resnet8", Linear)])
def test_it_retrieves_what_a_real_step_would_hurt_most(kind, head):
    model, kept, new = student(kind, head), memory(), rows(40, 56, 1)
    candidates = kept.sample(25, torch.Generator().manual_seed(3))
    found = Mir(25)(kept, 6, 1, torch.Generator().manual_seed(3), moment(model, new))
    (got,) = found
    assert got.sample_id.tolist() == by_a_real_step(model, new, candidates, 6)
    assert got.new == 0
    assert torch.equal(got.x, rows(0, 40, 0).x[got.sample_id])


def test_a_head_that_has_gathered_means_looks_ahead_with_what_it_is_trained_by():
    plain, gathered = student(), student(head=NearestMean)
    with torch.no_grad():
        features = gathered.eval().backbone(rows(0, 40, 0).x.float() / 255)
    gathered.train().head.gather([(features, rows(0, 40, 0).y)])
    assert gathered.head.answers
    one, other = (
        Mir(25)(memory(), 6, 1, torch.Generator(), moment(model, rows(40, 56, 1))) for model in (plain, gathered)
    )
    assert torch.equal(one[0].sample_id, other[0].sample_id)


def test_the_student_and_all_random_state_are_left_as_they_were():
    model, kept = student("resnet8"), memory()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    Mir(25)(kept, 6, 2, torch.Generator(), moment(model, rows(40, 56, 1)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_what_lies_beside_rows_comes_with_them():
    said = Signals(torch.randn(40, 4), torch.tensor(CLASSES))
    kept = Reservoir(40, store=("logits",), class_names=tuple("abcde"))
    kept.observe(replace(rows(0, 40, 0), view=torch.arange(40)), said)
    (got,) = Mir(25)(kept, 6, 1, torch.Generator(), moment(student(), rows(40, 56, 1)))
    assert torch.equal(got.extra["logits"][:, list(CLASSES)], said.logits[got.sample_id])
    assert torch.equal(got.extra["view"], got.sample_id)


def test_several_draws_choose_among_candidates_of_their_own():
    one, other = Mir(20)(memory(), 6, 2, torch.Generator(), moment(student(), rows(40, 56, 1)))
    assert len(one) == len(other) == 6
    assert set(one.sample_id.tolist()) != set(other.sample_id.tolist())


def test_where_there_is_nothing_to_choose_all_are_replayed():
    now = moment(student(), rows(40, 56, 1))
    assert Mir(50)(Memory(), 6, 2, torch.Generator(), now) == [None, None]
    (got,) = Mir(50)(memory(), 64, 1, torch.Generator(), now)
    assert sorted(got.sample_id.tolist()) == list(range(40))


def test_without_it_rows_are_drawn_as_the_memory_draws_them():
    a, b = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    found = Retrieval()(memory(), 6, 2, a, moment(student(), rows(40, 56, 1)))
    kept = memory()
    for got in found:
        assert torch.equal(got.sample_id, kept.sample(6, b).sample_id)
