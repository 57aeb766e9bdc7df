"""The front door of the plugin: the tracker `drift` and its options. It loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from clkd import Options, hookimpl

if TYPE_CHECKING:
    from clkd.registry import Register
    from clkd.scenario.model import Scenario

WEBHOOK = "CLKD_DRIFT_WEBHOOK"
"""The environment variable that may hold the address."""


class DriftOptions(Options):
    """Where the drift monitor's alarms go, and how often."""

    url: Annotated[str | None, Field(examples=["http://127.0.0.1:9/"])] = None
    """The webhook, http or https; by default `$CLKD_DRIFT_WEBHOOK`. Scenarios are recorded, so an address that is a
    secret belongs there."""
    timeout: Annotated[float, Field(gt=0, le=60)] = 5.0
    """Seconds that the webhook may take to answer."""
    every: Annotated[float, Field(ge=0)] = 60.0
    """At least so many seconds lie between two alerts. Alarms that come meanwhile are counted in the next one, or told
    in one at the run's end."""

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str | None) -> str | None:
        if url is not None and (reason := no_address(url)):
            raise ValueError(reason)
        return url

    def problems(self, scenario: Scenario) -> Iterator[str]:
        """Without the monitor, it would never say anything."""
        if not scenario.shift:
            yield "it tells of the drift monitor's alarms, and that is off: set shift: true"


def no_address(url: str) -> str:
    """Why nothing can be posted there, '' if something can.

    >>> no_address("ftp://here"), no_address("https://hooks.example.org/T1/B2")
    ('give an address that begins with http:// or https:// and names a host', '')
    """
    try:
        found = urlsplit(url)
        good = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        good = False
    return "" if good else "give an address that begins with http:// or https:// and names a host"


@hookimpl
def clkd_register_trackers(register: Register) -> None:
    """One line for each tracker."""
    register(
        "drift",
        "clkd_drift.tracker:DriftTracker",
        config=DriftOptions,
        summary="a webhook that hears of rows of no known domain",
    )
