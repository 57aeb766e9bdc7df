"""Memory that is mixed into an experience's rows: an epoch goes once over both, as iCaRL and those after it train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.data.augment import Augment
from clkd.engine.course import Course
from clkd.engine.loop import Loop
from clkd.engine.parts import Parts
from clkd.engine.refusals import refuse_mixing
from clkd.engine.step import Step
from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.experience import Experience, Rows
from clkd.losses.classification import CrossEntropy
from clkd.memory.base import Memory
from clkd.memory.class_balanced import ClassBalanced
from clkd.memory.random import Random
from clkd.memory.reservoir import Reservoir
from clkd.models.student import Student
from clkd.optimizers import OptimizerOptions
from clkd.scenario.train import TrainOptions
from clkd.schedules.base import Progress
from clkd.seeding import generator
from clkd.signals import Batch

SIZE, BATCH, LR, OLD = 20, 16, 0.1, 0.3


def parts_of(student: Student, augment: Augment, memory: Memory) -> Parts:
    terms = [
        Term("new", CrossEntropy(), (Side.read("student@new"),)),
        Term("old", CrossEntropy(), (Side.read("student@replay"),), OLD),
    ]
    return Parts(student, augment, terms, memory=memory)


def trained(parts: Parts, experiences: list[Experience], epochs: int = 2, **options: object) -> Loop:
    optimizer = OptimizerOptions(kind="sgd", lr=LR)
    loop = Loop(
        parts, TrainOptions(epochs=epochs, batch_size=BATCH, mix_memory=True, optimizer=optimizer, **options), seed=0
    )
    for experience in experiences:
        loop.train(experience, parts.begin(experience, seed=0))
        parts.end(experience)
    return loop


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, Batch]]:
    """Experience, epoch and rows of each step."""
    found: list[tuple[int, int, Batch]] = []
    plain = Step.__call__

    def watched(
        self: Step, new: Batch, draws: torch.Generator, noise: torch.Generator, mixed: Batch | None = None
    ) -> dict[str, Tensor]:
        rows = new if mixed is None else new.joined(mixed)
        found.append((self.progress.experience, self.progress.epoch, rows))
        return plain(self, new, draws, noise, mixed)

    monkeypatch.setattr(Step, "__call__", watched)
    return found


def test_an_epoch_goes_once_over_new_rows_and_all_that_is_kept(
    seen: list[tuple[int, int, Batch]],
    make_student: Callable[[], Student],
    experiences: list[Experience],
    augment: Augment,
) -> None:
    parts = parts_of(make_student(), augment, ClassBalanced(SIZE))
    trained(parts, experiences[:1])
    kept = parts.memory.sample(SIZE, torch.Generator())
    assert kept is not None
    loop = Loop(
        parts,
        TrainOptions(epochs=2, batch_size=BATCH, mix_memory=True, optimizer=OptimizerOptions(kind="sgd", lr=LR)),
        seed=0,
    )
    loop.train(experiences[1], parts.begin(experiences[1], seed=0))
    count = len(experiences[1].train) + SIZE
    for epoch in range(2):
        batches = [rows for experience, e, rows in seen if (experience, e) == (1, epoch)]
        assert [len(rows) for rows in batches] == [BATCH] * (count // BATCH) + [count % BATCH] * (count % BATCH > 0)
        assert all(
            (rows.experience[: rows.new] == 1).all() and (rows.experience[rows.new :] == 0).all() for rows in batches
        )
        came = torch.cat([rows.sample_id for rows in batches]).sort().values
        assert torch.equal(came, torch.cat([experiences[1].train.sample_id, kept.sample_id]).sort().values)
        shares = {rows.new for rows in batches[:-1]}
        assert len(shares) > 1, "they are shuffled together, so the share of new rows differs from batch to batch"


def test_places_in_memory_are_copied_to_the_device_once_an_epoch(
    experiences: list[Experience], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = experiences[0].train
    kept = experiences[1].train.gather(torch.arange(SIZE))
    course = object.__new__(Course)
    course.rows, course.kept = rows, kept
    order = torch.randperm(len(rows) + SIZE)
    copies: list[Tensor] = []
    plain = Tensor.to

    def watched(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copies.append(self)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Tensor, "to", watched)
    own, sizes, mixed = course.apart(order, 4)
    came = [each.sample_id for each in mixed if each is not None]
    assert len(copies) == 1
    assert len(came) == len(sizes) == len(order) // 4
    assert torch.equal(own, order[order < len(rows)])
    assert torch.equal(torch.cat(came), kept.sample_id[order[order >= len(rows)] - len(rows)])


def half(rows: Rows) -> Rows:
    n = len(rows) // 2
    return replace(rows, y=rows.y[:n], index=rows.index[:n], sample_id=rows.sample_id[:n])


@pytest.mark.parametrize(
    ("guise", "twice"),
    [
        (lambda rows: rows, False),
        (half, False),
        (lambda rows: replace(rows, domain=1), True),
        (lambda rows: replace(rows, y=rows.y.flip(0)), None),
        (lambda rows: replace(rows, y=torch.full_like(rows.y, -1)), True),
    ],
    ids=["all", "half", "another domain", "other labels", "no label"],
)
def test_a_row_that_comes_again_comes_once_an_epoch(
    guise: Callable[[Rows], Rows],
    twice: bool | None,
    seen: list[tuple[int, int, Batch]],
    make_student: Callable[[], Student],
    experiences: list[Experience],
    augment: Augment,
) -> None:
    first = experiences[0]
    rows = guise(replace(first.train, experience=1))
    second = replace(first, index=1, known=len(first.seen), train=rows)
    trained(parts_of(make_student(), augment, Random(len(first.train))), [first, second])
    batches = [batch for experience, epoch, batch in seen if (experience, epoch) == (1, 1)]
    came = Counter(torch.cat([batch.sample_id for batch in batches]).tolist())
    differ = rows.y != first.train.y if twice is None else torch.full((len(rows),), twice)
    expected = Counter(first.train.sample_id.tolist()) + Counter(rows.sample_id[differ].tolist())
    assert came == expected


def test_it_is_a_plain_loop(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    """Bit for bit: the order is one permutation of new rows and, behind them, of what was kept."""
    ours, plain = make_student(), make_student()
    trained(parts_of(ours, augment, ClassBalanced(SIZE)), experiences)
    memory = ClassBalanced(SIZE)
    for experience in experiences:
        plain.grow(experience.classes, experience.index, generator(0, "head", experience.index))
        plain.train()
        kept = memory.sample(len(memory), generator(0))
        x, y, n = experience.train.x[experience.train.index], experience.train.y, len(experience.train)
        if kept is not None:
            x, y = torch.cat([x, kept.x]), torch.cat([y, kept.y])
        optimizer = torch.optim.SGD(plain.parameters(), lr=LR)
        for epoch in range(2):
            order = torch.randperm(len(x), generator=generator(0, "order", experience.index, epoch))
            for at in order.split(BATCH):
                new, old = at[at < n], at[at >= n]
                logits = plain(augment.plain(x[torch.cat([new, old])]))
                losses = []
                if len(new):
                    losses.append(F.cross_entropy(logits[: len(new)], y[new]))
                if len(old):
                    losses.append(OLD * F.cross_entropy(logits[len(new) :], y[old]))
                optimizer.zero_grad()
                sum(losses[1:], losses[0]).backward()
                optimizer.step()
        memory.plain = augment.plain
        memory.end(experience, plain)
    for (name, a), b in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_memory_that_changes_within_an_experience_cannot_be_mixed_in(
    make_student: Callable[[], Student], augment: Augment
) -> None:
    refuse_mixing(parts_of(make_student(), augment, ClassBalanced(SIZE)))
    for memory, said in ((Reservoir(SIZE), "changes within"), (Memory(), "memory is none")):
        with pytest.raises(UserError, match=said):
            refuse_mixing(parts_of(make_student(), augment, memory))


def test_gradients_are_cut_off_number_by_number(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    """So no weight moves by more than the learning rate times the bound, and some by just that."""
    student, bound = make_student(), 1e-3
    parts = parts_of(student, augment, ClassBalanced(SIZE))
    parts.begin(experiences[0], seed=0)
    moved = [p.detach().clone() for p in student.parameters()]
    options = TrainOptions(batch_size=48, clip_value=bound, optimizer=OptimizerOptions(kind="sgd", lr=LR))
    Loop(parts, options, seed=0, limit_batches=1).train(experiences[0], [])
    change = torch.cat([(p.detach() - q).flatten() for p, q in zip(student.parameters(), moved, strict=True)]).abs()
    assert change.max() == pytest.approx(LR * bound, rel=1e-3)
    assert (change > 0.99 * LR * bound).sum() > 20
    assert (change < 0.5 * LR * bound).sum() > 20


def here(student: Student) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in student.parameters()])


def walk(make_student: Callable[[], Student], experience: Experience, augment: Augment, seed: int) -> list[Tensor]:
    """What each step changes, all of it noise: the gradient is cut off to nothing."""
    student = make_student()
    parts = parts_of(student, augment, Memory())
    replaced, places = parts.begin(experience, seed=0), [here(student)]
    options = TrainOptions(
        batch_size=8,
        clip_value=1e-12,
        gradient_noise={"eta": 0.3, "gamma": 2.0},
        optimizer=OptimizerOptions(kind="sgd", lr=1.0),
    )

    def note(_: Progress) -> None:
        places.append(here(student))

    Loop(parts, options, seed=seed, on_step=note).train(experience, replaced)
    return [after - before for before, after in pairwise(places)]


def test_noise_has_the_stated_spread_falls_with_the_steps_and_is_the_same_again(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    """σ² = η / (1 + t)^γ."""
    made = make_student, experiences[0], augment
    steps = walk(*made, 0)
    for t, step in enumerate(steps):
        sigma = (0.3 / (1 + t) ** 2) ** 0.5
        assert step.std() == pytest.approx(sigma, rel=5 / (2 * len(step)) ** 0.5)
        assert step.mean().abs() < 5 * sigma / len(step) ** 0.5
    assert abs(torch.corrcoef(torch.stack(steps[:2]))[0, 1]) < 5 / len(steps[0]) ** 0.5
    assert all(torch.equal(a, b) for a, b in zip(steps, walk(*made, 0), strict=True))
    assert not torch.equal(steps[0], walk(*made, 1)[0])
