"""The YAML of docs/schedules.md and docs/teachers.md does what the text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from clkd.engine.compose import Composer
from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest

DOCS = Path(__file__).parents[2] / "docs"


def blocks(name: str) -> list[dict[str, Any]]:
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)]


def test_the_schedules_train(tmp_path: Path) -> None:
    (scenario,) = blocks("schedules.md")
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml({"name": "doc", **scenario, "tracking": {"mode": "off"}, "output": str(tmp_path / "run")}))
    assert execute(RunRequest(scenario=path, quiet=True), load_plugins())["status"] == "finished"


def test_the_teachers_are_composed_and_train(tmp_path: Path) -> None:
    scenario, registry = blocks("schedules.md")[0], load_plugins().registry
    teachers, foreign, *_ = blocks("teachers.md")
    (tmp_path / "cache").mkdir()
    path = tmp_path / "s.yaml"
    losses = ["cross_entropy", *({"kind": "kd", "between": ["student", name]} for name in ("past", "both"))]
    made = {"name": "doc", **scenario, **teachers, "losses": losses, "tracking": {"mode": "off"}}
    path.write_text(to_yaml({**made, "output": str(tmp_path / "run")}))
    assert execute(RunRequest(scenario=path, quiet=True), load_plugins())["status"] == "finished"
    loaded = load(path, [], registry)
    composer = Composer(loaded.scenario, registry, torch.device("cpu"), tmp_path / "cache", tmp_path)
    context = composer.ground().context
    expert = context.network(registry.parse("models", foreign["teachers"]["expert"]["model"]), (0, 1, 2, 3), 0)
    weights = {name: tensor.contiguous() for name, tensor in expert.state_dict().items()}
    save_file(weights, tmp_path / "expert.safetensors")
    losses = ["cross_entropy", {"kind": "kd", "between": ["student", "expert"]}]
    stream = {"split": {"by": "class", "experiences": 1}, "dataset": scenario["stream"]["dataset"]}
    made = {"name": "doc", **scenario, **foreign, "stream": stream, "losses": losses, "tracking": {"mode": "off"}}
    path.write_text(to_yaml({**made, "output": str(tmp_path / "foreign")}))
    assert execute(RunRequest(scenario=path, quiet=True), load_plugins())["status"] == "finished"


def test_chains_runs_and_views_train(tmp_path: Path) -> None:
    """Each as it stands there; the run that is to teach is the one of the first."""
    base, plugins = blocks("schedules.md")[0], load_plugins()
    _, _, _, assistant, reborn, grown, colours = blocks("teachers.md")
    for place, part in zip(("runs/first", "b", "c", "d"), (assistant, reborn, grown, colours), strict=True):
        (name,) = part["teachers"]
        losses = ["cross_entropy", {"kind": "kd", "between": ["student", name]}]
        path = tmp_path / "s.yaml"
        made = {"name": "doc", **base, **part, "losses": losses, "memory": "none", "tracking": {"mode": "off"}}
        path.write_text(to_yaml({**made, "output": str(tmp_path / place)}))
        assert execute(RunRequest(scenario=path, quiet=True), plugins)["status"] == "finished", part


def test_every_schedule_and_teacher_is_on_its_page() -> None:
    registry = load_plugins().registry
    for kind in ("schedules", "teachers"):
        page = (DOCS / f"{kind}.md").read_text(encoding="utf-8")
        assert [name for name in registry.names(kind) if f"`{name}`" not in page] == []
