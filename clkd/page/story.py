"""What the directory of a run tells, whatever it has written so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clkd.compare.summary import Summary, read
from clkd.engine.directory import RunDirectory
from clkd.tracking import confusions, events, reports
from clkd.tracking.events import END, EPOCH, EXPERIENCE, START, Event
from clkd.tracking.store import hushed

Rows = list[list[float]]


@dataclass(frozen=True, slots=True)
class Told:
    """One experience that is over. `carried`: another run has trained it."""

    index: int
    name: str
    classes: Sequence[str]
    carried: bool
    points: Mapping[str, float | None]


@dataclass(frozen=True)
class Story:
    """A run: who it is, and the record of what it did.

    Attributes:
        manifest: what `run.json` says.
        events: what `metrics.jsonl` says, in order.
    """

    summary: Summary
    manifest: Mapping[str, Any]
    events: Sequence[Event]

    @classmethod
    def read(cls, path: Path) -> Story:
        """Raises `UserError` where a directory says not even which run it is."""
        lines = path / events.FILE
        return cls(read(path), RunDirectory(path).manifest(), events.read(lines)[0] if lines.is_file() else [])

    @property
    def path(self) -> Path:
        return self.summary.path

    @property
    def title(self) -> str:
        """As MLflow calls the run."""
        return self.summary.name if self.summary.seed is None else f"{self.summary.name} s{self.summary.seed}"

    @cached_property
    def start(self) -> Event:
        """The latest: with what the run was resumed is true of its end."""
        return next((event for event in reversed(self.events) if event["event"] == START), {})

    @cached_property
    def tags(self) -> dict[str, str]:
        """Of the first start, overridden by later ones."""
        found: dict[str, str] = {}
        for event in self.events:
            found |= event.get("tags", {})
        return found

    @cached_property
    def told(self) -> list[Told]:
        """The experiences that are over, in order. One whose line was torn has no number."""
        found = {event["experience"]: event for event in self.events if event["event"] == EXPERIENCE}
        return [self._told(index, found.get(index, {})) for index in range(max(found, default=-1) + 1)]

    def _told(self, index: int, event: Event) -> Told:
        plan = self.planned[index] if index < len(self.planned) else {}
        name = event.get("name") or plan.get("name") or index
        classes = event.get("classes") or plan.get("classes") or ()
        carried = bool(event.get("carried"))
        return Told(index, str(name), [str(c) for c in classes], carried, event.get("metrics", {}))

    @property
    def planned(self) -> list[Mapping[str, Any]]:
        """All experiences of the stream, as `run.json` lists them."""
        return [each for part in self.manifest.get("stream") or () for each in part.get("experiences", ())]

    @property
    def task_labels(self) -> bool:
        """Whether the task-aware matrix is the one that counts."""
        return any(part.get("task_labels") for part in self.manifest.get("stream") or ())

    def matrix(self, name: str = "acc_matrix") -> Rows:
        """A row for each experience that is over, up to its diagonal; NaN where nothing was evaluated."""
        return [[number(each.points.get(f"{name}/exp_{j:02d}")) for j in range(each.index + 1)] for each in self.told]

    def series(self, prefix: str) -> dict[str, dict[int, float]]:
        """Metrics of experiences by the rest of their name, then by experience."""
        found: dict[str, dict[int, float]] = {}
        for each in self.told:
            for name, value in each.points.items():
                if name.startswith(prefix):
                    found.setdefault(name.removeprefix(prefix), {})[each.index] = number(value)
        return found

    def epochs(self, prefix: str) -> dict[str, dict[int, float]]:
        """Metrics of epochs by the rest of their name, then by step."""
        found: dict[str, dict[int, float]] = {}
        for event in self.events:
            for name, value in event.get("metrics", {}).items() if event["event"] == EPOCH else ():
                if name.startswith(prefix):
                    found.setdefault(name.removeprefix(prefix), {})[event["step"]] = number(value)
        return found

    @property
    def latest(self) -> Mapping[str, float | None]:
        """Numbers of the last experience that is over."""
        return self.told[-1].points if self.told else {}

    @property
    def metrics(self) -> dict[str, float]:
        """The final ones, or, of a run that is not over, those after its latest experience."""
        last = next((event for event in reversed(self.events) if event["event"] in (START, EXPERIENCE, END)), {})
        end = last["metrics"] if last.get("event") == END else None  # after an end comes nothing but a resume's start
        known = {name.removeprefix("stream/"): v for name, v in self.latest.items() if name.startswith("stream/")}
        whole = {**known, **(end or {})}
        return {name: value for name, value in whole.items() if value is not None and math.isfinite(value)}

    @cached_property
    def reports(self) -> list[reports.Report]:
        return [reports.read(path) for path in reports.files(self.path)]

    @cached_property
    def confusions(self) -> list[confusions.Confusion]:
        return [reports.read(path, confusions.PARTS) for path in reports.files(self.path, confusions.FOLDER)]

    def text(self, name: str) -> str:
        """A file of the directory, without passwords; nothing where it is not there."""
        file = self.path / name
        return hushed(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else ""


def number(value: float | None) -> float:
    """NaN for what was not measured."""
    return math.nan if value is None else float(value)
