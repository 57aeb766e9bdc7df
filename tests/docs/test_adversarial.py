"""What docs/losses/adversarial.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

TEXT = (Path(__file__).parents[2] / "docs/losses/adversarial.md").read_text(encoding="utf-8")
SCENARIO = {
    "name": "shown",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 12}, "split": {"by": "class", "experiences": 5}},
    "student": {"model": {"kind": "resnet8", "width": 3}, "head": "linear"},
    "teachers": {"external": {"kind": "fit", "model": {"kind": "resnet8", "width": 4}, "epochs": 1}},
    "train": {"batch_size": 8, "optimizer": {"kind": "sgd", "lr": 0.01}},
    "tracking": {"mode": "off"},
}
FEW = {"limit_experiences": 2, "limit_batches": 2, "quiet": True}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def run(folder: Path, losses: list[object], plugins: list[Path]) -> str:
    path = folder / "scenario.yaml"
    path.write_text(to_yaml({**SCENARIO, "losses": losses, "output": str(folder / "run")}))
    status: str = execute(RunRequest(scenario=path, **FEW), load_plugins(plugins))["status"]
    return status


def test_the_losses_shown_train(tmp_path: Path) -> None:
    (shown,) = blocks("yaml")
    assert run(tmp_path, yaml.safe_load(shown)["losses"], []) == "stopped"


def test_the_loss_of_your_own_keeps_the_laws_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin, check = blocks("python")
    exec(plugin + check, {})
    (tmp_path / "my_plugins").mkdir()
    (tmp_path / "my_plugins" / "least_squares.py").write_text(plugin)
    assert len(plugin.splitlines()) <= 15
    losses = ["cross_entropy", {"kind": "least_squares", "between": ["student", "external"]}]
    assert blocks("bash") == ["clkd run scenario.yaml --plugins-dir my_plugins\n"]
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path, losses, [tmp_path / "my_plugins"]) == "stopped"
