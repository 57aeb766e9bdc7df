"""Which trackers a run has."""

from __future__ import annotations

from clkd.registry import Registry
from clkd.scenario.model import Scenario
from clkd.tracking.group import Trackers


def build_trackers(scenario: Scenario, registry: Registry, quiet: bool) -> Trackers:
    """The console always; `metrics.jsonl` unless tracking is off; MLflow unless it is off or offline; then plugins'."""
    wanted = scenario.tracking
    parts = [registry.parse("trackers", {"kind": "console", "quiet": quiet})]
    if wanted.mode != "off":
        parts.append(registry.parse("trackers", "jsonl"))
        parts.extend(wanted.trackers)
    if wanted.mode == "mlflow":
        options = wanted.model_dump(include={"uri", "experiment", "child_runs", "tags"})
        parts.append(registry.parse("trackers", {"kind": "mlflow", **options}))
    return Trackers(registry.build(part) for part in parts)
