"""Runs of scenarios that differ from one another in little."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clkd.engine.compose import Composer, Composition
from clkd.engine.execute import execute
from clkd.plugins import Plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest


@dataclass(frozen=True)
class SmallRuns:
    """Of what `base` says, with changes: those of `train` key by key, other sections whole."""

    base: dict[str, Any]

    def write(self, home: Path, name: str, changes: dict[str, Any]) -> Path:
        train = {**self.base["train"], **changes.get("train", {})}
        scenario = home / f"{name}.yaml"
        scenario.write_text(to_yaml({**self.base, **changes, "train": train, "output": str(home / name)}))
        return scenario

    def run(self, plugins: Plugins, home: Path, name: str, changes: dict[str, Any], **request: Any) -> dict[str, Any]:
        return execute(RunRequest(scenario=self.write(home, name, changes), quiet=True, **request), plugins)

    def compose(self, plugins: Plugins, home: Path, changes: dict[str, Any]) -> Composition:
        (home / "cache").mkdir(exist_ok=True)
        loaded = load(self.write(home, "composed", changes), (), plugins.registry)
        return Composer(loaded.scenario, plugins.registry, torch.device("cpu"), home / "cache", home).compose()
