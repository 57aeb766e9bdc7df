"""The run in MLflow while it trains: a thread brings in what `metrics.jsonl` says, and training never waits for it.

Where a courier is ready (`clkd.tracking.courier`), the thread has no more to do than to ask it.
"""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd.errors import TrackingError
from clkd.tracking import courier, events, store
from clkd.tracking.base import Tracker
from clkd.tracking.courier import Courier, EndedError, Sent
from clkd.tracking.events import END, FILE, Event
from clkd.tracking.host import active_uri, find_host
from clkd.tracking.upload import Destination, Upload
from clkd.tracking.worker import Worker

if TYPE_CHECKING:
    from clkd.engine.run import Outcome, Run
    from clkd.experience import Experience

PATIENCE, HURRY = 20.0, 5.0
"""Seconds that a run's end waits for a server at most, and where somebody has asked the process to stop."""
LOCAL_PATIENCE, LOCAL_HURRY = 60.0, 25.0
"""The same for a database on this machine: it does not hang, but making one takes a slow disk a while."""

log = logging.getLogger("clkd.tracking")


class MlflowTracker(Tracker):
    """Records a run in MLflow, and goes on with the same MLflow run after a resume.

    Args:
        uri: of the tracking store; by default `$MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db` in this directory.
        experiment: by default the scenario's name.
        child_runs: one nested run per experience.
        tags: further tags of the parent run.
        required: `start` waits until the store has the run.
        registered: the name in the registry of the students that the run exports; None registers none.
        alias: the registry's alias that moves to the newest of them.

    `run.tracking["mlflow"]` holds `uri`, `tags`, `registered`, `alias` and, once the store was reached,
    `experiment_id`, `run_id` and `children` (by experience index).

    Raises:
        TrackingError: the store cannot be used or does not answer; every other error is MLflow's own.
    """

    name = "mlflow"

    def __init__(
        self,
        uri: str | None = None,
        experiment: str | None = None,
        child_runs: bool = True,
        tags: dict[str, str] | None = None,
        required: bool = False,
        registered: str | None = None,
        alias: str | None = "champion",
    ) -> None:
        self._uri, self._experiment, self._child_runs, self._tags = uri, experiment, child_runs, dict(tags or {})
        self._registered, self._alias = registered, alias
        self._required = required
        self._run: Run
        self._destination: Destination
        self._worker: Worker
        self._courier: Courier | None = None
        self._upload: Upload | Sent | None = None
        self._end: Event | None = None
        self._told: Exception | None = None
        self._events = 0

    def start(self, run: Run) -> None:
        """Begin to bring in what there is; of a run that is resumed, also what an earlier process could not."""
        state = run.tracking.get("mlflow", {})
        uri = store.resolve_uri(self._uri or active_uri(), state.get("uri"))
        state = state if state.get("uri") == uri else {}  # another store's numbers mean nothing in this one
        noted = state.get("experiment_id")
        self._run = run
        self._destination = Destination(
            uri,
            self._experiment,
            self._child_runs,
            self._tags,
            self._registered,
            self._alias,
            noted,
            find_host(uri),
        )
        run.tracking["mlflow"] = {**state, "uri": uri, **self._destination.said}
        self._courier = courier.take()
        self._worker = Worker(self._bring, "clkd-mlflow")
        self._worker.wake()
        if self._required:
            self._insist()

    def epoch(self, run: Run, experience: Experience, metrics: dict[str, float]) -> None:
        self._tell()

    def experience(self, run: Run, experience: Experience, result: dict[str, Any]) -> None:
        self._tell()

    def end(self, run: Run, outcome: Outcome) -> None:
        """Wait for the store to have everything, but not for long; else say what it lacks."""
        patience, hurry = (PATIENCE, HURRY) if store.is_server(self._destination.uri) else (LOCAL_PATIENCE, LOCAL_HURRY)
        self._end = {"event": END, "status": outcome.status, "error": outcome.error}  # a full disk took it, maybe
        self._worker.wake(urgent=True)
        try:
            done = self._worker.wait(lambda: hurry if outcome.hurried() else patience)
            settled = done and not self._worker.error
            if not settled:
                reason = store.told(self._worker.error) if done else "it takes too long"
                log.warning("%s", self._lack(reason))
            if self._courier:
                self._courier.free() if settled else self._courier.end()
        finally:
            self._worker.close()

    def settle(self) -> None:
        """Wait until all that happened so far has been tried to bring in. Raises what was in the way."""
        self._worker.wake(urgent=True)
        if not self._worker.wait(lambda: LOCAL_PATIENCE):
            raise TrackingError(f"MLflow {store.plain(self._destination.uri)} takes too long")
        if self._worker.error:
            raise self._worker.error

    def _bring(self) -> None:
        """On the worker's thread."""
        try:
            self._advance()
        except EndedError as error:
            log.warning("%s: this one goes on", error)
            self._advance()

    def _advance(self) -> None:
        """Whatever goes wrong, the next try first looks up what the store has."""
        upload, self._upload = self._upload, None
        upload = upload or self._connected()
        self._run.tracking["mlflow"] = upload.found
        try:
            upload.advance(self._end)
        finally:
            self._events = max(self._events, upload.events)
        self._run.tracking["mlflow"] = upload.found
        self._upload = upload

    def _connected(self) -> Upload | Sent:
        if self._courier and not self._courier.ended:
            return Sent(self._courier, self._run.directory, self._destination)
        return Upload(self._run.directory, self._destination)

    def _tell(self) -> None:
        """There is something new; and what went wrong with earlier news is raised here, once."""
        error, told = self._worker.error, self._told
        self._told = error
        self._worker.wake()
        if error and error is not told:
            raise error

    def _insist(self) -> None:
        server = store.is_server(self._destination.uri)
        done = self._worker.wait(lambda: PATIENCE if server else LOCAL_PATIENCE)
        if done and not self._worker.error:
            return
        self._worker.close()
        reason = (
            store.told(self._worker.error) if done else f"MLflow {store.plain(self._destination.uri)} takes too long"
        )
        raise TrackingError(f"tracking is required, but {reason}") from self._worker.error

    def _lack(self, reason: str) -> str:
        """What the store lacks, and what brings it in."""
        told, _ = events.read(self._run.directory / FILE)
        missing = len(told) - self._events
        lack = f"{missing} of this run's {len(told)} records" if missing else "some of this run's artifacts or models"
        command = f"clkd track sync {shlex.quote(_near(self._run.directory))}"
        return f"MLflow lacks {lack} ({reason}); bring them in with: {command}"


def _near(path: Path) -> str:
    """The path as it is typed here."""
    here = os.path.relpath(path)
    return str(path) if here.startswith(os.pardir) else here
