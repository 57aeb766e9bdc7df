"""Regularisers and gradient policies in real steps, against plain PyTorch loops."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from states import assert_same, state
from torch import Tensor, nn

from clkd.data.augment import Augment
from clkd.engine.execute import execute
from clkd.engine.loop import Loop
from clkd.engine.parts import Parts
from clkd.engine.penalties import Penalties
from clkd.engine.projection import Projection
from clkd.engine.rehearse import rehearse
from clkd.engine.step import Step
from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.gradients.agem import AGEM
from clkd.gradients.base import GradientPolicy
from clkd.gradients.gem import GEM
from clkd.losses.classification import CrossEntropy
from clkd.losses.ewc import EWC
from clkd.losses.response import KD
from clkd.losses.si import SI
from clkd.memory.base import Memory
from clkd.memory.random import Random
from clkd.models.student import Student
from clkd.optimizers import OptimizerOptions
from clkd.plugins import Plugins
from clkd.ranks import Ranks
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest
from clkd.scenario.train import TrainOptions
from clkd.schedules.adaptive import Confidence
from clkd.schedules.base import Progress
from clkd.seeding import generator
from clkd.signals import Batch, Signals
from clkd.teachers.previous import Previous

Make = Callable[[], Student]


class Kept(Memory):
    """Replays every other row of what is over, and a few of what is under way."""

    def __init__(self, experiences: list[Experience]) -> None:
        self.experiences, self.now = experiences, 0

    def sample(self, n: int, generator: torch.Generator) -> Batch | None:
        draws = [e.train.gather(torch.arange(0, 48, 2)) for e in self.experiences[: self.now]]
        draws.append(self.experiences[self.now].train.gather(torch.arange(5)))
        return Batch(**_columns(draws), new=0)

    def end(self, experience: Experience, student: Student) -> None:
        self.now = experience.index + 1


def _columns(batches: list[Batch]) -> dict[str, Tensor]:
    names = ("x", "y", "sample_id", "domain", "experience")
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}


@pytest.fixture
def three(table: tuple[Tensor, Tensor], experiences: list[Experience]) -> list[Experience]:
    """The rows of two classes, those of the two others, and the first two again as a third experience."""
    rows = replace(experiences[0].train, experience=2)
    return [*experiences, Experience(2, (0, 1), (0, 1, 2, 3), rows, rows, rows, "again", 3, known=4)]


def trained(
    student: Student,
    experiences: list[Experience],
    augment: Augment,
    *terms: Term,
    policy: GradientPolicy | None = None,
    **options: Any,
) -> Parts:
    losses = [Term("ce", CrossEntropy(), (Side("student"),)), *terms]
    teachers = {"previous": Previous()} if any(term.teacher for term in terms) else {}
    memory = Kept(experiences) if policy else Memory()
    parts = Parts(student, augment, losses, teachers, memory, gradient=policy)
    recipe = {"epochs": 2, "batch_size": 16, "clip_norm": 1.0, **options}
    optimizer = OptimizerOptions(kind="sgd", lr=0.05, momentum=0.9)
    loop = Loop(parts, TrainOptions(optimizer=optimizer, **recipe), seed=0)
    for experience in experiences:
        loop.train(experience, parts.begin(experience, seed=0))
        parts.end(experience)
    return parts


def batches(experience: Experience, augment: Augment) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in range(2):
        order = torch.randperm(len(experience.train), generator=generator(0, "order", experience.index, epoch))
        for at in order.split(16):
            batch = experience.train.gather(at)
            yield augment.plain(batch.x), batch.y


def grown(student: Student, experience: Experience) -> torch.optim.Optimizer:
    student.grow(experience.classes, experience.index, generator(0, "head", experience.index))
    return torch.optim.SGD(student.parameters(), 0.05, momentum=0.9)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


def test_without_a_past_they_change_not_a_bit(
    make_student: Make, experiences: list[Experience], augment: Augment
) -> None:
    plain = trained(make_student(), experiences[:1], augment)
    held = [Term("ewc", EWC(), (Side("student"),), 1e3), Term("si", SI(), (Side("student"),), 1e3)]
    ours = trained(make_student(), experiences[:1], augment, *held)
    projected = trained(make_student(), experiences[:1], augment, policy=AGEM())
    assert same(ours.student, plain.student)
    assert same(projected.student, plain.student), "rows of the experience under way are no past"
    step = Step(plain, torch.optim.SGD(list(plain.parameters()), 0.1), Progress(), replay=1)
    assert (step.penalties, step.projection) == (None, None)


def test_ewc_trains_as_a_plain_loop_does(make_student: Make, three: list[Experience], augment: Augment) -> None:
    ours = trained(make_student(), three, augment, Term("ewc", EWC(), (Side("student"),), 20.0))
    plain, past = make_student(), []
    for experience in three:
        optimizer = grown(plain, experience)
        for x, y in batches(experience, augment):
            loss = F.cross_entropy(plain(x), y)
            for importance, anchor in past:
                for name, p in plain.named_parameters():
                    p = p[: len(anchor[name])] if name.startswith("head") else p
                    loss = loss + 20.0 * 0.5 * (importance[name] * (p - anchor[name]).square()).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
        past.append((fisher(plain, experience, augment), {n: p.detach().clone() for n, p in plain.named_parameters()}))
    for (name, a), b in zip(ours.student.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)
    free = trained(make_student(), three, augment)
    assert not torch.allclose(free.student.head.weight, ours.student.head.weight, rtol=1e-2), "it made a difference"


def fisher(model: nn.Module, experience: Experience, augment: Augment) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    total = [torch.zeros_like(p) for p in parameters]
    rows = experience.train.gather(torch.arange(len(experience.train)))
    for row in augment.plain(rows.x):
        logits = model(row[None])[0]
        for c, p in enumerate(logits.softmax(0).tolist()):
            found = torch.autograd.grad(logits.log_softmax(0)[c], parameters, retain_graph=True)
            total = [t + p * g.square() for t, g in zip(total, found, strict=True)]
    return {name: t / len(rows) for name, t in zip(names, total, strict=True)}


def past_gradients(
    plain: Student, teacher: Student | None, three: list[Experience], index: int, augment: Augment, apart: bool
) -> list[Tensor]:
    kept = [e.train.gather(torch.arange(0, 48, 2)) for e in three[:index]]
    groups = [[batch] for batch in kept] if apart else [kept] * bool(kept)
    return [vector(plain, objective(plain, teacher, **_looked_at(group, augment))) for group in groups]


def _looked_at(group: list[Batch], augment: Augment) -> dict[str, Tensor]:
    columns = _columns(group)
    return {"x": augment.plain(columns["x"]), "y": columns["y"]}


def objective(plain: Student, teacher: Student | None, x: Tensor, y: Tensor) -> Tensor:
    z = plain(x)
    loss = F.cross_entropy(z, y)
    if teacher is None:
        return loss
    v = teacher(x).detach()
    common = z[:, : v.shape[1]]
    return loss + 0.5 * (4 * F.kl_div((common / 2).log_softmax(1), (v / 2).softmax(1), reduction="none").sum(1)).mean()


def vector(plain: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(plain.parameters()))])


@pytest.mark.parametrize("policy", [AGEM(), GEM()], ids=["agem", "gem"])
def test_a_policy_trains_as_a_plain_loop_does_beside_distillation_and_clipping(
    make_student: Make, three: list[Experience], augment: Augment, policy: GradientPolicy
) -> None:
    kd = Term("kd", KD(), (Side("student"), Side("previous")), 0.5)
    ours = trained(make_student(), three, augment, kd, policy=policy)
    plain, teacher, projected, steps = make_student(), None, 0, 0
    for experience in three:
        optimizer = grown(plain, experience)
        for x, y in batches(experience, augment):
            references = past_gradients(plain, teacher, three, experience.index, augment, policy.per_experience)
            g = vector(plain, objective(plain, teacher, x, y))
            z = policy(g, torch.stack(references)) if references else g
            if policy.per_experience and references:
                assert min(float(r @ z / (r.norm() * g.norm())) for r in references) > -1e-6
            projected, steps = projected + (not torch.equal(z, g)), steps + 1
            pieces = z.split([p.numel() for p in plain.parameters()])
            for p, piece in zip(plain.parameters(), pieces, strict=True):
                p.grad = piece.view_as(p).clone()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
        teacher = plain.frozen_copy()
    assert 0 < projected < steps
    for (name, a), b in zip(ours.student.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)


class Follow(GradientPolicy):
    """The past alone."""

    def __call__(self, gradient: Tensor, references: Tensor) -> Tensor:
        return references[0]


def test_a_parameter_that_new_rows_say_nothing_of_is_changed_for_the_pasts_sake(
    make_student: Make, experiences: list[Experience], augment: Augment
) -> None:
    """Avalanche and Mammoth leave out every parameter without a gradient, and with it a part of the projection."""
    student = make_student()
    parts = Parts(student, augment, [Term("ce", CrossEntropy(), (Side("student"),))], gradient=Follow())
    parts.begin(experiences[0], 0)
    optimizer = torch.optim.SGD(list(parts.parameters()), 0.1)
    projection = Projection.of(parts, nn.Module(), optimizer, Progress(experience=1), Ranks())
    assert projection is not None
    student.head.weight.grad = torch.zeros_like(student.head.weight)
    numbers = sum(p.numel() for p in student.parameters())
    projection.references, projection.losses = [torch.arange(float(numbers))], [torch.zeros(())]
    projection.project()
    made = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    assert torch.equal(made, torch.arange(float(numbers)))


def test_rehearsal_looks_at_no_rows(
    make_student: Make, experiences: list[Experience], augment: Augment, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(make_student(), augment, [Term("ce", CrossEntropy(), (Side("student"),))])
    parts.terms.append(Term("ewc", EWC(), (Side("student"),)))
    monkeypatch.setattr(EWC, "review", lambda *args: pytest.fail("asked for rows"))
    assert len(list(rehearse(parts, experiences))) == 2


def test_the_rows_of_a_review_are_plain_and_in_the_datas_order(
    make_student: Make, experiences: list[Experience]
) -> None:
    seen: list[Batch] = []

    class Witness(EWC):
        def review(self, rows: Iterator[Batch], experience: Experience, student: Student) -> None:
            assert not student.training
            seen.extend(rows)

    augment = Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=2, flip=True)
    trained(make_student(), experiences[:1], augment, Term("w", Witness(), (Side("student"),)))
    rows = experiences[0].train
    assert torch.cat([batch.sample_id for batch in seen]).tolist() == rows.sample_id.tolist()
    assert torch.equal(torch.cat([batch.x for batch in seen]), augment.plain(rows.gather(torch.arange(48)).x))


def test_a_weight_that_reads_answers_is_refused_between_processes(
    make_student: Make, experiences: list[Experience], augment: Augment
) -> None:
    parts = Parts(make_student(), augment, [Term("ewc", EWC(), (Side("student"),), Confidence())])
    parts.begin(experiences[0], 0)
    with pytest.raises(UserError, match="the weight of ewc depends on what the student says"):
        Penalties.of(parts, Progress(), Ranks(0, 2))
    assert Penalties.of(parts, Progress(), Ranks()) is not None


def test_a_regulariser_that_follows_a_path_sees_the_gradient_of_rows_alone(
    make_student: Make, experiences: list[Experience], augment: Augment
) -> None:
    student = make_student()
    si = SI()
    parts = Parts(
        student, augment, [Term("ce", CrossEntropy(), (Side("student"),)), Term("si", si, (Side("student"),))]
    )
    parts.begin(experiences[0], 0)
    si.kept |= {
        what: {n: torch.ones_like(p) for n, p in si.parameters_now.items()} for what in ("importance", "anchor")
    }
    step = Step(parts, torch.optim.SGD(list(parts.parameters()), 0.1), Progress(), replay=1)
    rows = experiences[0].train.gather(torch.arange(16))
    alone = torch.autograd.grad(F.cross_entropy(student(augment.plain(rows.x)), rows.y), list(student.parameters()))
    before = [p.detach().clone() for p in student.parameters()]
    told = step(rows, generator(0), generator(1))
    for (name, p), g, old in zip(student.named_parameters(), alone, before, strict=True):
        assert torch.equal(si.kept["path"][name], -(g * (p.detach() - old)))
        torch.testing.assert_close(p.grad, g + 2 * (old - 1))
    pull = sum((old - 1).square().sum() for old in before)
    torch.testing.assert_close(told["si"], pull)
    torch.testing.assert_close(told["loss"], told["ce"] + pull)


BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 12}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "losses": ["cross_entropy"],
    "memory": {"kind": "reservoir", "size": 20},
    "train": {"batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "off"},
}


def write(home: Path, **changes: Any) -> Path:
    path = home / "s.yaml"
    train = {**BASE["train"], **changes.pop("train", {})}
    path.write_text(to_yaml({**BASE, **changes, "train": train, "output": str(home / "run")}))
    return path


AGEM_ON: dict[str, Any] = {"gradient": "agem"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"losses": ["ewc"]}, "losses.0: holding parameters teaches nothing"),
    ({"losses": ["cross_entropy", {"kind": "si", "between": ["student@replay"]}]}, "losses.1: .*leave out between"),
    ({"losses": ["cross_entropy", {"kind": "ewc", "gamma": 0.5}]}, "gamma is about mode: online"),
    ({"train": AGEM_ON, "memory": "none"}, "train.gradient: .*memory is none"),
    ({"train": AGEM_ON, "transfer": "coral"}, "train.gradient: .*set transfer: none"),
    ({"train": {**AGEM_ON, "replay_draws": 2}}, "train.gradient: .*replay_draws"),
    ({"train": {**AGEM_ON, "mix_memory": True}}, "train.gradient: train.mix_memory puts rows together"),
    (
        {"train": {"mix_memory": True}, "losses": [{"kind": "cross_entropy", "between": ["student@new"]}, "ewc"]},
        "losses: train.mix_memory makes batches of replayed rows alone",
    ),
    (
        {"train": AGEM_ON, "losses": [{"kind": "cross_entropy", "between": ["student@new"]}]},
        "no loss is about replayed",
    ),
    (
        {"train": AGEM_ON, "losses": [{"kind": "cross_entropy", "between": ["student@new"]}, "ewc"]},
        "no loss is about replayed",
    ),
    (
        {
            "train": AGEM_ON,
            "teachers": {"previous": "previous"},
            "losses": [
                {"kind": "cross_entropy", "between": ["student@new"]},
                {"kind": "kd", "between": ["student", "previous@new"]},
            ],
        },
        "no loss is about replayed",
    ),
    ({"train": {"gradient": {"kind": "gem", "margin": -1}}}, "margin"),
    ({"train": {"gradient": "agm"}}, "gradient 'agm' is not known"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_what_cannot_work_is_refused_before_training(
    plugins: Plugins, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        load(write(tmp_path, **changes), [], plugins.registry)


@pytest.mark.parametrize("regulariser", ["mas", "si", "rwalk", {"kind": "ewc", "mode": "online"}])
def test_parameters_are_held_and_memory_is_filled_where_the_experience_left_them(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, regulariser: Any
) -> None:
    """Also where the head aligns the new classes' weights at its end."""
    seen: list[torch.Tensor] = []
    end = Random.end

    def watched(self: Random, experience: Experience, student: Student) -> None:
        seen.append(student.head.weight.detach().clone())
        end(self, experience, student)

    monkeypatch.setattr(Random, "end", watched)
    student = {"model": {"kind": "mlp", "hidden": [8]}, "head": {"kind": "linear", "align": True}}
    path = write(tmp_path, losses=["cross_entropy", regulariser], student=student, memory="random")
    execute(RunRequest(scenario=path, quiet=True), plugins)
    found = state(tmp_path / "run")
    weights, (_, holding) = found["student"]["state"], found["terms"].values()
    for name, held in holding["state"]["_extra_state"]["kept"]["anchor"].items():
        assert torch.equal(held, weights[name]), name
    assert torch.equal(seen[-1], weights["head.weight"])


def test_a_memory_that_compares_new_and_replayed_rows_is_refused(plugins: Plugins, tmp_path: Path) -> None:
    path = write(tmp_path, train=AGEM_ON, memory={"kind": "gss", "size": 20})
    with pytest.raises(UserError, match=r"train\.gradient: GSS chooses rows by comparing"):
        execute(RunRequest(scenario=path, quiet=True), plugins)


def test_a_run_logs_what_was_held_and_what_was_projected(plugins: Plugins, tmp_path: Path) -> None:
    losses = ["cross_entropy", {"kind": "ewc", "weight": 10}, {"kind": "mas", "weight": 0.1}]
    train = {**AGEM_ON, "gradient_shares": 2, "epochs": 3}
    result = execute(RunRequest(scenario=write(tmp_path, losses=losses, train=train), quiet=True), plugins)
    assert result["status"] == "finished"
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    first, *_, last = [line["metrics"] for line in lines if line["event"] == "epoch"]
    assert first["train/loss_ewc"] == first["train/weighted_mas"] == 0
    assert "train/gradient_reference" not in first
    assert last["train/loss_ewc"] > 0
    assert last["train/weighted_ewc"] == pytest.approx(10 * last["train/loss_ewc"])
    assert last["train/gradient_share_ewc"] > 0
    assert last["train/gradient_reference"] > 0
    assert 0 <= last["train/gradient_projected"] <= 1
    total = sum(last[f"train/weighted_{name}"] for name in ("cross_entropy", "ewc", "mas"))
    assert last["train/loss"] == pytest.approx(total, rel=1e-5)


def test_what_is_held_goes_with_a_run_that_goes_on_from_another(plugins: Plugins, tmp_path: Path) -> None:
    """Importances, path integrals and scores: without changes a fork ends as its origin did, to the last bit."""
    losses = [
        "cross_entropy",
        {"kind": "ewc", "weight": 20},
        {"kind": "si", "weight": 2},
        {"kind": "rwalk", "every": 3},
    ]
    stream = {**BASE["stream"], "split": {"by": "class", "experiences": 3}}
    whole = execute(RunRequest(scenario=write(tmp_path, losses=losses, stream=stream), quiet=True), plugins)
    request = RunRequest(origin=f"{tmp_path / 'run'}@0", overrides=(f"output={tmp_path / 'fork'}",), quiet=True)
    forked = execute(request, plugins)
    assert forked["accuracy_matrix"] == whole["accuracy_matrix"]
    assert_same(state(tmp_path / "fork"), state(tmp_path / "run"))
    ewc = state(tmp_path / "fork")["terms"]["ewc"]["state"]["_extra_state"]
    assert ewc["kept"]["importance"]["head.bias"].shape == (10,)
    assert ewc["apart"] > 0


def test_a_loss_says_nothing_of_replayed_rows_without_signals(make_student: Make) -> None:
    student = make_student()
    student.grow((0, 1), 0, generator(0))
    loss = EWC()
    assert loss.formula("student") == "½Σ Ω·(θ − θ*)²"
    assert loss(Batch(*[torch.zeros(1)] * 5, new=1), Signals(None, student.class_ids_tensor)) == 0
