"""The YAML and the plugin of docs/methods.md work, and its table has every method."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from clkd.engine.execute import execute
from clkd.plugins import Plugins, load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

TEXT = (Path(__file__).parents[2] / "docs/methods.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def trains(home: Path, scenario: dict[str, Any], plugins: Plugins, *settings: str) -> None:
    path = home / "s.yaml"
    path.write_text(to_yaml({"name": "doc", **scenario, "tracking": {"mode": "off"}, "output": str(home / "run")}))
    assert execute(RunRequest(scenario=path, overrides=settings, quiet=True), plugins)["status"] == "finished"


def test_what_is_shown_trains(tmp_path: Path) -> None:
    plugins = load_plugins()
    first, dgr, lwf, mixed = map(yaml.safe_load, blocks("yaml"))
    student = {**first["student"], "head": "linear"}
    own = {"dgr": {**first, **dgr}, "lwf": {**first, **lwf, "student": student}}
    for place, scenario in {"first": first, **own, "mixed": mixed}.items():
        (tmp_path / place).mkdir()
        trains(tmp_path / place, scenario, plugins)
    (tmp_path / "er").mkdir()
    trains(tmp_path / "er", {**first, "student": student}, plugins, "method=er")


def test_a_method_of_your_own_trains(tmp_path: Path) -> None:
    (tmp_path / "my_plugins").mkdir()
    (tmp_path / "my_plugins" / "mine.py").write_text(blocks("python")[0])
    first = yaml.safe_load(blocks("yaml")[0])
    student = {**first["student"], "head": "linear"}
    plugins = load_plugins([tmp_path / "my_plugins"])
    trains(tmp_path, {**first, "method": "er_herding", "student": student}, plugins)


def test_every_method_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == set(load_plugins().registry.names("methods"))
