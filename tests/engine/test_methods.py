"""Every method that clkd names trains by itself, and parts of any of them go together with parts of others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

PLUGINS = load_plugins()
BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 2}},
    "train": {"epochs": 4, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9}},
    "tracking": {"mode": "off"},
}
MLP = {"kind": "mlp", "hidden": [32]}
OWN_HEAD = ("bic", "der", "derpp", "fdr", "icarl", "lucir", "ncm", "podnet", "slda", "wa", "xder")
SETTINGS = {
    "podnet": ("student.model={kind: resnet8, width: 4}", "phases.0.epochs=2", "train.optimizer.lr=0.05"),
    "gdumb": ("phases.0.epochs=8",),
    "bic": ("phases.0.epochs=5", "phases.0.optimizer.lr=0.02", "phases.0.keep=20", "memory.size=40"),
    "eeil": ("phases.0.epochs=2",),
    "mir": ("train.batch_size=10",),
    "mas": ("train.optimizer.lr=0.02",),
    "fixmatch": ("stream.labelled=0.5", "stream.augment={strong: {rotate: 15}}"),
    "mean_teacher": ("stream.labelled=0.5", "stream.augment={strong: {rotate: 15}}"),
    "pseudo_label": ("stream.labelled=0.5",),
}


def trained(home: Path, *settings: str, **changes: Any) -> dict[str, Any]:
    path = home / "s.yaml"
    path.write_text(to_yaml({**BASE, **changes, "output": str(home / "run")}))
    return execute(RunRequest(scenario=path, overrides=settings, quiet=True), PLUGINS)


@pytest.mark.slow
@pytest.mark.parametrize("method", PLUGINS.registry.names("methods"))
def test_every_method_trains(method: str, tmp_path: Path) -> None:
    """Two experiences of five classes each: chance is 10 %."""
    student = {"model": MLP} if method in OWN_HEAD else {"model": MLP, "head": "linear"}
    result = trained(tmp_path, *SETTINGS.get(method, ()), method=method, student=student)
    print(method, result["metrics"])
    assert result["status"] == "finished"
    assert all(math.isfinite(value) for value in result["metrics"].values() if value is not None)
    assert result["metrics"]["average_accuracy"] > 0.2


def test_joint_training_is_one_experience(tmp_path: Path) -> None:
    student = {"model": MLP, "head": "linear"}
    result = trained(tmp_path, "stream.split.experiences=1", method="finetune", student=student)
    assert result["metrics"]["average_accuracy"] > 0.6


def test_parts_of_many_methods_train_together(tmp_path: Path) -> None:
    """ER-ACE's labels, a teacher from outside, a previous self, iCaRL's memory, WA's head, and MAS."""
    result = trained(
        tmp_path,
        method="er_ace",
        student={"model": MLP, "head": {"kind": "linear", "align": True}},
        teachers={"external": {"kind": "fit", "model": MLP, "epochs": 1}, "previous": "previous"},
        losses=[
            {"kind": "cross_entropy", "between": ["student@new"], "over": "batch"},
            {"kind": "cross_entropy", "name": "replayed", "between": ["student@replay"]},
            {"kind": "kd", "between": ["student", "external"], "temperature": 4, "weight": 0.5},
            {"kind": "kd", "name": "old", "between": ["student", "previous"], "weight": "old_fraction"},
            {"kind": "mas", "weight": 0.1},
        ],
        memory={"kind": "herding", "size": 40},
    )
    assert result["metrics"]["average_accuracy"] > 0.4
