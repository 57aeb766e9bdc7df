"""Dark Experience Replay: what is stored, what is replayed, and that the whole is a plain loop bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clkd.data.augment import Augment
from clkd.engine.execute import execute
from clkd.engine.loop import Loop
from clkd.engine.parts import Parts
from clkd.engine.refusals import refuse_gaps, refuse_lost_views
from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.losses.base import Loss, common_columns, logits_of
from clkd.losses.classification import CrossEntropy
from clkd.losses.response import KD
from clkd.memory.reservoir import Reservoir
from clkd.models.student import Student
from clkd.optimizers import OptimizerOptions
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.scenario.train import TrainOptions
from clkd.seeding import generator
from clkd.signals import Batch, Needs, Signals, Spec
from clkd.teachers.stored import Stored
from clkd.testing.contract import check_loss

NAMES, SIZE, BATCH, LR, ALPHA, BETA = ("a", "b", "c", "d"), 20, 16, 0.1, 0.5, 0.7


class Witness(Reservoir):
    """Remembers what it was told and what it replayed."""

    def __init__(self) -> None:
        super().__init__(SIZE, store=("logits",), class_names=NAMES)
        self.told: dict[int, tuple[Tensor, Tensor, int]] = {}
        self.replayed: list[Batch] = []

    def observe(self, batch: Batch, signals: Signals) -> None:
        assert signals.logits is not None
        assert batch.view is not None
        for i, row in enumerate(batch.sample_id.tolist()):
            self.told[row] = signals.logits[i].detach().clone(), signals.class_ids.clone(), int(batch.view[i])
        super().observe(batch, signals)

    def sample(self, n: int, generator: torch.Generator) -> Batch | None:
        rows = super().sample(n, generator)
        self.replayed += [rows] if rows is not None else []
        return rows


def derpp(student: Student, augment: Augment, memory: Reservoir) -> Parts:
    terms = [
        Term("new", CrossEntropy(), (Side.read("student@new"),)),
        Term("kd", KD(variant="mse"), (Side.read("student@replay1"), Side.read("stored@replay1")), ALPHA),
        Term("replayed", CrossEntropy(), (Side.read("student@replay2"),), BETA),
    ]
    return Parts(student, augment, terms, {"stored": Stored(NAMES)}, memory)


def train(parts: Parts, experiences: list[Experience], lr: float = LR, epochs: int = 2) -> None:
    optimizer = OptimizerOptions(kind="sgd", lr=lr)
    options = TrainOptions(epochs=epochs, batch_size=BATCH, replay_draws=2, optimizer=optimizer)
    loop = Loop(parts, options, seed=0)
    for experience in experiences:
        loop.train(experience, parts.begin(experience, seed=0))
        parts.end(experience)


class PlainBuffer:
    """Algorithm R, one row at a time."""

    def __init__(self) -> None:
        self.rows: list[tuple[Tensor, int, Tensor, int]] = []
        self.seen, self.draws = 0, generator(0, "memory", "reservoir")

    def offer(self, x: Tensor, y: Tensor, logits: Tensor) -> None:
        drawn = torch.rand(len(y), generator=self.draws, dtype=torch.float64).tolist()
        for i, draw in enumerate(drawn):
            row = x[i], int(y[i]), logits[i], logits.shape[1]
            if self.seen < SIZE:
                self.rows.append(row)
            elif (slot := int(draw * (self.seen + 1))) < SIZE:
                self.rows[slot] = row
            self.seen += 1

    def draw(self, draws: torch.Generator) -> list[tuple[Tensor, int, Tensor, int]]:
        return [self.rows[i] for i in torch.randperm(len(self.rows), generator=draws)[:BATCH].tolist()]


def plain_loop(model: Student, experience: Experience, buffer: PlainBuffer, augment: Augment, epochs: int) -> None:
    """DER++ as one would write it for a head whose columns are 0, 1, 2, … and grow."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(experience.train), generator=generator(0, "order", experience.index, epoch))
        draws = generator(0, "replay", experience.index, epoch)
        for at in order.split(BATCH):
            x, y = augment.plain(experience.train.x[experience.train.index[at]]), experience.train.y[at]
            a, b = (buffer.draw(draws), buffer.draw(draws)) if buffer.rows else ([], [])
            logits = model(torch.cat([x] + [row[0][None] for row in a + b]))
            loss = F.cross_entropy(logits[: len(x)], y)
            if a:
                said = logits[len(x) : len(x) + len(a)]
                apart = [((z[:known] - old) ** 2).mean() for z, (_, _, old, known) in zip(said, a, strict=True)]
                loss = loss + ALPHA * torch.stack(apart).mean()
                labels = torch.tensor([row[1] for row in b])
                loss = loss + BETA * F.cross_entropy(logits[len(x) + len(a) :], labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if epoch == 0:
                buffer.offer(x, y, logits[: len(x)].detach())


@pytest.mark.parametrize("count", [1, 2])
def test_it_is_a_plain_loop(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment, count: int
) -> None:
    """Bit for bit in one experience; where the head grows, old rows are compared over the classes they knew."""
    ours, plain, buffer = make_student(), make_student(), PlainBuffer()
    train(derpp(ours, augment, Reservoir(SIZE, store=("logits",), class_names=NAMES)), experiences[:count])
    for experience in experiences[:count]:
        plain.grow(experience.classes, experience.index, generator(0, "head", experience.index))
        plain_loop(plain, experience, buffer, augment, epochs=2)
    for (name, a), b in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("views", [1, 3])
def test_what_is_replayed_is_what_was_said_bit_for_bit(
    make_student: Callable[[], Student], experiences: list[Experience], views: int
) -> None:
    memory = Witness()
    augment = Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=2, flip=True, views=views)
    train(derpp(make_student(), augment, memory), experiences)
    assert {int(rows.experience.max()) for rows in memory.replayed} == {0, 1}
    for rows in memory.replayed:
        for i, row in enumerate(rows.sample_id.tolist()):
            logits, class_ids, view = memory.told[row]
            assert torch.equal(rows.extra["logits"][i, class_ids], logits)
            others = [c for c in range(len(NAMES)) if c not in class_ids]
            assert not rows.extra["logits"][i, others].any()
            assert rows.extra["view"][i] == view


def test_a_row_is_replayed_in_the_view_that_was_stored(experiences: list[Experience]) -> None:
    augment = Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=2, flip=True, views=5)
    new, old = (experiences[0].train.gather(torch.arange(at, at + 8)) for at in (0, 8))
    stored = torch.arange(8) % 5
    replayed = Batch(old.x, old.y, old.sample_id, old.domain, old.experience, new=0, extra={"view": stored})
    seen = augment.look(new.joined(replayed), generator(1), epoch=3)
    assert seen.view is not None
    assert seen.view[8:].tolist() == stored.tolist()
    assert torch.equal(seen.x[8:], augment.fixed(old, stored).x)
    assert seen.view[:8].tolist() == [3] * 8


def test_a_student_that_stands_still_agrees_with_what_it_said(
    make_student: Callable[[], Student], experiences: list[Experience]
) -> None:
    """So rows come back in the very view that their logits are about, in every epoch."""
    augment = Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=2, flip=True, views=4)
    parts, seen = derpp(make_student(), augment, Reservoir(SIZE, store=("logits",), class_names=NAMES)), []
    loop = Loop(
        parts,
        TrainOptions(epochs=4, batch_size=BATCH, replay_draws=2, optimizer=OptimizerOptions(kind="sgd", lr=0.0)),
        seed=0,
        on_epoch=lambda experience, metrics: seen.append(metrics["train/loss_kd"]),
    )
    for experience in experiences:
        loop.train(experience, parts.begin(experience, seed=0))
    assert len(seen) == 8
    assert max(seen) < 1e-10


def test_views_drawn_anew_cannot_be_shown_again(make_student: Callable[[], Student], augment: Augment) -> None:
    drawn = Augment(augment.mean, augment.std, crop=2)
    with pytest.raises(UserError, match="every view is drawn anew"):
        refuse_lost_views(derpp(make_student(), drawn, Witness()))
    refuse_lost_views(derpp(make_student(), drawn, Reservoir(SIZE)))
    refuse_lost_views(derpp(make_student(), augment, Witness()))


def test_draws_are_independent_and_each_side_reads_its_own(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    memory = Witness()
    train(derpp(make_student(), augment, memory), experiences[:1], epochs=1)
    one, other = memory.replayed[-2:]
    assert len(one) == len(other) == BATCH
    assert set(one.sample_id.tolist()) != set(other.sample_id.tolist())
    new = experiences[0].train.gather(torch.arange(5))
    batch = new.joined(one, other)
    assert batch.draws == (BATCH, BATCH)
    for rows, expected in {"new": new, "replay1": one, "replay2": other}.items():
        cut = batch.rows(*Side("student", rows=rows).cut(batch))
        assert torch.equal(cut.sample_id, expected.sample_id)
        assert set(cut.extra) == set(expected.extra)
        assert all(torch.equal(cut.extra[name], expected.extra[name]) for name in cut.extra)
    assert Side("student", rows="replay2").cut(new) == (5, 5)


@pytest.mark.parametrize("cut", [(0, 5), (0, 9), (3, 7), (6, 8), (5, 9), (4, 5)])
def test_what_lies_beside_rows_is_cut_with_them(experiences: list[Experience], cut: tuple[int, int]) -> None:
    new, old = experiences[0].train.gather(torch.arange(5)), experiences[0].train.gather(torch.arange(5, 9))
    replayed = Batch(old.x, old.y, old.sample_id, old.domain, old.experience, new=0, extra={"id": old.sample_id})
    rows = new.joined(replayed).rows(*cut)
    assert rows.new == max(5 - cut[0], 0) if cut[1] >= 5 else len(rows)
    expected = rows.sample_id[rows.new :]
    assert torch.equal(rows.extra.get("id", torch.empty(0, dtype=torch.long)), expected)


class AllColumns(Loss):
    """Compares logits as a loss does whose author never heard of rows that know fewer classes."""

    def bind(self, a: Spec, b: Spec | None) -> None:
        assert b is not None
        self.columns = common_columns(a, b)

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        assert b is not None
        z, v = (logits_of(said)[:, at] for said, at in zip((a, b), self.columns, strict=True))
        return (z - v.detach()).abs().mean(1)


class ByOption(AllColumns):
    """Tells only in `reads` that it wants logits, as a loss does whose options decide."""

    needs = Needs(logits=False)

    def reads(self, side: int) -> Needs:
        return Needs()


LOGIT_LOSSES = [
    loss
    for registry in [load_plugins().registry]
    for name in registry.names("losses")
    if (loss := registry.build(registry.parse("losses", name), seed=0)).sides == 2 and loss.reads(1).logits
]


@pytest.mark.parametrize("loss", [*LOGIT_LOSSES, AllColumns(), ByOption()], ids=lambda loss: type(loss).__name__)
def test_a_loss_reads_what_rows_knew_or_is_refused_before_training(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment, loss: Loss
) -> None:
    """Every registered one; that those who say they read it do so is a law of the contract."""
    term = Term("loss", loss, (Side.read("student@replay"), Side.read("stored@replay")))
    memory = Reservoir(SIZE, store=("logits",), class_names=NAMES)
    parts = Parts(make_student(), augment, [term], {"stored": Stored(NAMES)}, memory)
    refuse_gaps(parts, experiences[:1])  # type: ignore[arg-type]  # a list will do
    if loss.reads_known:
        refuse_gaps(parts, experiences)  # type: ignore[arg-type]  # a list will do
        check_loss(lambda: copy.deepcopy(loss))
    else:
        with pytest.raises(UserError, match=r"losses\.0: loss compares all columns of 'stored'"):
            refuse_gaps(parts, experiences)  # type: ignore[arg-type]  # a list will do


@pytest.mark.parametrize("by", ["class", "domain"])
def test_so_is_a_run_with_a_loss_from_outside(tmp_path: Path, by: str) -> None:
    plugins = load_plugins()
    plugins.registry.register_for("losses", "mine", "mine.py")("mine", AllColumns)
    split = {"by": by, "experiences": 2} | ({"transform": "permuted"} if by == "domain" else {})
    scenario = {
        "name": "mine",
        "output": str(tmp_path / "run"),
        "stream": {"dataset": {"name": "digits", "rows_per_class": 6}, "split": split},
        "student": {"model": {"kind": "mlp", "hidden": [4]}, "head": "linear"},
        "teachers": {"stored": "stored"},
        "losses": ["cross_entropy", {"kind": "mine", "between": ["student@replay", "stored@replay"]}],
        "memory": {"kind": "reservoir", "size": 9, "store": ["logits"]},
        "train": {"batch_size": 8, "optimizer": {"kind": "sgd", "lr": 0.05}},
        "tracking": {"mode": "off"},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(scenario))
    if by == "domain":
        assert execute(RunRequest(scenario=path, quiet=True), plugins)["status"] == "finished"
        return
    with pytest.raises(UserError, match=r"losses\.1: mine_stored compares all columns of 'stored'"):
        execute(RunRequest(scenario=path, quiet=True), plugins)
    assert not (tmp_path / "run").exists()
