"""Which trackers a run has."""

from __future__ import annotations

from clkd.registry import Registry
from clkd.scenario.model import Scenario
from clkd.tracking.group import Trackers
from clkd.tracking.logged import registered_name
from clkd.tracking.system import interval


def build_trackers(scenario: Scenario, registry: Registry, quiet: bool) -> Trackers:
    """`metrics.jsonl` and the console always; MLflow unless it is left out; plugins' unless tracking is off."""
    wanted, required = scenario.tracking, scenario.tracking.mode == "required"
    own = {"kind": "jsonl", "system_metrics": interval(wanted.system_metrics)}
    parts = [registry.parse("trackers", own), registry.parse("trackers", {"kind": "console", "quiet": quiet})]
    if wanted.mode != "off":
        parts.extend(wanted.trackers)
    if wanted.mode == "mlflow" or required:
        options = wanted.model_dump(include={"uri", "experiment", "child_runs", "tags", "alias"})
        options["registered"] = registered_name(wanted.register_as, scenario.name)
        parts.append(registry.parse("trackers", {"kind": "mlflow", "required": required, **options}))
    return Trackers((registry.build(part) for part in parts), required)
