"""Memories and retrieval in real runs: budgets, what is logged, what is stored, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from states import state
from torch import Tensor

from clkd.data.augment import Augment
from clkd.engine.execute import execute
from clkd.engine.loop import Loop
from clkd.engine.parts import Parts
from clkd.engine.refusals import refuse_lost_views
from clkd.engine.step import Step
from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.losses.classification import CrossEntropy
from clkd.losses.feature import Features
from clkd.memory.base import Memory
from clkd.memory.gss import GSS
from clkd.memory.herding import Herding
from clkd.memory.loss_aware import LossAware, row_losses
from clkd.memory.mir import Mir
from clkd.memory.reservoir import Reservoir
from clkd.memory.ring import Ring
from clkd.models.student import Student
from clkd.optimizers import OptimizerOptions
from clkd.plugins import Plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.scenario.train import TrainOptions
from clkd.schedules.base import Progress
from clkd.seeding import generator
from clkd.signals import Batch, Signals
from clkd.teachers.stored import Stored

NAMES = ("a", "b", "c", "d")
OPTIONS = TrainOptions(epochs=2, batch_size=12, replay_draws=2, optimizer=OptimizerOptions(kind="sgd", lr=0.1))
TINY: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 5}},
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "train": {"batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "off"},
}


def run(plugins: Plugins, home: Path, **changes: Any) -> dict[str, Any]:
    path = home / "tiny.yaml"
    path.write_text(to_yaml({**TINY, **changes, "output": str(home / "run")}))
    return execute(RunRequest(scenario=path, quiet=True), plugins)


def train(parts: Parts, experiences: list[Experience]) -> None:
    loop = Loop(parts, OPTIONS, seed=0)
    for experience in experiences:
        loop.train(experience, parts.begin(experience, seed=0))
        parts.end(experience)


def replay(student: Student, augment: Augment, memory: Memory) -> Parts:
    return Parts(student, augment, [Term("ce", CrossEntropy(), (Side.read("student"),))], {}, memory)


@pytest.mark.parametrize(
    "memory",
    [
        *("random", "class_balanced", "experience_balanced", "herding", "reservoir", "loss_aware", "gss", "ring"),
        {"kind": "ring", "per": "experience"},
        {"kind": "reservoir", "retrieval": {"kind": "mir", "candidates": 18}},
    ],
    ids=str,
)
def test_each_trains_and_logs_its_classes_after_each_experience(
    plugins: Plugins, tmp_path: Path, memory: str | dict[str, Any]
) -> None:
    part = {"kind": memory} if isinstance(memory, str) else memory
    result = run(plugins, tmp_path, memory={**part, "size": 25})
    assert result["status"] == "finished"
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    told = [line["metrics"] for line in lines if line["event"] == "experience"]
    for i, metrics in enumerate(told):
        held = {name: rows for name, rows in metrics.items() if name.startswith("memory_classes/")}
        assert sum(held.values()) == metrics["memory/rows"] == 25, "40 rows have come since the first experience"
        assert held.keys() <= {f"memory_classes/{c}" for c in range(2 * i + 2)}
    table = state(tmp_path / "run")["memory"]["table"]
    assert {f"memory_classes/{c}": n for c, n in enumerate(torch.bincount(table["y"]).tolist()) if n} == held


def test_herding_sees_what_the_student_is_evaluated_on(
    make_student: Callable[[], Student], experiences: list[Experience]
) -> None:
    """Un-augmented and normalised: any other view would give other features, and so another order."""
    drawn, seen = Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=2, flip=True), []
    memory, student = Herding(10), make_student()
    parts = replay(student, drawn, memory)
    parts.begin(experiences[0], seed=0)
    student.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    parts.end(experiences[0])
    rows = experiences[0].train
    by_class = torch.cat([drawn.plain(rows.gather((rows.y == c).nonzero().squeeze(1)).x) for c in (0, 1)])
    assert torch.equal(torch.cat(seen), by_class)


class Told(LossAware):
    """Remembers what it was told of each row, latest last."""

    def __init__(self, size: int) -> None:
        super().__init__(size, class_names=NAMES)
        self.told: dict[int, float] = {}
        self.replayed = 0

    def observe(self, batch: Batch, signals: Signals) -> None:
        assert signals.logits is not None
        losses = row_losses(signals.logits, signals.class_ids, batch.y).tolist()
        latest: dict[int, list[float]] = {}
        for row, loss in zip(batch.sample_id.tolist(), losses, strict=True):
            latest.setdefault(row, []).append(loss)
        self.told |= {row: max(found) for row, found in latest.items()}
        self.replayed += len(batch) - batch.new
        super().observe(batch, signals)


def test_replayed_rows_bring_their_losses_up_to_date(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    memory = Told(20)
    train(replay(make_student(), augment, memory), experiences)
    assert memory.replayed == 3 * 2 * 12 + 4 * 2 * 12, "two draws in each step of the first epochs but the very first"
    kept = memory.table.columns
    ids, losses = kept["sample_id"].tolist(), kept["extra.loss"].tolist()
    assert losses == pytest.approx([memory.told[row] for row in ids], rel=1e-6)


class Witness(Reservoir):
    """Remembers the features it was told, and what it replayed."""

    def __init__(self, store: tuple[str, ...]) -> None:
        super().__init__(20, store=store, class_names=NAMES)
        self.told: dict[int, Tensor] = {}
        self.replayed: list[Batch] = []

    def observe(self, batch: Batch, signals: Signals) -> None:
        self.told |= dict(zip(batch.sample_id.tolist(), signals.features["penultimate"], strict=True))
        super().observe(batch, signals)

    def sample(self, n: int, generator: torch.Generator) -> Batch | None:
        rows = super().sample(n, generator)
        self.replayed += [rows] if rows is not None else []
        return rows


def between_features(student: Student, augment: Augment, memory: Memory) -> Parts:
    terms = [
        Term("ce", CrossEntropy(), (Side.read("student"),)),
        Term("kept", Features(), (Side.read("student.penultimate@replay"), Side.read("stored.penultimate"))),
    ]
    parts = Parts(student, augment, terms, {"stored": Stored(NAMES)}, memory)
    parts.teachers["stored"].request(("penultimate",))
    return parts


def test_stored_features_come_back_bit_for_bit_and_the_stored_teacher_says_them(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    memory = Witness(("penultimate",))
    parts = between_features(make_student(), augment, memory)
    train(parts, experiences)
    assert memory.replayed
    for rows in memory.replayed:
        told = torch.stack([memory.told[row] for row in rows.sample_id.tolist()])
        assert torch.equal(rows.extra["penultimate"], told)
        assert not rows.extra["view"].any()
    new = experiences[1].train.gather(torch.arange(5))
    batch = new.joined(rows)
    said = parts.teachers["stored"].signals(batch, parts.needs("stored"))
    assert said.logits is None
    assert torch.equal(said.features["penultimate"][5:], rows.extra["penultimate"])
    assert not said.features["penultimate"][:5].any()


def test_a_student_that_stands_still_agrees_with_the_features_that_it_stored(
    make_student: Callable[[], Student], experiences: list[Experience]
) -> None:
    augment, seen = Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=2, flip=True, views=3), []
    parts = between_features(make_student(), augment, Witness(("penultimate",)))
    options = OPTIONS.model_copy(update={"optimizer": OptimizerOptions(kind="sgd", lr=0.0)})
    loop = Loop(parts, options, seed=0, on_epoch=lambda experience, metrics: seen.append(metrics["train/loss_kept"]))
    for experience in experiences:
        loop.train(experience, parts.begin(experience, seed=0))
    assert len(seen) == 4
    assert max(seen) < 1e-10


FEATURES = {
    "teachers": {"stored": "stored"},
    "losses": ["cross_entropy", {"kind": "features", "between": ["student.penultimate@replay", "stored.penultimate"]}],
}


def test_a_scenario_stores_features_within_a_budget_in_bytes(plugins: Plugins, tmp_path: Path) -> None:
    """A digit takes 64 + 32 bytes, its view 8, 16 features 64."""
    result = run(plugins, tmp_path, **FEATURES, memory={"kind": "ring", "size": "2kB", "store": ["penultimate"]})
    assert result["status"] == "finished"
    table = state(tmp_path / "run")["memory"]["table"]
    assert len(table["y"]) == 2000 // (64 + 32 + 8 + 64 + 8)
    assert table["extra.penultimate"].shape == (len(table["y"]), 16)


def test_a_memory_that_is_filled_at_an_experiences_end_stores_a_tap_that_nobody_else_reads(
    plugins: Plugins, tmp_path: Path
) -> None:
    memory = {"kind": "class_balanced", "size": 20, "store": ["logits", "stage1"]}
    assert run(plugins, tmp_path, memory=memory)["status"] == "finished"
    assert state(tmp_path / "run")["memory"]["table"]["extra.stage1"].shape[0] == 20


@pytest.mark.parametrize("memory", [{"kind": "reservoir", "rewrite": 0.75}, {"kind": "class_balanced"}])
@pytest.mark.parametrize("classes", [12, 40])
def test_columns_for_classes_that_the_data_does_not_have_are_not_stored(
    plugins: Plugins, tmp_path: Path, memory: dict[str, Any], classes: int
) -> None:
    changes = {
        "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": {"kind": "fixed", "classes": classes}},
        "teachers": {"stored": "stored"},
        "losses": ["cross_entropy", {"kind": "kd", "between": ["student@replay", "stored@replay"]}],
    }
    result = run(plugins, tmp_path, **changes, memory={**memory, "size": 20, "store": ["logits"]})
    assert result["status"] == "finished"
    assert state(tmp_path / "run")["memory"]["table"]["extra.logits"].shape == (20, 10)


MIR = {"kind": "mir", "candidates": 16}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"memory": {"kind": "none", "retrieval": "mir"}}, "there is no memory to retrieve rows from"),
    ({"memory": {"kind": "ring", "retrieval": MIR}}, "16 candidates leave nothing to choose where 16 rows"),
    ({"memory": {"kind": "ring", "retrieval": {"kind": "mirr"}}}, "did you mean 'mir'"),
    ({"memory": {"kind": "reservoir", "size": 9, "store": ["penultimat"]}}, "did you mean 'penultimate'"),
    ({"memory": {"kind": "class_balanced", "size": 9, "store": ["penultimat"]}}, "did you mean 'penultimate'"),
    ({**FEATURES, "memory": {"kind": "ring", "store": ["logits"]}}, "compares with 'penultimate' of what"),
    (
        {"student": {"model": "mlp", "head": {"kind": "ncm", "rows": "memory"}}, "memory": "none"},
        "rows: memory: there is none to make means of",
    ),
    ({**FEATURES, "memory": "herding"}, "this memory stores nothing"),
]


@pytest.mark.parametrize(("changes", "why"), WRONG, ids=[why for _, why in WRONG])
def test_what_cannot_work_is_refused_before_training(
    plugins: Plugins, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(UserError, match=why):
        run(plugins, tmp_path, **changes)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("kind", [GSS, LossAware])
def test_what_is_only_read_of_the_student_belongs_to_no_view(
    make_student: Callable[[], Student], kind: type[GSS] | type[LossAware]
) -> None:
    drawn = Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=2)
    refuse_lost_views(replay(make_student(), drawn, kind(9)))
    with pytest.raises(UserError, match="every view is drawn anew"):
        refuse_lost_views(replay(make_student(), drawn, kind(9, store=("logits",), class_names=NAMES)))


@pytest.mark.parametrize("kind", [Ring, GSS, LossAware])
def test_a_step_that_offers_rows_never_waits(
    make_student: Callable[[], Student],
    experiences: list[Experience],
    augment: Augment,
    waits: list[str],
    kind: type[Ring] | type[GSS] | type[LossAware],
) -> None:
    """In a first epoch, with retrieval by interference. (`nonzero` is asked of numbers that are drawn on the host.)"""
    parts = replay(make_student(), augment, kind(20))
    parts.retrieval = Mir(12)
    parts.begin(experiences[0], 0)
    step = Step(parts, torch.optim.SGD(list(parts.parameters()), 0.01), Progress(), replay=8, replay_draws=2)
    batches = [experiences[0].train.gather(torch.arange(at, at + 12)) for at in (0, 12, 24, 36)]
    for rows in batches[:2]:
        step(rows, generator(0), generator(1))
    waits.clear()
    for rows in batches[2:]:
        step(rows, generator(0), generator(1))
    assert set(waits) <= {"nonzero"}
    assert len(parts.memory) == 20
