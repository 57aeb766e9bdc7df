"""Rows without a label in training: nothing of the hidden labels leaks, memories skip them, and nothing waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from states import assert_same, state

from clkd.data.augment import Augment
from clkd.data.strong import Strong
from clkd.engine.batches import named
from clkd.engine.compose import Composer
from clkd.engine.evaluate import evaluate
from clkd.engine.execute import execute
from clkd.engine.explain import explain, text
from clkd.engine.parts import Parts
from clkd.engine.step import Step
from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.losses.adversarial import Adversarial
from clkd.losses.classification import CrossEntropy
from clkd.losses.pseudo_label import HardLabel
from clkd.losses.response import KD
from clkd.memory.reservoir import Reservoir
from clkd.models.student import Student
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import ScenarioErrors, load
from clkd.scenario.request import RunRequest
from clkd.schedules.base import Progress
from clkd.seeding import generator
from clkd.signals import Batch, Needs, Signals
from clkd.teachers.ema import Ema
from clkd.teachers.ensemble import Ensemble
from clkd.teachers.network import NetworkTeacher
from clkd.teachers.previous import Previous

SCENARIO: dict[str, Any] = {
    "name": "few",
    "stream": {
        "dataset": {"name": "digits", "rows_per_class": 30},
        "split": {"by": "class", "experiences": 5},
        "labelled": 0.2,
        "augment": {"crop": 1, "strong": {"rotate": 20, "cutout": 2, "rows": "unlabelled"}},
    },
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "teachers": {"slow": {"kind": "ema", "decay": 0.9, "sees": "weak"}, "previous": "previous"},
    "losses": [
        "cross_entropy",
        {"kind": "hard", "between": ["student", "slow"], "rows": "unlabelled", "threshold": 0.8},
        {"kind": "kd", "between": ["student", "previous"]},
        {"kind": "adversarial", "between": ["student", "previous"], "weight": 0.1, "if_undefined": "skip"},
    ],
    "memory": {"kind": "reservoir", "size": 12},
    "train": {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "off"},
}


def write(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    path = folder / "few.yaml"
    path.write_text(to_yaml({**SCENARIO, **(changes or {})}))
    return path


def run(folder: Path, name: str = "run", changes: dict[str, Any] | None = None, **request: Any) -> Path:
    output = folder / name
    scenario = write(folder, {**(changes or {}), "output": str(output)})
    execute(RunRequest(scenario=scenario, quiet=True, **request), load_plugins())
    return output


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line)["metrics"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_with_the_same_labels_and_bits(tmp_path: Path) -> None:
    whole = run(tmp_path, "whole")
    part = run(tmp_path, "part", limit_experiences=2)
    execute(RunRequest(resume=str(part), quiet=True), load_plugins())
    assert_same(state(whole), state(part))


def composed(folder: Path, changes: dict[str, Any] | None = None) -> Any:
    registry = load_plugins().registry
    loaded = load(write(folder, changes), (), registry)
    (folder / "cache").mkdir(exist_ok=True)
    return Composer(loaded.scenario, registry, torch.device("cpu"), folder / "cache", folder)


def test_a_teacher_that_is_fitted_is_told_only_the_labels_that_the_student_is(tmp_path: Path) -> None:
    stream = {**SCENARIO["stream"], "split": {"by": "class", "experiences": 5, "validation": 0.2}}
    ground = composed(tmp_path, {"stream": stream}).ground()
    material, context = ground.material, ground.context
    told = context.train.y
    rows = torch.cat([e.train.sample_id[e.train.y >= 0] for e in material.stream])
    assert set((told >= 0).nonzero().flatten().tolist()) == set(rows.tolist())
    assert torch.equal(told[told >= 0], material.store.train.y[told >= 0])
    assert int((told >= 0).sum()) == 50, "a fifth of 24 rows of each class, validation left out"
    other = composed(tmp_path, {"stream": {**stream, "labelled": 1.0}}).ground().context
    assert other.data_fingerprint != context.data_fingerprint
    assert context.data_fingerprint.startswith(other.data_fingerprint)
    assert torch.equal(other.train.y, material.store.train.y)


def test_hidden_labels_are_nowhere_that_learning_looks(tmp_path: Path) -> None:
    """With other true labels behind the hidden ones, a run ends with the same bits, its fitted teacher included."""
    x, y = (load_digits().images[:300] * 15).astype(np.uint8), load_digits().target[:300]
    # Rows with a large number lose their label whatever it is, so theirs can be mixed up.
    key = torch.rand(300, generator=generator(0, "labelled", 0), dtype=torch.float64)
    lost = np.flatnonzero(key.numpy() > 0.5)
    mixed = y.copy()
    mixed[lost] = mixed[np.roll(lost, 1)]
    assert (mixed != y).sum() > 100
    big = {"kind": "fit", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 2}
    losses = ["cross_entropy", {"kind": "kd", "between": ["student", "big"]}]
    runs = []
    for name, labels in (("true", y), ("mixed", mixed)):
        folder = tmp_path / name
        folder.mkdir()
        np.savez(folder / "a.npz", x_train=x, y_train=labels, x_test=x, y_test=y)
        data = {"dataset": {"name": "arrays", "path": "a.npz"}, "split": {"by": "data", "experiences": 1}}
        stream = {**data, "labelled": 0.2, "augment": {"crop": 1}}
        runs.append(state(run(folder, "run", {"stream": stream, "teachers": {"big": big}, "losses": losses})))
    assert_same(*runs)


def test_answers_in_the_cache_serve_whatever_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "big.pt"
    maker = composed(tmp_path)
    part = maker.registry.parse("models", {"kind": "mlp", "hidden": [8]})
    torch.save(maker.ground().context.network(part, tuple(range(10)), 0).state_dict(), weights)
    big = {"kind": "checkpoint", "path": str(weights), "model": {"kind": "mlp", "hidden": [8]}}
    losses = ["cross_entropy", {"kind": "kd", "between": ["student", "big"]}]
    asked = []
    for labelled in (1.0, 0.1):
        stream = {**SCENARIO["stream"], "labelled": labelled, "augment": "none"}
        changes = {"stream": stream, "teachers": {"big": big}, "losses": losses}
        told = metrics(run(tmp_path, f"run{labelled}", changes, limit_experiences=2))
        asked.append([m["teacher_cache/big/rows_asked"] for m in told if "teacher_cache/big/rows_asked" in m])
    assert sum(asked[0]) > 0
    assert sum(asked[1]) == 0, asked


@pytest.mark.parametrize("keeps", [False, True])
def test_a_memory_is_offered_rows_without_a_label_only_if_it_says_so(tmp_path: Path, keeps: bool) -> None:
    memory = {"kind": "reservoir", "size": 40, "unlabelled": keeps}
    made = run(tmp_path, changes={"memory": memory}, limit_experiences=2)
    saved = state(made)["memory"]
    nameless = int((saved["table"]["y"] < 0).sum())
    assert saved["seen"] == (120 if keeps else 24)
    assert len(saved["table"]["y"]) == (40 if keeps else 24)
    assert (nameless > 20) == keeps
    last = [m for m in metrics(made) if "memory/rows" in m][-1]
    classes = sum(count for name, count in last.items() if name.startswith("memory_classes/"))
    assert classes + last.get("memory/unlabelled", 0) == last["memory/rows"]
    assert last.get("memory/unlabelled", 0) == nameless


def test_class_balanced_never_files_them(tmp_path: Path) -> None:
    made = run(tmp_path, changes={"memory": {"kind": "class_balanced", "size": 12}}, limit_experiences=2)
    y = state(made)["memory"]["table"]["y"]
    assert torch.bincount(y).tolist() == [3, 3, 3, 3]
    with pytest.raises(ScenarioErrors, match="unknown key"):
        composed(tmp_path, {"memory": {"kind": "class_balanced", "size": 12, "unlabelled": True}})


def test_the_memory_of_an_evenly_labelled_stream_is_what_it_was() -> None:
    """Where all rows have labels, offering is the identity."""
    i = torch.arange(4)
    batch, said = Batch(i, i, i, i, i, new=4), Signals(i[:, None].float(), i[:1])
    assert all(a is b for a, b in zip(Reservoir(4).eligible(batch, said), (batch, said), strict=True))
    some, told = Reservoir(4).eligible(replace(batch, labelled=torch.tensor([1, 3])), said)
    assert (some.y.tolist(), told.logits.flatten().tolist(), some.new) == ([1, 3], [1.0, 3.0], 2)
    parts = list(named([batch.rows(0, 2), batch.rows(2, 4)], torch.tensor([True, False, False, True]), i, 2))
    assert [each.labelled.tolist() for each in parts] == [[0], [1]]


@pytest.fixture
def half(experiences: list[Experience]) -> list[Experience]:
    """Every other training row has no label."""
    return [
        replace(e, train=replace(e.train, y=torch.where(torch.arange(len(e.train)) % 2 == 0, e.train.y, -1)))
        for e in experiences
    ]


@pytest.fixture
def step(make_student: Callable[[], Student], half: list[Experience]) -> tuple[Step, Experience]:
    """A step with all that this adds, in the second experience."""
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    strong = Strong(mean, std, 20.0, 0.2, 0.2, 2, 0.1, "unlabelled")
    ema, previous = Ema(0.9), Previous()
    ema.sees = "weak"
    sides = Side("student"), Side("ema")
    terms = [
        Term("ce", CrossEntropy(), (Side("student"),)),
        Term("hard", HardLabel(0.3, rows="unlabelled"), sides),
        Term("kd", KD(min_confidence=0.3), sides),
        Term("adversarial", Adversarial(), (Side("student"), Side("previous"))),
        Term("layers", Adversarial(), (Side("student", "penultimate"), Side("previous", "penultimate"))),
    ]
    augment = Augment(mean, std, crop=2, flip=True, strong=strong)
    parts = Parts(make_student(), augment, terms, {"ema": ema, "previous": previous}, Reservoir(size=8))
    parts.student.request(("penultimate",))
    parts.begin(half[0], 0)
    first = Step(parts, torch.optim.SGD(list(parts.parameters()), 0.01), Progress(), replay=8)
    rows = half[0].train.gather(torch.arange(16))
    first(replace(rows, labelled=(rows.y >= 0).nonzero().flatten()), generator(0), generator(1))
    assert len(parts.memory) == 8
    assert int(parts.memory.table.columns["y"].min()) >= 0
    parts.end(half[0])
    parts.begin(half[1], 0)
    progress = Progress(experience=1, experiences=2, old_classes=2, seen_classes=4, epoch=1)
    made = Step(parts, torch.optim.SGD(list(parts.parameters()), 0.01), progress, replay=8)
    made(half[1].train.gather(torch.arange(16)), generator(0), generator(1))
    return made, half[1]


def test_the_step_never_waits(step: tuple[Step, Experience], waits: list[str]) -> None:
    made, experience = step
    rows, draws, noise = experience.train.gather(torch.arange(16)), generator(0), generator(1)
    waits.clear()
    values = made(rows, draws, noise)
    assert waits == []
    assert set(values) == {"loss", "ce", "hard", "kd", "adversarial", "layers"}


def test_offering_waits_for_nothing(waits: list[str]) -> None:
    i = torch.arange(6)
    batch, said = Batch(i, i, i, i, i, new=6, labelled=i[::2]), Signals(i[:, None].float(), i[:1])
    waits.clear()
    Reservoir(4).eligible(batch, said)
    assert waits == []


def test_a_batch_without_labels_trains_by_distillation_alone(step: tuple[Step, Experience]) -> None:
    made, experience = step
    rows = experience.train.gather(torch.arange(1, 32, 2))
    assert int(rows.y.max()) == -1
    made.parts.memory = type(made.parts.memory)(size=8)  # nothing is replayed
    values = made(rows, generator(0), generator(1))
    assert float(values["ce"]) == 0
    assert all(torch.isfinite(value) for value in values.values())


class Noting(NetworkTeacher):
    """Notes what it is shown."""

    frozen = False

    def __init__(self, sees: str) -> None:
        super().__init__()
        self.sees, self.shown = sees, []

    @property
    def ready(self) -> bool:
        return True

    def begin(self, experience: Experience, student: Student) -> None:
        self.network = student.frozen_copy()

    def signals(self, batch: Batch, needs: Needs) -> Signals:
        self.shown.append(batch)
        return super().signals(batch, needs)


def test_a_teacher_sees_the_view_it_asks_for_and_so_do_members(
    make_student: Callable[[], Student], half: list[Experience]
) -> None:
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    augment = Augment(mean, std, crop=2, strong=Strong(mean, std, noise=1.0))
    weak, same, member = Noting("weak"), Noting("student"), Noting("weak")
    both = Ensemble(("weak", "member"), {"weak": same, "member": member})
    teachers = {"weak": weak, "same": same, "member": member, "both": both}
    terms = [Term(name, KD(), (Side("student"), Side(name))) for name in ("weak", "same", "both")]
    parts = Parts(make_student(), augment, terms, teachers)
    parts.begin(half[0], 0)
    step = Step(parts, torch.optim.SGD(list(parts.parameters()), 0.0), Progress(epoch=1), replay=0)
    rows = half[0].train.gather(torch.arange(8))
    step(rows, generator(0), generator(1))
    plain = Augment(mean, std, crop=2).look(rows, generator(1), 1).x
    assert torch.equal(weak.shown[0].x, plain)
    assert torch.equal(member.shown[0].x, plain)
    assert all(not torch.equal(each.x, plain) for each in same.shown)


def test_only_who_sees_a_fixed_view_is_recalled(make_student: Callable[[], Student], half: list[Experience]) -> None:
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    for sees, asked in (("weak", 48), ("student", 0)):
        augment = Augment(mean, std, strong=Strong(mean, std, noise=1.0))
        teacher = Noting(sees)
        teacher.frozen = True
        foretold: list[Batch] = []
        teacher.foresee = lambda rows, needs, kept=foretold: kept.extend(rows)  # type: ignore[method-assign]
        terms = [Term("kd", KD(), (Side("student"), Side("t")))]
        Parts(make_student(), augment, terms, {"t": teacher}).begin(half[0], 0)
        assert sum(map(len, foretold)) == asked


def test_evaluation_is_over_rows_with_labels(make_student: Callable[[], Student], half: list[Experience]) -> None:
    student = make_student()
    student.grow((0, 1), 0, generator(0))
    augment = Augment(torch.full((3,), 0.5), torch.full((3,), 0.25))
    found = evaluate(student, half[:1], augment, 16, 4)
    assert int(found.confusion.sum()) == len(half[0].test)


def test_an_ensemble_by_class_lets_all_members_speak_of_rows_without_a_label(
    make_student: Callable[[], Student], half: list[Experience]
) -> None:
    members = {"old": Noting("student"), "new": Noting("student")}
    student = make_student()
    for name, experience in zip(members, half, strict=True):
        student.grow(experience.classes, experience.index, generator(0))
        members[name].begin(experience, student)
    both = Ensemble(("old", "new"), members, by="class")
    rows = half[0].train.gather(torch.arange(4))
    said = both.signals(replace(rows, x=rows.x.float() / 255), Needs())
    assert said.valid.tolist() == [True, False, True, False]
    assert said.known[1].tolist() == [True, True, False, False], "the classes that all of them know"


def test_explain_and_validate_know_them(tmp_path: Path) -> None:
    plugins = load_plugins()
    told = explain(load(write(tmp_path), (), plugins.registry), plugins)
    first = told["experiences"][0]
    assert (first["unlabelled"], first["rows"]) == (48, 60)
    said = text(told)
    assert "48 of 60 rows have no label" in said
    assert "slow sees the student's view before it is made strong" in said
    assert "new parameters: adversarial_previous.discriminator" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stream": {**SCENARIO["stream"], "labelled": 0}}, "labelled: give a share above 0 and up to 1"),
        ({"stream": {**SCENARIO["stream"], "augment": "none"}}, "teachers.slow.sees: there is no other view"),
        ({"stream": {**SCENARIO["stream"], "augment": {"strong": {"rows": "all"}}}}, "a strong view changes something"),
        ({"losses": [{"kind": "adversarial", "between": ["student", "slow"], "reversal": -1}]}, "give 0 or more"),
    ],
)
def test_mistakes_are_found_in_the_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    if "losses" in changes:
        changes = {**changes, "teachers": {"slow": SCENARIO["teachers"]["slow"]}}
    with pytest.raises(ScenarioErrors, match=message):
        load(write(tmp_path, changes), (), load_plugins().registry)


def test_stored_logits_need_a_view_that_comes_again(tmp_path: Path) -> None:
    memory = {"kind": "reservoir", "size": 12, "store": ["logits"]}
    with pytest.raises(UserError, match="a strong view is drawn anew"):
        composed(tmp_path, {"memory": memory}).compose()


def test_a_loss_of_labels_is_no_silent_zero_where_labels_are_rare(tmp_path: Path) -> None:
    """One labelled row of each class among sixty: the rehearsal looks at those, too."""
    stream = {**SCENARIO["stream"], "labelled": 0.01, "split": {"by": "class", "experiences": 2}}
    losses = ["cross_entropy", {"kind": "dkd", "between": ["student", "slow"]}]
    made = {"stream": stream, "losses": losses, "teachers": {"slow": {"kind": "ema", "sees": "weak"}}}
    assert len(composed(tmp_path, made).compose().stream) == 2


def test_losses_are_told_the_labels_that_are_coming(
    make_student: Callable[[], Student], experiences: list[Experience], augment: Augment
) -> None:
    """Those of the rows and of what memory keeps; nothing where it may give rows without one."""
    memory = Reservoir(8)
    parts = Parts(make_student(), augment, [Term("ce", CrossEntropy(), (Side("student"),))], memory=memory)
    first, second = experiences
    parts.begin(first, 0)
    assert parts.labels(first.train) == set(first.classes)
    memory.observe(first.train.gather(torch.arange(8)), Signals(None, torch.arange(4)))
    assert parts.labels(second.train) == set(second.classes) | set(memory.histogram())
    hidden = replace(second.train, y=torch.where(torch.arange(len(second.train)) < 3, -1, second.train.y))
    assert -1 in (parts.labels(hidden) or ())
    memory.unlabelled = True
    assert parts.labels(second.train) is None
