"""All trackers of a run as one, that never stops or delays training for long."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from clkd.errors import Interrupted, TrackingError
from clkd.tracking.base import Tracker
from clkd.tracking.store import told

if TYPE_CHECKING:
    from clkd.engine.run import Outcome, Run
    from clkd.experience import Experience

PATIENCE = 2
"""Failures in a row after which a tracker is left alone until the next experience."""
ORDER = {"jsonl": 0, "console": 1}
"""The local record comes first, whatever happens to the others; then what people wait for. Neither is left alone."""

log = logging.getLogger("clkd.tracking")


@dataclass(slots=True)
class _Guest:
    """One tracker, and how it fares."""

    tracker: Tracker
    started: bool = False
    failures: int = 0
    seconds: float = 0.0
    told: bool = False
    refused: bool = False
    """It could not start, and that has ended the run: it is told no more."""


class Trackers(Tracker):
    """Hands every moment to each tracker. One that raises is reported once and tried again later.

    Args:
        trackers: in any order; the JSON lines come first.
        required: whether a tracker that cannot start stops the run with its `TrackingError`.
    """

    def __init__(self, trackers: Iterable[Tracker], required: bool = False) -> None:
        self._guests = [_Guest(tracker) for tracker in sorted(trackers, key=lambda t: ORDER.get(t.name, 2))]
        self._required = required

    @property
    def total(self) -> float:
        """Seconds spent recording so far, without the console."""
        return sum(guest.seconds for guest in self._guests if guest.tracker.name != "console")

    def start(self, run: Run) -> None:
        for guest in self._guests:
            self._call(guest, "start", run)

    def arrival(self, run: Run, experience: Experience, drift: dict[str, Any]) -> None:
        for guest in self._guests:
            self._call(guest, "arrival", run, experience, drift)

    def epoch(self, run: Run, experience: Experience, metrics: dict[str, float]) -> None:
        for guest in self._guests:
            if guest.failures < PATIENCE or guest.tracker.name in ORDER:
                self._call(guest, "epoch", run, experience, metrics)

    def evaluation(self, run: Run, experience: Experience, metrics: dict[str, float]) -> None:
        for guest in self._guests:
            if guest.failures < PATIENCE or guest.tracker.name in ORDER:
                self._call(guest, "evaluation", run, experience, metrics)

    def experience(self, run: Run, experience: Experience, result: dict[str, Any]) -> None:
        for guest in self._guests:
            self._call(guest, "experience", run, experience, result)

    def end(self, run: Run, outcome: Outcome) -> None:
        """The console's summary comes last."""
        for guest in sorted(self._guests, key=lambda guest: guest.tracker.name == "console"):
            self._call(guest, "end", run, outcome)

    def _call(self, guest: _Guest, moment: str, run: Run, *about: Any) -> None:
        """One moment for one tracker. Whatever it raises is its own affair, except a signal to stop the run."""
        if guest.refused:
            return
        begin = perf_counter()
        try:
            if not guest.started:
                guest.tracker.start(run)
                guest.started = True
            if moment != "start":
                getattr(guest.tracker, moment)(run, *about)
            guest.failures = 0
        except Interrupted:
            raise
        except Exception as error:  # trackers talk to databases and servers: any of it may fail, none of it may matter
            if self._required and moment == "start" and isinstance(error, TrackingError):
                guest.refused = True
                raise
            _report(guest, error)
        finally:
            guest.seconds += perf_counter() - begin


def _report(guest: _Guest, error: Exception) -> None:
    guest.failures += 1
    if not guest.told:
        log.warning(
            "tracker '%s' failed, training goes on without it and tries it again: %s", guest.tracker.name, told(error)
        )
    guest.told = True
