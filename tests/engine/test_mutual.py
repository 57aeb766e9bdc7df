"""Students that teach each other: the same bits as a plain PyTorch loop, and nobody is taught but the first side."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from states import assert_same, state
from torch import Tensor

from clkd.data.augment import Augment
from clkd.engine.compose import Composer
from clkd.engine.execute import execute
from clkd.engine.loop import Loop
from clkd.engine.objective import Objective
from clkd.engine.parts import Parts
from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.experience import Experience, Rows
from clkd.losses.base import Loss
from clkd.losses.classification import CrossEntropy
from clkd.losses.response import KD
from clkd.models.backbones.mlp import MLP
from clkd.models.compiled import Compiled
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.models.taps import Taps
from clkd.optimizers import OptimizerOptions
from clkd.options import Parsing
from clkd.plugins import Plugins
from clkd.ranks import ALONE
from clkd.scenario.document import to_yaml
from clkd.scenario.model import Scenario
from clkd.scenario.request import RunRequest
from clkd.scenario.train import TrainOptions
from clkd.schedules.base import Progress
from clkd.seeding import generator
from clkd.signals import Batch, Signals

RECIPE: dict[str, dict[str, float]] = {"sgd": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}, "adam": {"lr": 1e-2}}
MATE = Side("mate")
STUDENT = Side("student")


@pytest.fixture
def growing(table: tuple[Tensor, Tensor]) -> list[Experience]:
    """Three experiences of two, one and one classes."""
    x, y = table
    made: list[Experience] = []
    for i, classes in enumerate([(0, 1), (2,), (3,)]):
        index = torch.isin(y, torch.tensor(classes)).nonzero().flatten()
        rows = Rows(x, y[index], index, index, domain=0, experience=i)
        known = len(made[-1].seen) if made else 0
        seen = tuple(range(known + len(classes)))
        made.append(Experience(i, classes, seen, rows, rows, rows, f"{i}", 3, known=known))
    return made


def mate() -> Student:
    torch.manual_seed(5)
    return Student(MLP((3, 8, 8), hidden=(12,)), Linear(12), (3, 8, 8))


def mutual() -> list[Term]:
    return [
        Term("ce", CrossEntropy(), (STUDENT,)),
        Term("kd", KD(temperature=1.0), (STUDENT, MATE)),
        Term("ce_mate", CrossEntropy(), (MATE,)),
        Term("kd_mate", KD(temperature=1.0), (MATE, STUDENT)),
    ]


def train(parts: Parts, experiences: list[Experience], kind: str, **options: Any) -> None:
    recipe = TrainOptions(optimizer=OptimizerOptions(kind=kind, **RECIPE[kind]), batch_size=7, epochs=2, **options)
    loop = Loop(parts, recipe, seed=0)
    for experience in experiences:
        loop.train(experience, parts.begin(experience, 0))
        parts.end(experience)


def kl(z: Tensor, v: Tensor) -> Tensor:
    p, q = F.log_softmax(z, 1), F.log_softmax(v, 1)
    return (q.exp() * (q - p)).sum(1).mean()


def plain_loop(
    a: Student, b: Student, experiences: list[Experience], augment: Augment, kind: str, clip: float | None
) -> None:
    """Deep mutual learning as a good engineer would write it: two networks, two optimizers, one forward pass each."""
    for experience in experiences:
        rows = experience.train
        a.grow(experience.classes, experience.index, generator(0, "head", experience.index))
        b.grow(experience.classes, experience.index, generator(0, "head", "mate", experience.index))
        x, y = augment.plain(rows.x)[rows.index], rows.y
        optimizers = [
            {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind](m.parameters(), **RECIPE[kind]) for m in (a, b)
        ]
        for epoch in range(2):
            order = torch.randperm(len(rows), generator=generator(0, "order", experience.index, epoch))
            for at in order.split(7):
                z, v = a(x[at]), b(x[at])
                losses = [F.cross_entropy(z, y[at]) + kl(z, v.detach()), F.cross_entropy(v, y[at]) + kl(v, z.detach())]
                for loss, optimizer, model in zip(losses, optimizers, (a, b), strict=True):
                    optimizer.zero_grad()
                    loss.backward()
                    if clip is not None:
                        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                for optimizer in optimizers:
                    optimizer.step()


def assert_same_weights(a: Student, b: Student) -> None:
    for (name, ours), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_deep_mutual_learning_is_a_plain_loop(
    make_student: Callable[[], Student], growing: list[Experience], augment: Augment, kind: str, clip: float | None
) -> None:
    """Over three experiences, in which both heads grow; a norm is clipped network by network."""
    ours = make_student(), mate()
    train(Parts(ours[0], augment, mutual(), peers={"mate": ours[1]}), growing, kind, clip_norm=clip)
    plain = make_student(), mate()
    plain_loop(*plain, growing, augment, kind, clip)
    for one, other in zip(ours, plain, strict=True):
        assert one.class_ids == (0, 1, 2, 3)
        assert one.born == (0, 0, 1, 2)
        assert_same_weights(one, other)


class Product(Loss):
    """Would send a gradient into both sides."""

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        assert a.logits is not None
        assert b is not None
        assert b.logits is not None
        return (a.logits * b.logits).sum(1)


@pytest.mark.parametrize(("first", "second"), [("student", "mate"), ("mate", "student")])
def test_a_gradient_reaches_the_first_side_only(
    make_student: Callable[[], Student], growing: list[Experience], augment: Augment, first: str, second: str
) -> None:
    for loss in (KD(), Product()):
        parts = Parts(make_student(), augment, [Term("t", loss, (Side(first), Side(second)))], peers={"mate": mate()})
        parts.begin(growing[0], 0)
        batch = growing[0].train.gather(torch.arange(5), torch.device("cpu"))
        batch = batch.seen_as(augment.plain(batch.x))
        value, *_ = Objective(parts, Progress(), ALONE)(batch, batch, {})
        value.backward()
        assert all(p.grad is not None for p in parts.students[first].parameters())
        assert all(p.grad is None for p in parts.students[second].parameters())


@pytest.mark.parametrize("own_view", [False, True])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_peer_that_nobody_learns_from_changes_no_bit_of_the_student(
    make_student: Callable[[], Student], growing: list[Experience], clip: float | None, own_view: bool
) -> None:
    augment = Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=1, flip=True)
    alone, beside = make_student(), make_student()
    train(Parts(alone, augment, mutual()[:1]), growing, "sgd", clip_norm=clip)
    peers = {"mate": mate()}
    terms = [mutual()[0], mutual()[2], mutual()[3]]
    parts = Parts(beside, augment, terms, peers=peers, own_views=("mate",) if own_view else ())
    train(parts, growing, "sgd", clip_norm=clip)
    assert_same_weights(alone, beside)
    assert not torch.equal(peers["mate"].head.weight, mate().head.weight)


def test_a_view_of_its_own_is_another_one(make_student: Callable[[], Student], growing: list[Experience]) -> None:
    augment = Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=2, flip=True)
    mates = []
    for own in ((), ("mate",)):
        mates.append(mate())
        train(Parts(make_student(), augment, mutual(), peers={"mate": mates[-1]}, own_views=own), growing[:1], "sgd")
    assert not torch.equal(mates[0].head.weight, mates[1].head.weight)


BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 3}},
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "peers": {"mate": {"model": {"kind": "mlp", "hidden": [12]}, "head": "linear"}},
    "losses": [
        "cross_entropy",
        {"kind": "kd", "between": ["student", "mate"], "temperature": 1},
        {"kind": "cross_entropy", "between": ["mate"]},
        {"kind": "kd", "between": ["mate", "student"], "temperature": 1},
    ],
    "memory": {"kind": "reservoir", "size": 30},
    "train": {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "adam", "lr": 0.01}, "keep_optimizer": True},
    "tracking": {"mode": "offline"},
}


def run(plugins: Plugins, home: Path, name: str, **changes: Any) -> Path:
    scenario = home / f"{name}.yaml"
    scenario.write_text(to_yaml({**BASE, **changes, "output": str(home / name)}))
    execute(RunRequest(scenario=scenario, quiet=True), plugins)
    return home / name


def compose(plugins: Plugins, home: Path, **changes: Any) -> Parts:
    scenario = Scenario.model_validate({**BASE, **changes}, context=Parsing(plugins.registry))
    return Composer(scenario, plugins.registry, torch.device("cpu"), home, home).compose().parts


def compose_stream(plugins: Plugins, home: Path) -> list[Experience]:
    scenario = Scenario.model_validate(BASE, context=Parsing(plugins.registry))
    return Composer(scenario, plugins.registry, torch.device("cpu"), home, home).material().stream[:2]


def events(run: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "experience"]


def test_a_peers_accuracy_is_logged_after_each_experience(plugins: Plugins, tmp_path: Path) -> None:
    """A peer that is the student's twin scores what the student would as a peer's twin."""
    told = events(run(plugins, tmp_path, "both"))
    for i, line in enumerate(told):
        found = {name: value for name, value in line["metrics"].items() if name.startswith("peers/mate/")}
        shares = [found.pop(f"peers/mate/exp_{j:02d}") for j in range(i + 1)]
        assert found == {"peers/mate/average_accuracy": pytest.approx(sum(shares) / len(shares))}
    twins = {"a": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"}}
    losses = ["cross_entropy", {"kind": "cross_entropy", "between": ["a"]}]
    twin = events(run(plugins, tmp_path, "twin", peers=twins, losses=losses))
    assert twin[-1]["metrics"]["peers/a/average_accuracy"] > 0.5
    assert twin[-1]["metrics"]["peers/a/exp_00"] != twin[-1]["metrics"]["acc_matrix/exp_00"], "it starts elsewhere"


def test_a_fork_without_changes_ends_as_its_origin_did(plugins: Plugins, tmp_path: Path) -> None:
    origin = run(plugins, tmp_path, "origin")
    fork(plugins, f"{origin}@0", tmp_path / "fork")
    assert_same(state(tmp_path / "fork"), state(origin))


def fork(plugins: Plugins, origin: str, place: Path, *settings: str) -> None:
    execute(RunRequest(origin=origin, overrides=(f"output={place}", *settings), quiet=True), plugins)


def test_in_a_fork_a_new_peer_has_room_for_what_came_before_and_the_old_one_stays(
    plugins: Plugins, tmp_path: Path
) -> None:
    origin = run(plugins, tmp_path, "origin")
    third = "peers.third={model: {kind: mlp, hidden: [9]}, head: linear}"
    losses = json.dumps([*BASE["losses"], {"kind": "cross_entropy", "between": ["third"]}])
    fork(plugins, f"{origin}@1", tmp_path / "fork", third, f"losses={losses}")
    before, begun = state(origin, "exp_001"), state(tmp_path / "fork", "exp_001")
    assert_same(begun["student"], before["student"])
    assert_same(begun["peers"]["mate"], before["peers"]["mate"])
    assert begun["peers"]["third"]["layout"] == before["peers"]["mate"]["layout"]
    with pytest.raises(UserError, match=r"peers\.mate: the origin's is another one"):
        fork(plugins, f"{origin}@1", tmp_path / "other", "peers.mate.model={kind: mlp, hidden: [13]}")


def test_a_previous_self_may_be_a_peers(plugins: Plugins, tmp_path: Path) -> None:
    teachers = {"before": {"kind": "previous", "of": "mate"}, "slow": {"kind": "ema", "of": "mate", "decay": 0.5}}
    own = [{"kind": "kd", "between": ["mate", name]} for name in teachers]
    parts = compose(plugins, tmp_path, teachers=teachers, losses=[*BASE["losses"], *own])
    assert {term.name for term in parts.terms} >= {"kd_mate", "kd_mate_student", "kd_mate_before", "kd_mate_slow"}
    done = run(plugins, tmp_path, "run", teachers=teachers, losses=[*BASE["losses"], *own])
    last = state(done)
    assert_same(last["teachers"]["before"]["state"], last["peers"]["mate"]["state"])
    assert last["teachers"]["slow"]["state"]["head.weight"].shape == (10, 12)


def test_switches_for_speed_reach_peers(plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = {**BASE["train"], "precision": "bf16", "compile": "reduce-overhead"}
    parts = compose(plugins, tmp_path, train=train)
    for student in parts.students.values():
        assert student.autocast is torch.bfloat16
        assert isinstance(student.runner, Compiled)
    # A second mark within a step would give away what the first network needs for its backward pass.
    marks: list[None] = []
    monkeypatch.setattr("clkd.models.compiled._compiled", lambda mode, backend: Taps.run)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(None))
    done = run(plugins, tmp_path, "run", train=train)
    assert len(marks) == state(done)["run"]["step"]


MAPS = ("attention", "features", "fitnet", "less_forget", "mgd", "nst", "ofd", "pod", "vid")
BORROWERS = ("simkd", "srrl")
ALIKE = ("less_forget", "pod")
"""They have no projector, so both students are of one width."""


@pytest.mark.slow
def test_every_loss_between_two_models_works_between_students(plugins: Plugins, tmp_path: Path) -> None:
    """It can be bound and trained by, in a stream whose heads grow; a number that is none would stop it."""
    names = [n for n in plugins.registry.names("losses") if n not in BORROWERS]
    pairs = [n for n in names if getattr(plugins.registry.get("losses", n).options, "sides", None) == 2]
    assert {"kd", "relation", "crd", *MAPS} <= set(pairs)
    stream = compose_stream(plugins, tmp_path)
    networks = [{"model": {"kind": "resnet8", "width": width}, "head": "linear"} for width in (3, 4)]
    for name in pairs:
        sides = [f"{side}.stage3" if name in MAPS else side for side in ("mate", "student")]
        losses = ["cross_entropy", {"kind": "cross_entropy", "between": ["mate"]}, {"kind": name, "between": sides}]
        mate = networks[0] if name in ALIKE else networks[1]
        parts = compose(plugins, tmp_path, student=networks[0], peers={"mate": mate}, losses=losses)
        loop = Loop(parts, TrainOptions(optimizer=OptimizerOptions(kind="sgd", lr=0.01)), 0, limit_batches=2)
        for experience in stream:
            loop.train(experience, parts.begin(experience, 0))
            parts.end(experience)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a borrowed last layer": (
        {"losses": [*BASE["losses"], {"kind": "srrl", "between": ["student", "mate"]}]},
        "works with the last layer of its teacher, and 'mate' has none to lend",
    ),
    "a fixed view of its own": (
        {"peers": {"mate": {**BASE["peers"]["mate"], "own_view": True}}},
        "peers.mate.own_view: a view of its own is a random one",
    ),
    "a peer with nothing to learn in the first experience": (
        {
            "teachers": {"previous": {"kind": "previous", "of": "mate"}},
            "losses": [*BASE["losses"][:2], {"kind": "kd", "between": ["mate", "previous"]}],
        },
        "none has anything to say to mate in experience 0",
    ),
    "a head that cannot grow so": (
        {"peers": {"mate": {**BASE["peers"]["mate"], "head": {"kind": "fixed", "classes": 4}}}},
        "the head 'fixed' has 4 classes",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_work_is_refused_before_training(plugins: Plugins, tmp_path: Path, what: str) -> None:
    changes, said = REFUSED[what]
    with pytest.raises(UserError, match=said):
        compose(plugins, tmp_path, **changes)


def test_an_ensemble_hears_students_as_they_speak(plugins: Plugins, tmp_path: Path) -> None:
    """Its target is the mean of what both say of the batch under way; neither gets a gradient through it."""
    both = {"kind": "ensemble", "members": ["student", "mate"], "mean": "logits"}
    losses = [
        {"kind": "kd", "between": ["student", "both"], "variant": "mse"},
        {"kind": "cross_entropy", "between": ["mate"], "weight": 0.0},
    ]
    parts = compose(plugins, tmp_path, teachers={"both": both}, losses=losses, memory="none")
    rows = Batch(*([torch.zeros(4, 1, 8, 8)] + [torch.tensor([0, 1, 2, 1])] * 4), new=4)  # type: ignore[arg-type]
    for name, student in parts.students.items():
        student.grow((0, 1, 2), 0, generator(0, name))
    parts.teachers["both"].begin(None, parts.student)  # type: ignore[arg-type]  # it looks at neither
    for term in parts.terms:
        term.bind(parts.spec)
    objective = Objective(parts, Progress(), ALONE)
    value, *_ = objective(rows, rows, {})
    z, v = (copy.deepcopy(student)(rows.x) for student in parts.students.values())
    torch.testing.assert_close(value, (z - (z + v).detach() / 2).square().mean())
    value.backward()
    assert parts.student.head.weight.grad is not None
    assert not parts.peers["mate"].head.weight.grad.any()  # type: ignore[union-attr]  # a weight of 0 gives zeros
