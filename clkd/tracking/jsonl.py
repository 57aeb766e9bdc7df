"""The run as JSON lines in its own directory: what is there when every other tracker failed."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd.tracking.base import Tracker
from clkd.tracking.points import experience_points, without_nan

if TYPE_CHECKING:
    from clkd.engine.run import Outcome, Run
    from clkd.experience import Experience

FILE = "metrics.jsonl"
log = logging.getLogger("clkd.tracking")


class JsonlTracker(Tracker):
    """Appends one JSON object per moment to `metrics.jsonl`.

    Keys: `time` (Unix seconds), `event` (start, epoch, experience, end), `step` (optimiser steps so far), `experience`
    and `epoch` where they apply (from 0), `metrics` by name, null where a value is not a number; `status` at the end.
    Experiences that another run has trained (`clkd run --from`) are `carried`.
    """

    name = "jsonl"

    def __init__(self) -> None:
        self._epochs: dict[int, int] = {}

    def start(self, run: Run) -> None:
        """Also drops what was written after the checkpoint that the run goes on from, since it comes again."""
        path = run.directory / FILE
        if path.exists():
            _drop_unfinished(path, run.record.trained, run.epoch)
        self._epochs = {run.record.trained: run.epoch}
        _append(run, {"event": "start", "metrics": run.facts})
        for index, points in enumerate([] if run.resumed else run.carried):
            _append(run, {"event": "experience", "experience": index, "carried": True, "metrics": points})

    def epoch(self, run: Run, experience: Experience, metrics: dict[str, float]) -> None:
        epoch = self._epochs.get(experience.index, 0)
        self._epochs[experience.index] = epoch + 1
        _append(run, {"event": "epoch", "experience": experience.index, "epoch": epoch, "metrics": metrics})

    def experience(self, run: Run, experience: Experience, result: dict[str, Any]) -> None:
        points = experience_points(run, experience, result)
        _append(run, {"event": "experience", "experience": experience.index, "metrics": points}, sync=True)

    def end(self, run: Run, outcome: Outcome) -> None:
        metrics = outcome.result.get("metrics", {})
        _append(run, {"event": "end", "status": outcome.status, "metrics": metrics}, sync=True)


def _append(run: Run, entry: dict[str, Any], sync: bool = False) -> None:
    line = json.dumps(without_nan({"time": round(time.time(), 3), "step": run.step, **entry}), allow_nan=False)
    with (run.directory / FILE).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _drop_unfinished(path: Path, trained: int, epochs: int) -> None:
    """Keep the lines of finished experiences, and of finished epochs of the one under way; the new file takes the old
    one's place in one stroke."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _keep(line, trained, epochs)]
    repaired = path.with_suffix(".jsonl.new")
    repaired.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    repaired.replace(path)


def _keep(line: str, trained: int, epochs: int) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        log.warning("%s: dropped a torn line: %.60s", FILE, line)
        return False
    if not isinstance(entry, dict):
        return False
    experience = entry.get("experience", -1)
    under_way = experience == trained and entry.get("event") == "epoch"
    return experience < trained or (under_way and entry["epoch"] < epochs)
