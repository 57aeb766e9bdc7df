"""The run as JSON lines in its own directory: what every other tracker can be made of, and is, if need be."""

from __future__ import annotations

import json
import logging
import math
import os
import time
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from clkd.disk import write_whole
from clkd.tracking import confusions, events, labels, models, reports, shifts
from clkd.tracking.base import Tracker
from clkd.tracking.events import END, EPOCH, EVALUATION, EXPERIENCE, FILE, START, SYSTEM
from clkd.tracking.points import experience_points, without_nan
from clkd.tracking.system import Sampler

if TYPE_CHECKING:
    from clkd.engine.run import Outcome, Run
    from clkd.experience import Experience

ENVIRONMENT = "environment.txt"
log = logging.getLogger("clkd.tracking")


class JsonlTracker(Tracker):
    """Appends one JSON object per moment to `metrics.jsonl`, and lists the installed packages in `environment.txt`.

    The confusion matrix after each experience lies in `confusion/`; where one comes with a report, that lies in
    `reports/`; what was measured of its domain, in `shift/`.

    Keys: `time` (Unix seconds), `event` (start, epoch, evaluation, experience, end), `step` (optimiser steps so far),
    `experience` and `epoch` where they apply (from 0; epochs of a phase go on counting, and name their `phase`),
    `metrics` by name, null where a value is not a number. A start says who the run is (`name`, `device`, `tags`,
    `description`), an experience what it was about (`name`, `classes`, `digest` of its rows), an end how it ended
    (`status`, `error`). Experiences that another run has trained (`clkd run --from`) are `carried`. With
    `system_metrics` (seconds), lines of the event `system` hold `samples` of what the machine was busy with.
    """

    name = "jsonl"

    def __init__(self, system_metrics: float | None = None) -> None:
        self._every = system_metrics
        self._sampler: Sampler | None = None
        self._began = 0.0
        self._epochs: dict[int, int] = {}
        self._warned: set[str] = set()
        self._file: IO[bytes]
        self._waiting: list[bytes] = []
        self._listed = False

    def start(self, run: Run) -> None:
        """Also drops what was written after the checkpoint that the run goes on from, since it comes again."""
        path = run.directory / FILE
        if path.exists():
            _drop_unfinished(path, run.record.trained, run.epoch, run.step)
            for folder in (reports.FOLDER, shifts.FOLDER, confusions.FOLDER):
                reports.drop(run.directory, run.record.trained, folder)
            models.drop(run.directory, run.record.trained)
        self._epochs = {run.record.trained: run.epoch}
        self._waiting.clear()
        self._file = path.open("ab", buffering=0)
        weakref.finalize(self, self._file.close)  # of a run that nobody ends
        about = {
            "name": run.scenario.name,
            "device": run.device,
            "tags": labels.run_tags(run),
            "description": dict(run.description),
        }
        self._append(run, {"event": START, **about, "metrics": run.facts})
        self._began = _first_time(path)
        self._sampler = Sampler(self._every) if self._every else None
        for index, each in enumerate([] if run.resumed else run.carried):
            entry = {"event": EXPERIENCE, "experience": index, "carried": True}
            self._append(run, {**entry, "name": each.name, "classes": list(each.classes), "metrics": each.points})

    def epoch(self, run: Run, experience: Experience, metrics: dict[str, float]) -> None:
        self._tell_samples(run)
        epoch = self._epochs.get(experience.index, 0)
        self._epochs[experience.index] = epoch + 1
        about = {"phase": run.phase} if run.phase else {}
        self._append(run, {"event": EPOCH, "experience": experience.index, "epoch": epoch, **about, "metrics": metrics})
        self._list_packages(run)

    def evaluation(self, run: Run, experience: Experience, metrics: dict[str, float]) -> None:
        self._append(run, {"event": EVALUATION, "experience": experience.index, "metrics": metrics})

    def experience(self, run: Run, experience: Experience, result: dict[str, Any]) -> None:
        self._tell_samples(run)
        about = {"name": experience.name, "classes": list(experience.classes), "digest": result.get("digest")}
        points = experience_points(run, experience, result)
        entry = {"event": EXPERIENCE, "experience": experience.index, **about, "metrics": points}
        self._append(run, entry, sync=True)
        if "report" in result:
            reports.write(run.directory, result["report"])
        if "shift" in result:
            reports.write(run.directory, result["shift"], shifts.FOLDER)
        if "confusion" in result:
            reports.write(run.directory, result["confusion"], confusions.FOLDER, indent=None)

    def end(self, run: Run, outcome: Outcome) -> None:
        if self._file.closed:
            return
        metrics = outcome.result.get("metrics", {})
        entry = {"event": END, "status": outcome.status, "error": outcome.error, "metrics": metrics}
        try:
            self._tell_samples(run)
            self._append(run, entry, sync=True)
            self._list_packages(run)
        finally:
            if self._sampler:
                self._sampler.close()
            self._file.close()

    def _tell_samples(self, run: Run) -> None:
        """What the machine did since the last time; the step is seconds since the run began."""
        samples = self._sampler.drain() if self._sampler else []
        if samples:
            told = [{"step": round(each["time"] - self._began), **each} for each in samples]
            self._append(run, {"event": SYSTEM, "metrics": {}, "samples": told})

    def _append(self, run: Run, entry: dict[str, Any], sync: bool = False) -> None:
        self._warn_of_infinity(entry["metrics"])
        line = json.dumps(without_nan({"time": round(time.time(), 3), "step": run.step, **entry}), allow_nan=False)
        self._waiting.append(line.encode() + b"\n")
        self._write()
        if sync:
            os.fsync(self._file.fileno())

    def _write(self) -> None:
        """All lines that wait, or none: what a full disk took in part is taken back, and tried again next time."""
        end, text = os.fstat(self._file.fileno()).st_size, b"".join(self._waiting)
        try:
            while text:
                text = text[self._file.write(text) :]
        except BaseException:
            self._file.truncate(end)
            raise
        self._waiting.clear()

    def _warn_of_infinity(self, metrics: dict[str, float | None]) -> None:
        for name, value in metrics.items():
            if value is not None and math.isinf(value) and name not in self._warned:
                log.warning("metric '%s' is infinite; it is recorded as not a number", name)
                self._warned.add(name)

    def _list_packages(self, run: Run) -> None:
        """Not before the first epoch's end: it takes a tenth of a second, and the first step is waited for."""
        if not self._listed:
            write_whole(run.directory / ENVIRONMENT, labels.environment())
            self._listed = True


def _drop_unfinished(path: Path, trained: int, epochs: int, steps: int) -> None:
    """Keep the lines of finished experiences, and of finished epochs and steps of the one under way."""
    kept = [line for line in path.read_bytes().splitlines() if _keep(line, trained, epochs, steps)]
    write_whole(path, "".join(f"{line.decode()}\n" for line in kept))


def _first_time(path: Path) -> float:
    """When the run was first started, perhaps by an earlier process."""
    with path.open("rb") as file:
        told = map(events.parse, file)
        return next((float(event["time"]) for event in told if event and "time" in event), time.time())


def _keep(line: bytes, trained: int, epochs: int, steps: int) -> bool:
    event = events.parse(line)
    if event is None:
        log.warning("%s: dropped a torn line: %.60s", FILE, line.decode(errors="replace"))
        return False
    experience = event.get("experience", -1)  # of a start, an end and samples, which are never told again
    if experience == trained and event["event"] == EPOCH:
        return bool(event["epoch"] < epochs)
    if experience == trained and event["event"] == EVALUATION:
        return bool(event["step"] <= steps)
    return bool(experience < trained)
