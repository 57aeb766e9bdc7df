"""A checked scenario as plain data, every default filled in; and the hash of all that determines its numbers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from clkd.scenario.model import Scenario


def resolved(scenario: Scenario) -> dict[str, Any]:
    """Plain data that loads as the very same scenario."""
    return scenario.model_dump(mode="json")


def config_sha(scenario: Scenario) -> str:
    """A hash of the resolved scenario without `name`, `output` and `tracking`, which change no number."""
    telling = {key: value for key, value in resolved(scenario).items() if key not in ("name", "output", "tracking")}
    return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()
