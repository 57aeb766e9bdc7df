"""What docs/domains.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import yaml

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.measures import ShiftOptions
from clkd.scenario.request import RunRequest
from clkd.streams import NO_CORRUPTION, Look

HOUSE = Path(__file__).parents[2]
TEXT = (HOUSE / "docs/domains.md").read_text(encoding="utf-8")
REST = {
    "name": "shown",
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "train": {"optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "off"},
}


def blocks() -> list[dict[str, Any]]:
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]


def test_the_first_stream_runs(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml({**REST, **blocks()[0], "output": str(tmp_path / "run")}))
    assert execute(RunRequest(scenario=path, quiet=True), load_plugins())["status"] == "finished"
    assert len(list((tmp_path / "run" / "shift").iterdir())) == 4


def test_the_data_sets_are_understood() -> None:
    part = load_plugins().registry.parse("datasets", blocks()[1]["stream"]["dataset"])
    assert [each.name for each in part.options.of] == ["mnist", "digits", "image_folder"]


def test_experts_of_data_sets_teach(tmp_path: Path) -> None:
    """As shown, but for the photographs, on fewer rows and with smaller networks."""
    _, sets, experts = blocks()
    few = [
        {**({"name": part} if isinstance(part, str) else part), "rows_per_class": 5}
        for part in sets["stream"]["dataset"]["of"][:2]
    ]
    stream = {**sets["stream"], "dataset": {**sets["stream"]["dataset"], "of": few}}
    for teacher in list(experts["teachers"].values())[:2]:
        teacher |= {"model": {"kind": "mlp", "hidden": [8]}, "epochs": 1}
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml({**REST, **experts, "stream": stream, "output": str(tmp_path / "run")}))
    assert execute(RunRequest(scenario=path, quiet=True), load_plugins())["status"] == "finished"


def test_every_corruption_option_and_shipped_scenario_is_named() -> None:
    assert {*get_args(Look)} - {*NO_CORRUPTION} == {*re.findall(r"^\| `(\w+)` \|.*\|.*[0-9]", TEXT, re.MULTILINE)} - {
        *ShiftOptions.model_fields
    }
    assert all(f"| `{name}` |" in TEXT for name in ShiftOptions.model_fields)
    assert all(f"`{path.name}`" in TEXT for path in (HOUSE / "scenarios/domains").iterdir())
