"""The switches for speed: which values they take, and which networks they reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from clkd.data.augment import Augment
from clkd.engine.compose import Composer
from clkd.engine.parts import Parts
from clkd.engine.speed import sizes
from clkd.engine.term import Side, Term
from clkd.losses.response import KD
from clkd.memory.reservoir import Reservoir
from clkd.models.precision import autocast
from clkd.models.student import Student
from clkd.models.taps import Taps
from clkd.optimizers import OptimizerOptions
from clkd.options import Parsing
from clkd.plugins import load_plugins
from clkd.ranks import Ranks
from clkd.scenario.model import Scenario
from clkd.scenario.train import TrainOptions
from clkd.teachers.previous import Previous

SGD = OptimizerOptions(kind="sgd", lr=0.1)
SCENARIO: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 10}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "teachers": {"previous": "previous", "big": {"kind": "fit", "model": {"kind": "mlp", "hidden": [9]}, "epochs": 1}},
    "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "big"]}],
}


def networks(tmp_path: Path, train: dict[str, Any]) -> tuple[Student, Student]:
    registry = load_plugins().registry
    scenario = Scenario.model_validate({**SCENARIO, "train": {"optimizer": "sgd", **train}}, context=Parsing(registry))
    parts = Composer(scenario, registry, torch.device("cpu"), tmp_path, tmp_path).compose().parts
    return parts.student, parts.teachers["big"].module()


@pytest.mark.parametrize("given", ["yes", "default", 1, None])
def test_a_mode_that_is_none_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="give true, false, reduce-overhead or max-autotune; got"):
        TrainOptions(optimizer=SGD, compile=given)


def test_nothing_is_on_by_default(tmp_path: Path) -> None:
    for network in networks(tmp_path, {}):
        assert network.runner is Taps.run
        assert network.autocast is None


def test_the_switches_reach_student_and_teacher_but_not_the_teachers_fit(tmp_path: Path) -> None:
    _, plain = networks(tmp_path / "a", {})
    student, teacher = networks(tmp_path / "b", {"compile": True, "precision": "bf16"})
    for network in (student, teacher):
        assert network.runner is not Taps.run
        assert network.autocast == torch.bfloat16
    assert student.runner is not teacher.runner
    for a, b in zip(plain.state_dict().values(), teacher.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    fitted = [sorted(f.name for f in (tmp_path / run / "teachers").iterdir()) for run in "ab"]
    assert fitted[0] == fitted[1]


@pytest.mark.parametrize(
    ("able", "auto"),
    [
        ({}, None),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, None),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon", "amx_bf16": False}, None),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon", "amx_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_auto_is_bf16_on_a_cpu_that_is_faster_in_it(
    able: dict[str, bool | str], auto: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    cpu = torch.device("cpu")
    assert [autocast(p, cpu) for p in ("auto", "float32", "bf16")] == [auto, None, torch.bfloat16]


def test_auto_is_float32_where_torch_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert autocast("auto", torch.device("cpu")) is None


def test_sizes_are_those_that_come_often(augment: Augment, make_student: Any) -> None:
    options = TrainOptions(optimizer=SGD, batch_size=10, replay_batch_size=20, eval_batch_size=100)
    assert sizes(Parts(make_student(), augment, [], memory=Reservoir(size=50)), options) == {10, 30, 100}
    assert sizes(Parts(make_student(), augment, [], memory=Reservoir(size=5)), options) == {10, 15, 100}
    twice = options.model_copy(update={"replay_draws": 2})
    assert sizes(Parts(make_student(), augment, [], memory=Reservoir(size=50)), twice) == {10, 50, 100}


@pytest.mark.parametrize(("rows", "more"), [("replay", {20, 40}), ("replay2", {20, 40}), ("new", set()), (None, set())])
def test_rows_that_a_teacher_is_asked_about_alone_are_such_a_size(
    rows: str | None, more: set[int], augment: Augment, make_student: Any
) -> None:
    term = Term("kd", KD(), (Side("student", rows=rows), Side("teacher")))
    options = TrainOptions(optimizer=SGD, batch_size=10, replay_batch_size=20, eval_batch_size=100, replay_draws=2)
    parts = Parts(make_student(), augment, [term], {"teacher": Previous()}, memory=Reservoir(size=50))
    assert sizes(parts, options) == {10, 50, 100} | more


@pytest.mark.parametrize(("rank", "shares"), [(0, {4, 4 + 2 * 7, 100}), (1, {3, 3 + 2 * 7, 100})])
def test_a_rank_compiles_for_its_shares(rank: int, shares: set[int], augment: Augment, make_student: Any) -> None:
    train = {"batch_size": 10, "replay_batch_size": 20, "eval_batch_size": 100, "replay_draws": 2}
    options, parts = TrainOptions(optimizer=SGD, **train), Parts(make_student(), augment, [], memory=Reservoir(size=50))
    assert sizes(parts, options, Ranks(rank, world=3)) == shares


def test_who_composes_says_which_rank_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Ranks] = []
    monkeypatch.setattr("clkd.engine.compose.speed_up", lambda parts, options, ranks: told.append(ranks))
    registry, ranks = load_plugins().registry, Ranks()
    scenario = Scenario.model_validate({**SCENARIO, "train": {"optimizer": "sgd"}}, context=Parsing(registry))
    Composer(scenario, registry, torch.device("cpu"), tmp_path, tmp_path, ranks=ranks).compose()
    assert told[0] is ranks
