"""Rows that are mixed with each other: all see the same ones, and memory keeps them apart."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from noting import Noting

import clkd.losses
from clkd.data.augment import Augment
from clkd.data.mix import Mix
from clkd.data.strong import Strong
from clkd.engine.execute import execute
from clkd.engine.explain import explain, text
from clkd.engine.parts import Parts
from clkd.engine.step import Step
from clkd.engine.term import Side, Term
from clkd.errors import UserError
from clkd.experience import Experience
from clkd.losses.base import Loss
from clkd.losses.classification import CrossEntropy
from clkd.losses.response import KD
from clkd.memory.reservoir import Reservoir
from clkd.models.student import Student
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest
from clkd.schedules.base import Progress
from clkd.seeding import generator

PLUGINS = load_plugins()
BIG: dict[str, Any] = {"big": {"kind": "fit", "model": {"kind": "mlp", "hidden": [24]}}}
SCENARIO: dict[str, Any] = {
    "name": "mixed",
    "stream": {
        "dataset": {"name": "digits", "rows_per_class": 12},
        "split": {"by": "class", "experiences": 2},
        "augment": {"mix": {"kind": "mixup", "alpha": 0.4}},
    },
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "teachers": {"previous": "previous", **BIG},
    "losses": [
        "cross_entropy",
        {"kind": "kd", "between": ["student", "previous"]},
        {"kind": "kd", "between": ["student", "big"]},
    ],
    "memory": {"kind": "reservoir", "size": 20},
    "train": {"batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "off"},
}


@pytest.mark.parametrize("strong", [None, "noise"])
def test_a_teacher_sees_the_very_rows_that_the_student_sees_and_memory_keeps_them_apart(
    make_student: Callable[[], Student], experiences: list[Experience], strong: str | None
) -> None:
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    noise = Strong(mean, std, noise=0.5) if strong else None
    augment, noting = Augment(mean, std, 1, True, None, noise, Mix("mixup", 1.0)), Noting()
    terms = [Term("ce", CrossEntropy(), (Side("student"),)), Term("kd", KD(), (Side("student"), Side("t")))]
    parts = Parts(make_student(), augment, terms, {"t": noting}, Reservoir(size=500))
    parts.begin(experiences[0], 0)
    shown: list[torch.Tensor] = []
    parts.student.backbone.register_forward_pre_hook(lambda module, given: shown.append(given[0]))
    step = Step(parts, torch.optim.SGD(list(parts.parameters()), 0.01), Progress(), replay=8)
    rows = experiences[0].train.gather(torch.arange(16))
    values = step(rows, generator(0), generator(1))
    assert torch.equal(noting.shown[0].x, shown[0])
    assert not torch.equal(shown[0], augment.plain(rows.x)), "they are mixed"
    kept = parts.memory.sample(500, generator(0))
    assert sorted(kept.sample_id.tolist()) == sorted(rows.sample_id.tolist())
    for one in range(16):
        place = int((rows.sample_id == kept.sample_id[one]).nonzero())
        assert torch.equal(kept.x[one], rows.x[place]), "as stored"
        assert int(kept.y[one]) == int(rows.y[place]), "with its own label"
    assert values["ce"] > 0


def composed(folder: Path, **changes: Any) -> Any:
    file = folder / "mixed.yaml"
    file.write_text(to_yaml({**SCENARIO, **changes}))
    return file


def test_a_run_learns_from_mixed_rows_and_says_that_it_mixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = composed(tmp_path, train={**SCENARIO["train"], "epochs": 25})
    told = execute(RunRequest(scenario=file, quiet=True), PLUGINS)
    assert told["metrics"]["average_accuracy"] > 0.5
    assert "mixup" in execute(RunRequest(scenario=file, quiet=True, dry_run=True), PLUGINS)["description"]["stream"]
    assert "mixup" in text(explain(load(file, (), PLUGINS.registry), PLUGINS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"losses": ["binary_cross_entropy"], "teachers": {}},
            "losses.0: binary_cross_entropy reads one label of a row",
        ),
        (
            {"losses": ["cross_entropy", {"kind": "dkd", "between": ["student", "big"]}], "teachers": BIG},
            "losses.1: dkd_big reads one label",
        ),
        (
            {"losses": [{"kind": "kd", "between": ["student", "big"], "rows": "valid"}], "teachers": BIG},
            "losses.0: kd_big reads one label",
        ),
        ({"memory": {"kind": "reservoir", "size": 20, "store": ["logits"]}}, "goes by what the student says"),
        ({"memory": {"kind": "gss", "size": 20}}, "memory: GSS goes by what the student says"),
        ({"memory": {"kind": "random", "size": 20, "store": ["logits"]}}, "memory: Random goes by what the student"),
        ({"transfer": "coral"}, "transfer: Coral compares rows"),
        (
            {"transfer": "dsbn", "student": {"model": {"kind": "resnet8", "width": 2}, "head": "linear"}},
            r"transfer: dsbn .*mix\.rows: new",
        ),
    ],
)
def test_who_takes_a_mixed_row_for_one_of_a_single_class_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        execute(RunRequest(scenario=composed(tmp_path, **changes), quiet=True), PLUGINS)


def test_no_loss_inherits_that_it_reads_mixed_rows() -> None:
    """Who overrides `forward` has to say so again."""
    for module in pkgutil.iter_modules(clkd.losses.__path__):
        importlib.import_module(f"clkd.losses.{module.name}")
    known, found = [Loss], []
    while known:
        loss = known.pop()
        known += loss.__subclasses__()
        found += [loss] if loss.reads_mixed else []
    ours = [loss for loss in found if loss.__module__.startswith("clkd.")]
    assert CrossEntropy in ours
    assert not [loss for loss in ours if "forward" in vars(loss) and "reads_mixed" not in vars(loss)]
