"""What docs/memory.md shows is what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/memory.md").read_text(encoding="utf-8")
BASE: dict[str, Any] = {
    "name": "shown",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 12}, "split": {"by": "class", "experiences": 5}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "memory": {"kind": "reservoir", "size": 50, "store": ["logits"]},
    "train": {"batch_size": 8, "optimizer": {"kind": "sgd", "lr": 0.01}},
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.split("\n")[0])
def test_every_piece_of_a_scenario_trains(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shown.yaml").write_text(to_yaml(BASE | yaml.safe_load(block)))
    request = RunRequest(scenario=Path("shown.yaml"), limit_experiences=2, tracking="off", quiet=True)
    assert execute(request, load_plugins())["status"] == "stopped"


def test_every_command_is_about_something_that_is_there() -> None:
    for line in (line for block in blocks("bash") for line in block.splitlines() if line.startswith("clkd run ")):
        load(ROOT / shlex.split(line)[2], (), load_plugins().registry)
    assert "`python benchmarks/memories.py --seeds 3`" in TEXT
    assert (ROOT / "benchmarks/memories.py").is_file()


def test_every_memory_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert sorted({*rows, "none"} - {"kind"}) == load_plugins().registry.names("memories")
    assert all(f"kind: {name}" in TEXT for name in load_plugins().registry.names("retrievals"))
