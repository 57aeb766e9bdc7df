"""The YAML of docs/mutual.md runs, and logs what the text says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from clkd.engine.execute import execute
from clkd.plugins import load_plugins
from clkd.scenario.request import RunRequest

TEXT = (Path(__file__).parents[2] / "docs/mutual.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("place", range(2))
def test_its_scenarios_train_and_log_the_peers_accuracy(tmp_path: Path, place: int) -> None:
    (tmp_path / "s.yaml").write_text(BLOCKS[place])
    output = (f"output={tmp_path / 'run'}",)
    request = RunRequest(scenario=tmp_path / "s.yaml", overrides=output, limit_batches=3, quiet=True)
    assert execute(request, load_plugins())["status"] == "finished"
    told = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    metrics = [line["metrics"] for line in told if line["event"] == "experience"]
    assert metrics[-1].keys() >= {"peers/mate/average_accuracy", "peers/mate/exp_00", "peers/mate/exp_04"}


def test_there_are_two_scenarios() -> None:
    assert len(BLOCKS) == 2
