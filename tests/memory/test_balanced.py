"""What is filled at an experience's end with random rows: of every experience, or of all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from clkd.experience import Experience, Rows
from clkd.memory.balanced import Balanced
from clkd.memory.base import scaled
from clkd.memory.class_balanced import ClassBalanced
from clkd.memory.domain_balanced import DomainBalanced
from clkd.memory.experience_balanced import ExperienceBalanced
from clkd.memory.herding import Herding
from clkd.memory.random import Random
from clkd.models.backbones.mlp import MLP
from clkd.models.heads import Linear
from clkd.models.prototypes import NearestMean
from clkd.models.student import Student
from clkd.signals import Needs, by_class
from clkd.testing import material


def experience(index: int, rows: int, start: int) -> Experience:
    """All rows of class 0: what counts is where they come from."""
    i = torch.arange(start, start + rows)
    x = torch.zeros(start + rows, 1, 2, 2, dtype=torch.uint8)
    made = Rows(x, torch.zeros_like(i), i, i, domain=index, experience=index)
    none = made.select(torch.arange(0))
    return Experience(index, (0,), (0,), made, none, none, "", 9)


def live(memory: Balanced, *rows: int) -> Balanced:
    start = 0
    for index, each in enumerate(rows):
        memory.end(experience(index, each, start), None)
        start += each
    return memory


def column(memory: Balanced, name: str) -> torch.Tensor:
    return memory.table.columns[name][: len(memory)]


@pytest.mark.parametrize("size", [1, 7, 20, 200])
def test_every_experience_has_an_equal_share_and_what_a_small_one_leaves_goes_to_the_others(size):
    memory = live(ExperienceBalanced(size), 60, 3, 60)
    counts = Counter(column(memory, "experience").tolist())
    assert len(memory) == min(size, 123)
    assert counts[1] == min(3, size // 3)
    assert abs(counts[0] - counts[2]) <= 1


def test_no_group_has_more_than_each_however_much_room_there_is():
    counts = Counter(column(live(ExperienceBalanced(30, each=8), 60, 3, 60), "experience").tolist())
    assert counts == {0: 8, 1: 3, 2: 8}
    counts = Counter(column(live(ExperienceBalanced(9, each=8), 60, 60, 60), "experience").tolist())
    assert counts == {0: 3, 1: 3, 2: 3}


def test_making_room_only_drops_rows():
    before = set(column(live(ExperienceBalanced(40), 100), "sample_id").tolist())
    after = column(live(ExperienceBalanced(40), 100, 100), "sample_id")
    assert len(after[after < 100]) == 20
    assert set(after[after < 100].tolist()) < before


@pytest.mark.parametrize(("kind", "expected"), [(Random, (6 / 90, 6 / 90)), (ExperienceBalanced, (3 / 30, 3 / 60))])
def test_each_row_of_a_group_is_kept_equally_often(kind, expected):
    """30 rows, then 60 more, to 5 sigma."""
    runs, counts = 800, torch.zeros(90)
    for seed in range(runs):
        counts[column(live(kind(6, seed=seed), 30, 60), "sample_id")] += 1
    p = torch.tensor(expected).repeat_interleave(torch.tensor([30, 60]))
    assert ((counts - runs * p).abs() < 5 * (runs * p * (1 - p)).sqrt()).all()


@pytest.mark.parametrize("kind", [Random, ExperienceBalanced])
def test_nothing_is_replayed_within_the_first_experience(kind):
    assert kind(5).sample(3, torch.Generator()) is None


def test_what_is_stored_is_never_what_a_head_has_gathered():
    """Losses compare it with the linear layer of a student in training."""
    first, second, _ = material.experiences()
    memory, student = Random(60, store=("logits",), class_names=tuple("abcdef")), material.student()
    student.head = NearestMean(material.WIDTH)
    for each in (first, second):
        student.grow(each.classes, each.index, torch.Generator().manual_seed(each.index))
        memory.end(each, student.eval())  # as a run leaves it
        student.head.gather([(torch.ones(2, material.WIDTH), torch.tensor(each.classes))])
    kept = memory.sample(60, torch.Generator())
    with torch.no_grad():
        told = student.train().signals(scaled(kept.x), Needs())
    mine = kept.experience == 1
    expected = by_class(told.logits, told.class_ids, 6)
    torch.testing.assert_close(kept.extra["logits"][mine], expected[mine])


@pytest.mark.parametrize("kind", [Random, ExperienceBalanced, ClassBalanced, Herding])
def test_what_is_stored_is_what_the_student_says_in_eval_mode_when_the_experience_ends(kind):
    """And it stays so when later experiences end, by a student that has changed since."""
    names, told = tuple("abcdef"), {}
    memory = kind(12, store=("logits", "penultimate"), class_names=names)
    network = MLP(material.SHAPE, hidden=(material.WIDTH,), dropout=0.5)
    student = Student(network, Linear(material.WIDTH), material.SHAPE)
    student.request(("penultimate",))
    for each in material.experiences():
        student.grow(each.classes, each.index, torch.Generator().manual_seed(each.index))
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.mul_(1.1)
        student.eval()
        x = scaled(each.train.x[each.train.index])
        said = student.signals(x, Needs(features=("penultimate",)))
        logits = by_class(said.logits.detach(), said.class_ids, len(names))
        for i, row in enumerate(each.train.sample_id.tolist()):
            told[row] = logits[i], said.features["penultimate"][i].detach()
        student.train()
        memory.end(each, student)
        assert student.training
        kept = memory.sample(len(memory), torch.Generator())
        for i, row in enumerate(kept.sample_id.tolist()):
            torch.testing.assert_close(kept.extra["logits"][i], told[row][0])
            torch.testing.assert_close(kept.extra["penultimate"][i], told[row][1])
        assert not kept.extra["view"].any()
    assert len(kept.experience.unique()) == 3


def test_every_domain_has_an_equal_share_however_often_it_came():
    """Domain 0 in experiences 0 and 2, domain 1 in between; an even sample of all of domain 0's rows."""
    kept = Counter()
    for seed in range(60):
        memory, start = DomainBalanced(20, seed=seed), 0
        for index, rows in enumerate((30, 60, 90)):
            e = experience(index, rows, start)
            memory.end(replace(e, train=replace(e.train, domain=index % 2)), None)
            start += rows
        assert Counter(column(memory, "domain").tolist()) == {0: 10, 1: 10}
        kept.update(column(memory, "experience").tolist())
    assert abs(kept[0] - 600 * 30 / 120) < 5 * (600 * 0.25 * 0.75) ** 0.5


def again(index: int, at: list[int], domain: int = 0) -> Experience:
    """Rows that an earlier experience may have had, too."""
    e, rows = experience(index, 40, 0), torch.tensor(at)
    return replace(e, train=replace(e.train.select(rows), domain=domain))


@pytest.mark.parametrize("kind", [ClassBalanced, Random, DomainBalanced])
def test_a_row_that_comes_again_is_kept_once_as_it_came_last(kind):
    memory = kind(30)
    for index, at in enumerate(([*range(20)], [*range(10, 30)], [*range(5)])):
        memory.end(again(index, at), None)
        assert len(column(memory, "sample_id").unique()) == len(memory)
    assert sorted(column(memory, "sample_id").tolist()) == list(range(30)), "so that all of them find room"
    came = dict(zip(*(column(memory, name).tolist() for name in ("sample_id", "experience")), strict=True))
    assert came == {row: 2 if row < 5 else 0 if row < 10 else 1 for row in range(30)}


@pytest.mark.parametrize("other", [{"domain": 1}, {"label": -1}], ids=str)
def test_in_another_guise_or_without_its_label_it_is_not_what_is_kept(other):
    memory, second = ClassBalanced(30), again(1, [*range(10)], other.get("domain", 0))
    memory.end(again(0, [*range(10)]), None)
    if "label" in other:
        second = replace(second, train=replace(second.train, y=torch.full((10,), -1)))
    memory.end(second, None)
    assert column(memory, "experience").tolist() == [0] * 10 + ([1] * 10 if "domain" in other else [])


def test_an_experience_keeps_its_own_rows_whether_they_come_again_or_not():
    memory = ExperienceBalanced(20)
    for index in range(2):
        memory.end(again(index, [*range(10)]), None)
    assert Counter(column(memory, "experience").tolist()) == {0: 10, 1: 10}
