"""Online streams, and streams without boundaries: what comes when, who is refused, and who goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from clkd.engine.boundaries import needs_boundaries
from clkd.engine.compose import Composer
from clkd.engine.course import Course
from clkd.engine.execute import execute
from clkd.engine.projection import Projection
from clkd.errors import UserError
from clkd.losses.base import Loss
from clkd.losses.classification import CrossEntropy
from clkd.losses.ewc import EWC
from clkd.losses.margins import NCA
from clkd.memory.base import Memory
from clkd.memory.reservoir import Reservoir
from clkd.memory.ring import Ring
from clkd.plugins import Plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest
from clkd.schedules.old_fraction import OldFraction
from clkd.schedules.ramp import Linear
from clkd.signals import Batch
from clkd.teachers.ema import Ema
from clkd.teachers.previous import Previous

TRAIN = {"batch_size": 16, "keep_optimizer": True, "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9}}
ONLINE: dict[str, Any] = {
    "name": "online",
    "stream": {
        "dataset": {"name": "digits", "rows_per_class": 16, "size": 8},
        "split": {"by": "class", "experiences": 3, "fuzzy": 80},
        "online": True,
        "boundaries": False,
    },
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "losses": ["cross_entropy"],
    "train": TRAIN,
    "tracking": {"mode": "off"},
}


def with_(**changes: Any) -> dict[str, Any]:
    return {**ONLINE, **changes}


def run(plugins: Plugins, home: Path, scenario: dict[str, Any], **request: Any) -> dict[str, Any]:
    path = home / "s.yaml"
    path.write_text(to_yaml({**scenario, "output": str(home / "run")}))
    return execute(RunRequest(scenario=path, quiet=True, **request), plugins)


NEEDY: dict[str, tuple[dict[str, Any], str]] = {
    "previous": (
        {"teachers": {"old": "previous"}, "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "old"]}]},
        r"teachers\.old \(Previous\)",
    ),
    "snapshot": (
        {"teachers": {"old": "snapshot"}, "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "old"]}]},
        r"teachers\.old \(Snapshots\)",
    ),
    "ewc": ({"losses": ["cross_entropy", "ewc"]}, r"the loss ewc \(EWC\)"),
    "si": ({"losses": ["cross_entropy", "si"]}, r"the loss si \(SI\)"),
    "new classes": ({"losses": [{"kind": "cross_entropy", "over": "new"}]}, r"the loss cross_entropy \(CrossEntropy\)"),
    "a weight": (
        {"losses": [{"kind": "cross_entropy", "weight": "new_fraction"}]},
        r"schedule of cross_entropy \(NewF",
    ),
    "herding": ({"memory": {"kind": "herding", "size": 20}}, r"memory \(Herding\)"),
    "a queue an experience": ({"memory": {"kind": "ring", "per": "experience"}}, r"memory \(Ring\)"),
    "gem": ({"memory": "reservoir", "train": {**TRAIN, "gradient": "gem"}}, r"train\.gradient \(GEM\)"),
    "a head": ({"student": {**ONLINE["student"], "head": "ncm"}}, r"student\.head \(NearestMean\)"),
    "aligned": ({"student": {**ONLINE["student"], "head": {"kind": "linear", "align": True}}}, r"head \(Linear\)"),
}


@pytest.mark.parametrize("case", NEEDY)
def test_parts_that_need_boundaries_are_named_before_training(plugins: Plugins, tmp_path: Path, case: str) -> None:
    changes, named = NEEDY[case]
    with pytest.raises(UserError, match=named) as caught:
        run(plugins, tmp_path, with_(**changes))
    assert "\n" not in str(caught.value)
    assert "stream.boundaries" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_all_of_them_are_named_in_one_line(plugins: Plugins, tmp_path: Path) -> None:
    both = {**NEEDY["previous"][0], **NEEDY["herding"][0]}
    with pytest.raises(UserError, match=r"teachers\.old \(Previous\), memory \(Herding\) need to know"):
        run(plugins, tmp_path, with_(**both))


PHASE = {"name": "again", "rows": "balanced", "optimizer": {"kind": "sgd", "lr": 0.1}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stream": {**ONLINE["stream"], "online": False}}, "boundaries: false says nothing of experiences"),
        ({"train": {**TRAIN, "epochs": 2}}, "train.epochs: stream.online is a single pass"),
        ({"train": {**TRAIN, "min_steps": 9}}, "train.min_steps: stream.online is a single pass"),
        ({"train": {**TRAIN, "keep_optimizer": False}}, "set train.keep_optimizer: true"),
        ({"train": {**TRAIN, "scheduler": "cosine"}}, "train.scheduler: stream.boundaries is false"),
        ({"train": {**TRAIN, "gradient_noise": {}}}, "train.gradient_noise: stream.boundaries is false"),
        ({"memory": "reservoir", "phases": [PHASE]}, "phases come at that moment"),
        ({"memory": "reservoir", "phases": [PHASE]}, "a phase may train on memory only"),
    ],
)
def test_training_that_would_mark_a_boundary_or_come_twice_is_refused(
    plugins: Plugins, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        run(plugins, tmp_path, with_(**changes))


FREE: dict[str, dict[str, Any]] = {
    "er": {"memory": {"kind": "reservoir", "size": 20}},
    "agem": {"memory": {"kind": "ring", "size": 20}, "train": {**TRAIN, "gradient": "agem"}},
    "gss": {"memory": {"kind": "gss", "size": 20}},
    "mir": {"memory": {"kind": "reservoir", "size": 20, "retrieval": "mir"}},
    "coral": {"memory": {"kind": "reservoir", "size": 20}, "transfer": "coral"},
    "er_ace": {
        "memory": {"kind": "reservoir", "size": 20},
        "losses": [
            {"kind": "cross_entropy", "over": "batch", "between": ["student@new"]},
            {"kind": "cross_entropy", "name": "replayed", "between": ["student@replay"]},
        ],
    },
    "der and ema": {
        "memory": {"kind": "reservoir", "size": 20, "store": ["logits"]},
        "teachers": {
            "stored": "stored",
            "slow": "ema",
            "slower": {"kind": "ema", "decay": 0.9999},
            "both": {"kind": "ensemble", "members": ["slow", "slower"]},
        },
        "losses": [
            "cross_entropy",
            {"kind": "kd", "between": ["student@replay", "stored"], "variant": "mse"},
            {"kind": "kd", "between": ["student", "both"], "weight": {"kind": "linear", "experiences": 3}},
        ],
    },
}


@pytest.mark.parametrize("case", FREE)
def test_parts_that_follow_every_step_go_on(plugins: Plugins, tmp_path: Path, case: str) -> None:
    result = run(plugins, tmp_path, with_(**FREE[case]))
    assert result["status"] == "finished"


@pytest.mark.parametrize("boundaries", [True, False])
def test_agem_leaves_out_what_came_in_the_experience_only_where_it_is_told(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boundaries: bool
) -> None:
    asked: list[tuple[int, int, int]] = []
    refer = Projection.refer

    def watched(self: Projection, batch: Batch) -> Batch:
        asked.append((self.progress.experience, len(batch) - batch.new, sum(len(at) for at in self._past(batch))))
        return refer(self, batch)

    monkeypatch.setattr(Projection, "refer", watched)
    run(plugins, tmp_path, with_(stream={**ONLINE["stream"], "boundaries": boundaries}, **FREE["agem"]))
    assert sum(replayed > 0 for _, replayed, _ in asked) > 5
    if boundaries:
        assert all(not past for experience, _, past in asked if not experience)
        assert any(0 < past < replayed for _, replayed, past in asked)
    else:
        assert all(past == replayed for _, replayed, past in asked)


@pytest.mark.parametrize("boundaries", [True, False])
def test_rows_come_once_and_in_the_order_of_arrival(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boundaries: bool
) -> None:
    orders: list[torch.Tensor] = []
    enter = Course.enter

    def watched(self: Course, epoch: int) -> None:
        enter(self, epoch)
        orders.append(self.rows.sample_id[self.epoch.order])

    monkeypatch.setattr(Course, "enter", watched)
    scenario = with_(stream={**ONLINE["stream"], "boundaries": boundaries})
    run(plugins, tmp_path, scenario)
    (tmp_path / "t.yaml").write_text(to_yaml(scenario))
    loaded = load(tmp_path / "t.yaml", [], plugins.registry)
    composer = Composer(loaded.scenario, plugins.registry, torch.device("cpu"), tmp_path / "cache", tmp_path)
    arrivals = [e.train.sample_id for e in composer.compose().stream]
    assert [order.tolist() for order in orders] == [rows.tolist() for rows in arrivals]
    every = torch.cat(orders)
    assert len(every) == len(set(every.tolist())) == 160
    orders.clear()
    (tmp_path / "shuffled").mkdir()
    run(
        plugins,
        tmp_path / "shuffled",
        {**scenario, "stream": {**ONLINE["stream"], "online": False, "boundaries": True}},
    )
    assert [order.tolist() for order in orders] != [rows.tolist() for rows in arrivals], "else they are shuffled"
    assert [set(order.tolist()) for order in orders] == [set(rows.tolist()) for rows in arrivals]


def test_whoever_overrides_a_moment_needs_boundaries_unless_the_class_says_not() -> None:
    class Plain(Loss): ...

    class AtEnd(Plain):
        def end(self, experience: Any, student: Any) -> None: ...

    class Bookkeeping(AtEnd):
        needs_boundaries = False

    class MoreAtEnd(Bookkeeping):
        def end(self, experience: Any, student: Any) -> None: ...

    class Says(Memory):
        needs_boundaries = True

    told = [needs_boundaries(each()) for each in (Plain, AtEnd, Bookkeeping, MoreAtEnd, Says, Memory)]
    assert told == [False, True, False, True, True, False]


def test_what_the_shipped_parts_say() -> None:
    free = [Ema(), CrossEntropy(), NCA(), Reservoir(), Ring(), Linear(1, 0, experiences=2), CrossEntropy("batch")]
    by_experience = [NCA(over="new"), CrossEntropy("own"), Ring(per="experience"), Linear(1, 0), OldFraction()]
    needy = [Previous(), EWC(), *by_experience]
    assert [needs_boundaries(part) for part in free] == [False] * len(free)
    assert [needs_boundaries(part) for part in needy] == [True] * len(needy)


REPEATED = {
    "dataset": {"name": "digits", "rows_per_class": 16, "size": 8},
    "split": {"by": "repeated", "experiences": 4, "repetition": 0.6, "first_occurrence": 0.4},
}


WITH_A_HEAD = ["bic", "icarl", "lucir", "ncm", "slda", "wa", "derpp"]
METHODS = ["icarl", "lucir", "ncm", "slda", "wa", "derpp", "lwf", "lwf_mc", "eeil", "er_ace", "ewc", "rwalk", "gem"]
LONG = [pytest.param(method, marks=pytest.mark.slow) for method in ("bic", "gdumb")]


@pytest.mark.parametrize("method", [*METHODS, *LONG])
def test_methods_go_through_classes_that_come_again(plugins: Plugins, tmp_path: Path, method: str) -> None:
    head = {} if method in WITH_A_HEAD else {"head": "linear"}
    student = {"model": ONLINE["student"]["model"], **head}
    train = {"batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.02}}
    scenario = {"name": "again", "method": method, "stream": REPEATED, "student": student, "train": train}
    result = run(plugins, tmp_path, {**scenario, "tracking": {"mode": "off"}}, limit_batches=2)
    assert result["status"] == "finished"
