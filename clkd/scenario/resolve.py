"""A checked scenario as plain data, every default filled in; and the hash of all that determines its numbers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from clkd.scenario.model import Scenario


def resolved(scenario: Scenario) -> dict[str, Any]:
    """Plain data that loads as the very same scenario."""
    return scenario.model_dump(mode="json")


NOT_THE_METHOD = ("name", "seed", "device", "output", "checkpoint", "report", "shift", "tracking")
"""What differs between runs that are to be averaged: those with one `config_sha` agree in everything else."""


def config_sha(scenario: Scenario) -> str:
    """A hash of everything in the scenario that may change what is measured, the seed aside.

    What stands at its default is left out, so that an option which a later version adds does not part its runs from
    those of today.
    """
    told = scenario.model_dump(mode="json", exclude_defaults=True)
    method = {key: value for key, value in told.items() if key not in NOT_THE_METHOD}
    return hashlib.sha256(json.dumps(method, sort_keys=True).encode()).hexdigest()


def group_name(scenario: Scenario) -> str:
    """What all runs of this scenario are called together that differ in nothing but their seed."""
    return f"{scenario.name}-{config_sha(scenario)[:8]}"
