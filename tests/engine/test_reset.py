"""A student that begins anew in each experience, and joint training, which does so with all rows so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SmallRuns
from states import assert_same, state
from torch import nn

from clkd.engine.compose import Composition
from clkd.engine.execute import execute
from clkd.engine.explain import explain, text
from clkd.errors import Interrupted, UserError
from clkd.models.student import Student
from clkd.plugins import Plugins
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest
from clkd.seeding import generator

SGD = {"kind": "sgd", "lr": 0.05, "momentum": 0.9}
BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 3}},
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "train": {"epochs": 3, "batch_size": 16, "optimizer": SGD},
    "tracking": {"mode": "offline"},
}
JOINT = {"method": "joint"}
RUNS = SmallRuns(BASE)
write, run, compose = RUNS.write, RUNS.run, RUNS.compose


def trained(made: Composition, index: int) -> Student:
    """A plain loop: what nothing but rows up to an experience and an untrained student make, in documented draws."""
    student, seen = made.parts.student, made.stream[: index + 1]
    for experience in seen:
        student.grow(experience.classes, experience.index, generator(0, "head", experience.index))
    new = seen[-1].train
    order = {e.index: torch.arange(len(e.train)) for e in seen}
    x = torch.cat([made.parts.augment.plain(e.train.gather(order[e.index]).x) for e in seen])
    y = torch.cat([e.train.y for e in seen])
    ids = torch.cat([e.train.sample_id for e in seen])
    place = {int(each): at for at, each in enumerate(ids.tolist())}
    kept = kept_order(made, index)
    rows = torch.tensor([place[each] for each in [*new.sample_id.tolist(), *kept]])
    assert sorted(rows.tolist()) == list(range(len(y))), "every row so far, once"
    optimizer = torch.optim.SGD(student.train().parameters(), lr=0.05, momentum=0.9)
    for epoch in range(3):
        for at in torch.randperm(len(rows), generator=generator(0, "order", index, epoch)).split(16):
            at = torch.cat([at[at < len(new)], at[at >= len(new)]])
            target = (y[rows[at]][:, None] == student.class_ids_tensor).int().argmax(1)
            loss = nn.functional.cross_entropy(student(x[rows[at]]), target, reduction="none").mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return student


def kept_order(made: Composition, index: int) -> list[int]:
    """The ids of the rows of the past, as memory gives them."""
    memory = made.parts.memory
    for experience in made.stream[:index]:
        memory.end(experience, made.parts.student)
    kept = memory.sample(len(memory), generator(0))
    return [] if kept is None else kept.sample_id.tolist()


@pytest.mark.parametrize("index", range(3))
def test_joint_training_is_a_fresh_plain_loop_on_all_rows_so_far(plugins: Plugins, tmp_path: Path, index: int) -> None:
    run(plugins, tmp_path, "joint", JOINT, limit_experiences=index + 1)
    ours = state(tmp_path / "joint")["student"]["state"]
    theirs = trained(compose(plugins, tmp_path, JOINT), index).state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(tensor, ours[name]), name


def test_without_a_reset_the_first_experience_is_the_same_and_no_other(plugins: Plugins, tmp_path: Path) -> None:
    """As a fresh student has nothing to lose, and a trained one has."""
    for length, same in ((1, True), (2, False)):
        run(plugins, tmp_path, f"anew{length}", JOINT, limit_experiences=length)
        run(plugins, tmp_path, f"on{length}", {**JOINT, "train": {"reset": False}}, limit_experiences=length)
        ours, theirs = (state(tmp_path / f"{kind}{length}")["student"]["state"] for kind in ("anew", "on"))
        assert torch.equal(ours["head.weight"], theirs["head.weight"]) is same


def test_statistics_of_batch_norm_begin_anew_too(plugins: Plugins, tmp_path: Path) -> None:
    student = {"model": {"kind": "resnet8", "width": 2}, "head": "linear"}
    made = compose(plugins, tmp_path, {**JOINT, "student": student})
    parts, first = made.parts, made.stream[0]
    parts.begin(first, 0)
    before = {name: tensor.clone() for name, tensor in parts.student.backbone.state_dict().items()}
    for tensor in parts.student.state_dict().values():
        tensor.fill_(3)
    parts.begin(made.stream[1], 0)
    for name, tensor in parts.student.backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_all_is_as_many_rows_as_the_stream_trains_on(plugins: Plugins, tmp_path: Path) -> None:
    """In streams of domains, a row in each."""
    for split in ({"by": "class", "experiences": 3}, {"by": "domain", "transform": "rotated", "experiences": 3}):
        stream = {**BASE["stream"], "split": {**split, "validation": 0.1}}
        made = compose(plugins, tmp_path, {**JOINT, "stream": stream})
        rows = sum(len(experience.train) for experience in made.stream)
        assert made.parts.memory.size == rows
        for experience in made.stream:
            made.parts.memory.end(experience, made.parts.student)
        assert len(made.parts.memory) == rows


@pytest.mark.parametrize("step", [5, 15, 16, 34, 60])
def test_a_run_stopped_anywhere_goes_on_with_the_same_bits(
    plugins: Plugins, tmp_path: Path, stop_after: list[int], step: int
) -> None:
    """In an experience, and where the next begins: what it begins anew with is not what was saved."""
    run(plugins, tmp_path, "whole", JOINT)
    stop_after.append(step)
    with pytest.raises(Interrupted):
        run(plugins, tmp_path, "cut", JOINT)
    execute(RunRequest(resume=str(tmp_path / "cut"), quiet=True), plugins)
    assert_same(state(tmp_path / "whole"), state(tmp_path / "cut"))


REFUSED = {
    "optimizer": ({"train": {"reset": True, "keep_optimizer": True}}, "train.keep_optimizer: train.reset begins with"),
    "peers": (
        {"train": {"reset": True}, "peers": {"mate": {"model": {"kind": "mlp", "hidden": [4]}, "head": "linear"}}},
        "peers: train.reset is about the student alone",
    ),
    "boundaries": (
        {"train": {"reset": True, "epochs": 1}, "stream": {**BASE["stream"], "online": True, "boundaries": False}},
        "train.reset: stream.boundaries is false",
    ),
    "gathered": ({"train": {"reset": True}, "student": {"model": "mlp", "head": "slda"}}, "student.head: a reset"),
    "norms": ({"train": {"reset": True}, "transfer": "dsbn"}, "transfer: a reset would take the statistics"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_about_another_student_is_refused(plugins: Plugins, tmp_path: Path, case: str) -> None:
    changes, said = REFUSED[case]
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, "bad", changes), (), plugins.registry)
    assert said in str(caught.value)


def test_a_dry_run_and_explain_say_so(plugins: Plugins, tmp_path: Path) -> None:
    told = run(plugins, tmp_path, "dry", JOINT, dry_run=True)["description"]
    assert told["training"].startswith("from scratch in each experience, 3 epochs")
    assert told["memory"] == "random, all: 200 rows"
    loaded = load(write(tmp_path, "dry", JOINT), (), plugins.registry)
    assert text(explain(loaded, plugins)).splitlines()[0].endswith("; in each experience the student begins anew")


def test_intransigence_is_the_shortfall_against_joint_training_up_to_each(plugins: Plugins, tmp_path: Path) -> None:
    """Chaudhry et al. 2018, eq. 4: the reference for an experience has learned it and those before it."""
    joint = run(plugins, tmp_path, "joint", JOINT)["accuracy_matrix"]
    asked = {"kind": "intransigence", "joint": "joint", "at": "each"}
    result = run(plugins, tmp_path, "stream", {"metrics": ["average_accuracy", asked]})
    own = result["accuracy_matrix"]
    assert result["metrics"]["intransigence"] == pytest.approx(sum(joint[i][i] - own[i][i] for i in range(3)) / 3)
    assert joint[0][0] != joint[2][0], "or this could not tell the end from each"
    with pytest.raises(UserError, match="joint gives numbers"):
        run(plugins, tmp_path, "bad", {"metrics": [{"kind": "intransigence", "joint": [0.5] * 3, "at": "each"}]})


def test_a_head_of_weights_that_were_made_anew_answers_by_its_linear_layer(plugins: Plugins, tmp_path: Path) -> None:
    """What it had gathered was of other weights: until it gathers again, it knows nothing."""
    changes = {**JOINT, "student": {**BASE["student"], "head": "ncm"}}
    made = compose(plugins, tmp_path, changes)
    student = made.parts.student
    made.parts.begin(made.stream[0], 0)
    made.parts.end_student(made.stream[0])
    assert student.head.answers
    made.parts.begin(made.stream[1], 0)
    made.parts.reset(0)
    f = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(student.head.eval()(f), nn.functional.linear(f, student.head.weight, student.head.bias))
