"""The tracker `drift`: tells a webhook of the drift monitor's alarms."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from clkd import Tracker
from clkd.errors import TrackingError
from clkd_drift import WEBHOOK, no_address
from clkd_drift.post import Post

if TYPE_CHECKING:
    from clkd import Experience
    from clkd.engine.run import Outcome, Run

PATIENCE = 1.0
"""Seconds beside the webhook's own that a run's end waits, and all where somebody asked the process to stop."""


class DriftTracker(Tracker):
    """Posts an alert as soon as an experience arrives whose rows are of no known domain, before it is trained.

    It alerts where the monitor alarms, and nowhere else, so that its false alarms are the monitor's: at most
    `shift.false_alarms` of the experiences that are of a known domain. `run.tracking["drift"]` holds of which
    experiences it has heard, so that a resumed run tells of none twice.

    Raises:
        TrackingError: on start, where no address is given.
    """

    name = "drift"

    def __init__(self, url: str | None = None, timeout: float = 5.0, every: float = 60.0) -> None:
        self.url, self.timeout, self.every = url, timeout, every
        self._post: Post | None = None

    def start(self, run: Run) -> None:
        url = self.url or os.environ.get(WEBHOOK, "")
        if not url:
            raise TrackingError(f"nobody to alert of drift: give trackers: [{{kind: drift, url: …}}] or set ${WEBHOOK}")
        if reason := no_address(url):
            raise TrackingError(f"${WEBHOOK}: {reason}")
        self._post = Post(url, self.timeout, self.every)

    def arrival(self, run: Run, experience: Experience, drift: dict[str, Any]) -> None:
        told: list[int] = run.tracking.get("drift", {}).get("told", [])
        if self._post is None or not drift["alarm"] or experience.index in told:
            return
        run.tracking["drift"] = {"told": [*told, experience.index]}
        self._post.put(alert(run, experience, drift))

    def end(self, run: Run, outcome: Outcome) -> None:
        """Wait for the webhook, but not for long; what was held back is told now."""
        if self._post is not None:
            self._post.close(PATIENCE if outcome.hurried() else self.timeout + PATIENCE)
            self._post = None


def alert(run: Run, experience: Experience, drift: dict[str, Any]) -> dict[str, Any]:
    """What is posted: plain data, and a sentence (`text`) that chat programs show."""
    allowed = getattr(run.scenario.shift, "false_alarms", None)
    return {
        "event": "drift",
        "text": (
            f"clkd: experience {experience.index} ({experience.name}) of run {run.id}: its rows are of no known domain "
            f"(nearest: domain {drift['nearest']}, p = {drift['p']:.3g})"
        ),
        "run": run.id,
        "scenario": run.scenario.name,
        "experience": experience.index,
        "name": experience.name,
        "nearest": drift["nearest"],
        "p": drift["p"],
        "domains": {str(domain): p for domain, p in drift["domains"].items()},
        "false_alarms": allowed,
    }
