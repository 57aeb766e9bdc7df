"""Further views of rows, for losses that ask for them: seen by the student alone, and nobody else's numbers move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clkd.data.augment import Augment
from clkd.data.mix import Mix
from clkd.data.strong import Strong
from clkd.engine.loop import Loop
from clkd.engine.objective import Objective, further
from clkd.engine.parts import Parts
from clkd.engine.refusals import refuse_further_views, refuse_lost_views, refuse_mixed
from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.gradients.agem import AGEM
from clkd.losses.base import Loss
from clkd.losses.classification import CrossEntropy
from clkd.losses.supcon import SupCon
from clkd.memory.reservoir import Reservoir
from clkd.models.backbones.resnet import resnet8
from clkd.models.compiled import Compiled
from clkd.models.heads import Linear
from clkd.models.statistics import Statistics
from clkd.models.student import Student
from clkd.models.taps import Taps
from clkd.optimizers import OptimizerOptions
from clkd.ranks import ALONE
from clkd.scenario.train import TrainOptions
from clkd.schedules.base import Progress
from clkd.signals import Batch, Signals

HALF, QUARTER = torch.full((3,), 0.5), torch.full((3,), 0.25)
STUDENT = Side("student")


def moving(strong: Strong | None = None, **options: Any) -> Augment:
    return Augment(HALF, QUARTER, crop=2, flip=True, strong=strong, **options)


def normed() -> Student:
    """With batch norm, whose statistics everything that is seen would move."""
    torch.manual_seed(3)
    return Student(resnet8((3, 8, 8), width=3), Linear(12), (3, 8, 8))


def terms(*losses: Loss, weight: float = 1.0) -> list[Term]:
    more = [Term(f"t{place}", loss, (STUDENT,), weight) for place, loss in enumerate(losses)]
    return [Term("ce", CrossEntropy(), (STUDENT,)), *more]


def train(parts: Parts, stream: list[Experience]) -> Student:
    options = TrainOptions(batch_size=16, optimizer=OptimizerOptions(kind="sgd", lr=0.05), epochs=2)
    loop = Loop(parts, options, seed=0)
    for experience in stream:
        loop.train(experience, parts.begin(experience, 0))
        parts.end(experience)
    return parts.student


class Heard(Loss):
    """Keeps what it is told, and teaches nothing."""

    sides = 1

    def __init__(self, views: int) -> None:
        super().__init__()
        self.views, self.heard = views, list[Signals]()

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        assert a.logits is not None
        self.heard.append(a)
        return 0.0 * a.logits.sum()


@pytest.mark.parametrize("strong", [None, {"noise": 0.5, "rows": "none"}])
def test_a_loss_that_only_looks_at_them_changes_no_bit(
    strong: dict[str, Any] | None, experiences: list[Experience]
) -> None:
    """Neither weights nor running statistics, nor which rows and views come when."""
    augment = moving(Strong(HALF, QUARTER, **strong) if strong else None)
    memory = [Reservoir(20, seed=1) for _ in range(2)]
    alone = train(Parts(normed(), augment, terms(), memory=memory[0]), experiences)
    heard = Heard(views=3)
    beside = train(Parts(normed(), augment, terms(heard), memory=memory[1]), experiences)
    ours, theirs = beside.state_dict(), alone.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.endswith("num_batches_tracked"))
    assert {len(said.views) for said in heard.heard} == {2}
    for said in heard.heard:
        views = [said.logits, *(view.logits for view in said.views)]
        assert not any(torch.equal(views[i], views[j]) for i in range(3) for j in range(i))  # type: ignore[arg-type]


def test_they_are_the_same_when_a_step_comes_again(experiences: list[Experience]) -> None:
    firsts, seconds = Heard(2), Heard(2)
    for heard in (firsts, seconds):
        train(Parts(normed(), moving(), terms(heard)), experiences[:1])
    for a, b in zip(firsts.heard, seconds.heard, strict=True):
        assert torch.equal(a.views[0].logits, b.views[0].logits)  # type: ignore[arg-type]


def test_gradients_reach_the_student_through_every_view(experiences: list[Experience]) -> None:
    """The value is the loss of what the student says of each view, asked by hand."""
    parts = Parts(normed(), moving(), terms(SupCon(temperature=0.5, views=3))[1:])
    parts.begin(experiences[0], 0)
    rows = experiences[0].train.gather(torch.arange(12), torch.device("cpu"))
    draws = torch.Generator().manual_seed(0)
    batch = rows.seen_as(parts.augment.plain(rows.x))
    views = {further(k): parts.augment.further(rows, draws).x for k in (1, 2)}
    value, *_ = Objective(parts, Progress(), ALONE)(batch, batch, views)
    torch.autograd.backward(value)
    found = [p.grad.clone() for p in parts.student.backbone.parameters() if p.grad is not None]
    parts.student.zero_grad()
    z = torch.cat([parts.student.backbone(x) for x in (batch.x, *views.values())])
    unit = nn.functional.normalize(z, dim=1)
    log_p = (unit @ unit.T / 0.5).fill_diagonal_(-1e9).log_softmax(1)
    alike = (rows.y.repeat(3)[:, None] == rows.y.repeat(3)).fill_diagonal_(False)
    wanted = -(log_p * alike).sum(1).div(alike.sum(1)).mean()
    torch.testing.assert_close(value, wanted)
    torch.autograd.backward(wanted)
    for ours, p in zip(found, parts.student.backbone.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad, rtol=1e-4, atol=1e-6)


def test_what_is_not_augmented_is_seen_once(augment: Augment, experiences: list[Experience]) -> None:
    """All views are the same then: what the student said is said again, at no cost."""
    heard, passes = Heard(3), []
    student = normed()
    student.backbone.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    train(Parts(student, augment, terms(heard)), experiences[:1])
    assert len(passes) == len(heard.heard)
    assert all(view.logits is said.logits for said in heard.heard for view in said.views)


def test_a_peer_has_them_too(experiences: list[Experience]) -> None:
    heard = Heard(2)
    mate = Term("mate", heard, (Side("mate"),))
    both = [*terms(), Term("ce_mate", CrossEntropy(), (Side("mate"),)), mate]
    parts = Parts(normed(), moving(), both, peers={"mate": normed()})
    train(parts, experiences[:1])
    assert {len(said.views) for said in heard.heard} == {1}
    assert (parts.views("student"), parts.views("mate")) == (1, 2)


def test_rows_that_are_named_are_those_of_every_view(experiences: list[Experience]) -> None:
    heard = Heard(2)
    about = Term("old", heard, (Side.read("student@replay"),))
    train(Parts(normed(), moving(), [*terms(), about], memory=Reservoir(20, seed=1)), experiences)
    assert heard.heard
    for said in heard.heard:
        assert said.logits is not None
        assert said.views[0].logits is not None
        assert len(said.logits) == len(said.views[0].logits) <= 16


def test_they_are_drawn_anew_where_the_students_own_are_fixed_and_may_be_strong() -> None:
    x, i = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8), torch.arange(6)
    rows = Batch(x, y=i, sample_id=i, domain=i, experience=i, new=6)
    draws = torch.Generator().manual_seed(0)
    fixed = moving(views=1)
    assert torch.equal(fixed.look(rows, draws, 0).x, fixed.look(rows, draws, 0).x)
    assert not torch.equal(fixed.further(rows, draws).x, fixed.further(rows, draws).x)
    strong = Augment(HALF, QUARTER, strong=Strong(HALF, QUARTER, brightness=0.5, rows="none"))
    assert (strong.strengthens, strong.varies, strong.fixed_for("student")) == (False, True, 1)
    seen = strong.look(rows, draws, 0)
    assert torch.equal(seen.x, strong.plain(rows.x))
    assert seen.weak is None
    lit = strong.further(rows, draws).x - seen.x
    assert (lit.abs().amax((1, 2, 3)) > 0.1).all()


def test_statistics_are_held_whatever_happens() -> None:
    norm = nn.BatchNorm1d(2)

    def fails() -> None:
        with Statistics(norm).held():
            norm(torch.tensor([[1.0, 2.0], [5.0, 7.0]]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert (norm.running_mean.tolist(), norm.momentum) == ([0.0, 0.0], 0.1)  # type: ignore[union-attr]


def test_what_cannot_be_is_refused(make_student: Callable[[], Student]) -> None:
    asking, strong = terms(SupCon()), Strong(HALF, QUARTER, noise=1.0, rows="none")
    with pytest.raises(UserError, match="no loss asks for any"):
        refuse_further_views(Parts(make_student(), moving(strong), terms()))
    mixed = Parts(make_student(), moving(mix=Mix("mixup", 1.0)), terms(Heard(2)))
    with pytest.raises(UserError, match=r"losses\.1: t0 compares views of one row, and mixed rows are of two"):
        refuse_further_views(mixed)
    with pytest.raises(UserError, match="reads one label of a row"):
        refuse_mixed(Parts(make_student(), moving(mix=Mix("mixup", 1.0)), asking))
    with pytest.raises(UserError, match="set its views to 1"):
        refuse_further_views(Parts(make_student(), moving(), asking, gradient=AGEM()))
    refuse_further_views(Parts(make_student(), moving(), terms(SupCon(views=1)), gradient=AGEM()))
    stored = Reservoir(9, store=("logits",), class_names=tuple("abcd"))
    refuse_lost_views(Parts(make_student(), moving(strong, views=2), asking, memory=stored))


SCENARIO = """\
name: prepared
method: xder
stream:
  dataset: {name: digits, rows_per_class: 20}
  split: {by: class, experiences: 5}
  augment: {crop: 1, views: 2}
student: {model: {kind: mlp, hidden: [8]}}
train: {batch_size: 10, optimizer: sgd}
"""


def test_explain_tells_what_they_cost(tmp_path: Path) -> None:
    """In the last experience there is no class to come, and one pass does."""
    from clkd.engine.explain import explain
    from clkd.plugins import load_plugins
    from clkd.scenario.load import load

    path, plugins = tmp_path / "s.yaml", load_plugins()
    path.write_text(SCENARIO)
    told = explain(load(path, (), plugins.registry), plugins)["experiences"]
    assert [each["loss"].endswith(" + 0.05·SupCon(future, 2 views)") for each in told] == [True] * 4 + [False]
    assert "supcon" in told[4]["left_out"]
    once = told[4]["macs_per_step"]["student"]
    assert [each["macs_per_step"]["student"] for each in told[:4]] == [2 * once] * 4


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune", "default"])
def test_a_step_with_further_views_begins_once_for_cuda_graphs(
    experiences: list[Experience], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Where the second view began another one, it would give away what the first view's backward pass needs."""
    told: list[str] = []

    def runs(self: Taps, backbone: nn.Module, x: Tensor, names: tuple[str, ...]) -> Any:
        told.extend(["pass"] * torch.is_grad_enabled())
        return Taps.run(self, backbone, x, names)

    monkeypatch.setattr("clkd.models.compiled._compiled", lambda mode, backend: runs)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: told.append("step"))
    student = normed()
    student.runner = Compiled(mode, frozenset({16}))
    train(Parts(student, moving(), terms(SupCon())), experiences[:1])
    steps = 2 * (len(experiences[0].train) // 16)
    assert told == [*(["step"] if mode != "default" else []), "pass", "pass"] * steps
