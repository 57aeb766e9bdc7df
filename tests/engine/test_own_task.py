"""A head that is told the task: whoever looks at a row's probabilities looks at its own task's columns alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clkd.data.augment import Augment
from clkd.engine.execute import execute
from clkd.engine.objective import Objective
from clkd.engine.parts import Parts
from clkd.engine.refusals import refuse_across_tasks
from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.losses.classification import CrossEntropy
from clkd.losses.pseudo_label import HardLabel
from clkd.losses.response import KD
from clkd.memory.gss import GSS, likeness
from clkd.memory.loss_aware import LossAware
from clkd.models.backbones.mlp import MLP
from clkd.models.heads import Head, Linear, Multi
from clkd.models.student import Student
from clkd.plugins import load_plugins
from clkd.ranks import ALONE
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.schedules import adaptive
from clkd.schedules.base import Progress, Schedule
from clkd.signals import Batch
from clkd.teachers.ema import Ema
from clkd.transfer.base import Transfer
from clkd.transfer.classifiers import MCD
from clkd.transfer.coral import Coral, Recolour
from clkd.transfer.discrepancy import JAN, MMD
from clkd.transfer.discriminator import CDAN, DANN
from clkd.transfer.several import Several
from clkd.transfer.uncertainty import MCC, Entropy

SHAPE, WIDTH = (3, 8, 8), 16
STUDENT = Side("student")
SCHEDULES: dict[str, Callable[[], Schedule]] = {"by confidence": adaptive.Confidence, "by entropy": adaptive.Entropy}
STRATEGIES: dict[str, Callable[[], Transfer]] = {
    "entropy": Entropy,
    "diverse entropy": lambda: Entropy(1.0),
    "mcc": MCC,
    "mcd": MCD,
    "closed coral": lambda: Recolour(target="unlabelled"),
    "dan": lambda: MMD(target="unlabelled"),
    "jan": lambda: JAN(("penultimate", "logits"), target="unlabelled"),
    "dann": lambda: DANN("logits", target="unlabelled"),
    "cdan": lambda: CDAN(target="unlabelled"),
}
ALL = [*SCHEDULES, *STRATEGIES, "pseudo-labels"]


def made(name: str, head: Head) -> Parts:
    """A student with labels to learn, and one more thing that looks at its probabilities."""
    torch.manual_seed(3)
    student = Student(MLP(SHAPE, hidden=(WIDTH,)), head, SHAPE)
    student.request(("penultimate",))
    augment = Augment(torch.full((3,), 0.5), torch.full((3,), 0.25), crop=0, flip=False)
    terms = [Term("ce", CrossEntropy(), (STUDENT,), SCHEDULES[name]() if name in SCHEDULES else 1.0)]
    teachers: dict[str, Any] = {}
    if name == "pseudo-labels":
        teachers = {"itself": Ema(decay=0)}
        terms.append(Term("own", HardLabel(0.55, rows="unlabelled"), (STUDENT, Side("itself"))))
    return Parts(student, augment, terms, teachers, transfer=STRATEGIES.get(name, Transfer)())


def begun(name: str, head: Head, stream: list[Experience]) -> Parts:
    parts = made(name, head)
    for experience in stream:
        parts.begin(experience, 0)
    return parts


def worth(parts: Parts, batch: Batch) -> dict[str, Tensor]:
    """What enters the loss, and the gradient of the backbone's first layer."""
    at = parts.experience
    progress = Progress(experience=at, experiences=2, epoch=1, epochs=3)
    parts.student.zero_grad()
    loss, _, weighted, _ = Objective(parts, progress, ALONE)(batch, batch, {})
    assert ("transfer" in weighted) == parts.transfer.speaks, "else nothing would be proved of the strategy"
    torch.autograd.backward(loss)
    first = next(parts.student.backbone.parameters())
    assert first.grad is not None
    assert first.grad.any()
    return {**{name: value.detach() for name, value in weighted.items()}, "gradient": first.grad.clone()}


def rows(experience: Experience) -> Batch:
    """Every third has no label."""
    batch = experience.train.gather(torch.arange(24))
    y = torch.where(torch.arange(24) % 3 == 0, -1, batch.y)
    return replace(batch, y=y).seen_as(batch.x / 64 - 2)


def disturb(parts: Parts, columns: slice) -> None:
    """Anything at all in some columns, of whoever has columns."""
    heads: list[Any] = [parts.student.head]
    heads += [teacher.network.head for teacher in parts.teachers.values()]  # type: ignore[attr-defined]
    if isinstance(parts.transfer, MCD) and parts.transfer.second is not None:
        heads.append(parts.transfer.second[-1])  # type: ignore[index]
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for head in heads:
            for parameter in (head.weight, head.bias):
                parameter[columns] = 5 * torch.randn(parameter[columns].shape, generator=draws)


@pytest.mark.parametrize("name", ALL)
def test_other_tasks_columns_change_no_bit(name: str, experiences: list[Experience]) -> None:
    parts, batch = begun(name, Multi(WIDTH), experiences), rows(experiences[1])
    before = worth(parts, batch)
    disturb(parts, slice(0, 2))
    after = worth(parts, batch)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    disturb(parts, slice(2, 4))
    own = worth(parts, batch)
    assert not any(torch.equal(before[key], own[key]) for key in before if key != "ce" or name in SCHEDULES)


@pytest.mark.parametrize("name", ALL)
def test_a_single_task_is_a_plain_head_bit_for_bit(name: str, experiences: list[Experience]) -> None:
    batch = rows(experiences[0])
    told, plain = (worth(begun(name, head, experiences[:1]), batch) for head in (Multi(WIDTH), Linear(WIDTH)))
    assert told.keys() == plain.keys()
    assert all(torch.equal(told[key], plain[key]) for key in told)


WITHOUT_NETWORKS = [name for name in ALL if name not in ("mcd", "dann", "cdan")]


@pytest.mark.parametrize("name", WITHOUT_NETWORKS)
def test_one_tasks_rows_are_worth_what_they_are_to_a_head_that_has_this_task_alone(
    name: str, experiences: list[Experience]
) -> None:
    parts, batch = begun(name, Multi(WIDTH), experiences), rows(experiences[1])
    one = begun(name, Linear(WIDTH), experiences[1:])
    networks = [one.student, *(teacher.network for teacher in one.teachers.values())]  # type: ignore[attr-defined]
    with torch.no_grad():
        for network in networks:
            network.backbone.load_state_dict(parts.student.backbone.state_dict())
            network.head.weight.copy_(parts.student.head.weight[2:])
            network.head.bias.copy_(parts.student.head.bias[2:])  # type: ignore[index]
    torch.testing.assert_close(worth(parts, batch), worth(one, batch))


@pytest.mark.parametrize("name", ["by confidence", "by entropy", "diverse entropy", "mcc", "mcd", "pseudo-labels"])
def test_nothing_waits_for_the_device(name: str, experiences: list[Experience], waits: list[str]) -> None:
    parts, batch = begun(name, Multi(WIDTH), experiences), rows(experiences[1])
    objective = Objective(parts, Progress(experience=1, experiences=2), ALONE)
    waits.clear()
    objective(batch, batch, {})
    assert waits == []


def test_a_plain_head_lets_all_columns_compete(experiences: list[Experience]) -> None:
    parts, batch = begun("mcc", Linear(WIDTH), experiences), rows(experiences[1])
    before = worth(parts, batch)
    disturb(parts, slice(0, 2))
    assert not torch.equal(before["transfer"], worth(parts, batch)["transfer"])


def test_distillation_still_speaks_of_all_tasks(experiences: list[Experience]) -> None:
    """What a past self says of old tasks is what keeps them: each task by itself, all of them added."""
    parts = begun("by confidence", Multi(WIDTH), experiences)
    parts.terms.append(Term("kd", KD(), (STUDENT, Side("slow"))))
    parts.teachers["slow"] = Ema(0.9)
    parts.begin(experiences[1], 0)
    batch = rows(experiences[1])
    before = worth(parts, batch)["kd"]
    assert before == 0
    with torch.no_grad():
        parts.student.head.bias[0] += 1  # type: ignore[index]
    assert worth(parts, batch)["kd"] > 0


ACROSS = [lambda: CDAN(), lambda: JAN(), lambda: MMD(target="domain"), lambda: Coral("logits"), lambda: DANN("logits")]
WITHIN = [
    *STRATEGIES.values(),
    lambda: JAN(("penultimate",)),
    lambda: MMD(("penultimate",)),
    lambda: Coral(),
    lambda: DANN(),
    lambda: Entropy(target="domain"),
]


@pytest.mark.parametrize("make", ACROSS)
@pytest.mark.parametrize("several", [False, True])
def test_logits_of_different_tasks_are_not_compared(make: Callable[[], Transfer], several: bool) -> None:
    strategy = Several({"first": Coral(), "other": make()}, {"first": 1.0, "other": 1.0}) if several else make()
    told, plain = (replace(made("mcc", head(WIDTH)), transfer=strategy) for head in (Multi, Linear))
    with pytest.raises(UserError, match="answers each among its own task's classes: set target: unlabelled"):
        refuse_across_tasks(told)
    refuse_across_tasks(plain)


@pytest.mark.parametrize("make", WITHIN)
def test_everything_else_goes_with_it(make: Callable[[], Transfer]) -> None:
    refuse_across_tasks(replace(made("mcc", Multi(WIDTH)), transfer=make()))


REFUSED: dict[str, dict[str, Any]] = {
    "compares logits of new rows": {"transfer": "cdan", "memory": {"kind": "reservoir", "size": 20}},
    "it is 0 whatever the models say": {
        "teachers": {"previous": "previous"},
        "losses": ["cross_entropy", {"kind": "hard", "between": ["student", "previous"], "rows": "unlabelled"}],
    },
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_can_teach_nothing_is_refused_before_training(why: str, tmp_path: Path) -> None:
    """A past self knows no class of the new rows' task, so it has no decision that could be their label."""
    scenario = {
        "name": "told",
        "stream": {
            "dataset": {"name": "digits", "rows_per_class": 20},
            "split": {"by": "task", "experiences": 5},
            "labelled": 0.3,
        },
        "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "multi"},
        "train": {"epochs": 1, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}},
        "tracking": {"mode": "off"},
        "output": str(tmp_path / "run"),
    }
    path = tmp_path / "told.yaml"
    path.write_text(to_yaml({**scenario, **REFUSED[why]}))
    with pytest.raises(UserError, match=why):
        execute(RunRequest(scenario=path, quiet=True, dry_run=True), load_plugins())


@pytest.mark.parametrize("told", [True, False])
def test_memories_that_compare_rows_compare_them_by_their_own_task(told: bool, experiences: list[Experience]) -> None:
    """The loss of a row, and the direction of its gradient, in the last layer."""
    parts, batch = begun("mcc", Multi(WIDTH) if told else Linear(WIDTH), experiences), rows(experiences[1])
    batch, parts.memory = replace(batch, y=experiences[1].train.y[:24]), GSS(24)
    objective = Objective(parts, Progress(experience=1, experiences=2), ALONE)

    def measured() -> tuple[Tensor, Tensor]:
        memory, said = LossAware(24), objective(batch, batch, {})[3]
        memory.observe(batch, said)
        return memory.table.columns["extra.loss"].clone(), likeness(said, batch.y)

    before = measured()
    disturb(parts, slice(0, 2))
    assert [torch.equal(*pair) for pair in zip(before, measured(), strict=True)] == [told, told]
