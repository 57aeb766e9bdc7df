"""What docs/losses/regularisers.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from clkd.engine.execute import execute
from clkd.losses.regulariser_options import REGULARISERS
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

TEXT = (Path(__file__).parents[2] / "docs/losses/regularisers.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("place", [0, 1])
def test_its_scenarios_run(place: int, tmp_path: Path) -> None:
    scenario = tmp_path / "s.yaml"
    scenario.write_text(blocks("yaml")[place])
    settings = ("tracking.mode=off", f"output={tmp_path / 'run'}")
    request = RunRequest(scenario=scenario, overrides=settings, limit_experiences=2, limit_batches=3, quiet=True)
    assert execute(request, load_plugins())["status"] == "stopped"


def test_its_own_loss_keeps_the_laws_and_trains(tmp_path: Path) -> None:
    plugin, check = blocks("python")
    exec(plugin + check, {})
    (tmp_path / "my_plugins").mkdir()
    (tmp_path / "my_plugins" / "alike.py").write_text(plugin)
    scenario = yaml.safe_load(blocks("yaml")[0])
    scenario |= {"losses": ["cross_entropy", "alike"], "tracking": {"mode": "off"}, "output": str(tmp_path / "run")}
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml(scenario))
    request = RunRequest(scenario=path, limit_experiences=2, limit_batches=2, quiet=True)
    assert execute(request, load_plugins([tmp_path / "my_plugins"]))["status"] == "stopped"


def test_every_one_is_on_its_page() -> None:
    names = [name for name, *_ in REGULARISERS] + load_plugins().registry.names("gradients")
    assert len(names) == 6
    for name in names:
        assert TEXT.count(f"\n| `{name}`") >= 3, name
