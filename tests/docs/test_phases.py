"""The YAML of docs/heads.md and docs/phases.md trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.phase import PhaseOptions
from clkd.scenario.request import RunRequest

DOCS = Path(__file__).parents[2] / "docs"


def blocks(name: str) -> list[dict[str, Any]]:
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)]


def trains(home: Path, scenario: dict[str, Any]) -> None:
    path = home / "s.yaml"
    path.write_text(to_yaml({"name": "doc", **scenario, "tracking": {"mode": "off"}, "output": str(home / "run")}))
    assert execute(RunRequest(scenario=path, quiet=True), load_plugins())["status"] == "finished"


@pytest.mark.parametrize("place", range(3))
def test_the_heads_train(tmp_path: Path, place: int) -> None:
    trains(tmp_path, blocks("heads.md")[place])


@pytest.mark.parametrize("place", range(3))
def test_the_phases_train(tmp_path: Path, place: int) -> None:
    whole, *parts = blocks("phases.md")
    trains(tmp_path, whole | ([{}, *parts][place]))


def test_every_head_and_every_key_of_a_phase_is_explained() -> None:
    heads = set(re.findall(r"^\| `(\w+)`", (DOCS / "heads.md").read_text(), re.MULTILINE))
    assert heads == set(load_plugins().registry.names("heads"))
    told = (DOCS / "phases.md").read_text()
    assert all(f"`{name}`" in told for name in PhaseOptions.model_fields)
