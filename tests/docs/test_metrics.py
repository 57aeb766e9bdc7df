"""The YAML of docs/metrics.md trains, and the page names every metric."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
TOOLS, JOINT, ANYTIME = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))


def trained(home: Path, name: str, experiences: int, told: dict[str, Any]) -> dict[str, float]:
    """The metrics of a small run of what the page shows."""
    scenario = {
        "name": name,
        "stream": {
            "dataset": {"name": "digits", "rows_per_class": 20},
            "split": {"by": "class", "experiences": experiences},
        },
        "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
        "losses": ["cross_entropy"],
        "train": {"batch_size": 10, "optimizer": "sgd", **told.get("train", {})},
        "tracking": {"mode": "off"},
        "output": f"runs/{name}",
        **{key: value for key, value in told.items() if key != "train"},
    }
    path = home / f"{name}.yaml"
    path.write_text(to_yaml(scenario))
    metrics: dict[str, float] = execute(RunRequest(scenario=path, quiet=True), load_plugins())["metrics"]
    return metrics


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_definitions_of_other_tools(tmp_path: Path) -> None:
    assert trained(tmp_path, "tools", 3, TOOLS).keys() >= set(TOOLS["metrics"])


def test_intransigence_against_a_joint_run(tmp_path: Path) -> None:
    trained(tmp_path, "joint", 1, {})
    assert "intransigence" in trained(tmp_path, "stream", 2, JOINT)


def test_accuracy_at_any_time(tmp_path: Path) -> None:
    metrics = trained(tmp_path, "anytime", 2, {**ANYTIME, "train": {**ANYTIME["train"], "evaluate_every": 5}})
    assert 0 < metrics["anytime_accuracy"] < 1


def test_every_metric_is_on_the_page() -> None:
    assert [name for name in load_plugins().registry.names("metrics") if f"`{name}`" not in PAGE] == []
