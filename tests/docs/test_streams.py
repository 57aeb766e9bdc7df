"""What docs/streams.md shows is what happens, and all streams and options are on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clkd.engine.boundaries import needs_boundaries
from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.registry import Registry
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.scenario.stream import Imbalance
from clkd.streams import clkd_register_streams

HOUSE = Path(__file__).parents[2]
TEXT = (HOUSE / "docs/streams.md").read_text(encoding="utf-8")
ONLINE, UNBOUNDED = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
SHIPPED = sorted((HOUSE / "scenarios/streams").glob("*.yaml"))


def run(folder: Path, scenario: dict[str, Any], **request: Any) -> dict[str, Any]:
    path = folder / "s.yaml"
    path.write_text(to_yaml({**scenario, "tracking": {"mode": "off"}, "output": str(folder / "run")}))
    return execute(RunRequest(scenario=path, quiet=True, **request), load_plugins())


def test_the_scenario_trains(tmp_path: Path) -> None:
    assert run(tmp_path, ONLINE)["status"] == "finished"


def test_so_it_does_without_boundaries(tmp_path: Path) -> None:
    unbounded = {key: {**ONLINE[key], **UNBOUNDED[key]} for key in ("stream", "train")}
    assert run(tmp_path, {**ONLINE, **unbounded})["status"] == "finished"


def test_every_stream_in_the_first_table_can_be_read() -> None:
    registry = Registry()
    clkd_register_streams(register=registry.register_for("streams", "clkd.streams", "clkd"))
    shown = [yaml.safe_load(text) for text in re.findall(r"^\| `(\{by: [^`…]*\})`", TEXT, re.MULTILINE)]
    assert {each["by"] for each in shown} | {"task"} == set(registry.names("streams"))
    for each in shown:
        registry.parse("streams", each)


def test_every_option_is_spoken_of() -> None:
    for name in (
        *Imbalance.model_fields,
        "blur",
        "disjoint",
        "fuzzy",
        "sizes",
        "first",
        "repetition",
        "first_occurrence",
    ):
        assert f"{name}: " in TEXT, name
    for path in SHIPPED:
        assert f"`{path.stem}`" in TEXT


def test_the_python_example_says_what_it_says() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    counting = names["Counting"]
    more = type("More", (counting,), {"end": lambda self, experience, student: None})
    assert not needs_boundaries(counting())
    assert needs_boundaries(more())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_stream_trains_on_the_stand_in(path: Path, tmp_path: Path) -> None:
    assert len([line for line in path.read_text().splitlines() if line.strip()]) < 20
    overrides = ("tracking.mode=off", f"output={tmp_path / 'run'}")
    request = RunRequest(scenario=path, overrides=overrides, limit_batches=2, limit_experiences=3, quiet=True)
    assert execute(request, load_plugins())["status"] == "stopped"
