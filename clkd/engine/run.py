"""One execution of a scenario, as trackers and plugins see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clkd.metrics.base import Record
from clkd.scenario.model import Scenario


@dataclass(frozen=True, slots=True)
class Carried:
    """An experience that the origin trained: its classes as this run numbers them, `points` as trackers show them."""

    name: str
    classes: tuple[int, ...]
    points: dict[str, float]


@dataclass(slots=True)
class Run:
    """One scenario × seed. Its directory holds everything that is needed to look at it or to go on with it.

    Attributes:
        id: unique; also the key of the MLflow run's `clkd.run_id` tag.
        directory: `scenario.yaml`, `resolved.yaml`, `run.json`, `metrics.jsonl`, `checkpoints/`, `result.json`.
        scenario: as resolved, every default filled in.
        source: the scenario file's text, as the user wrote it.
        command: what was typed.
        seed, device: in force.
        dataset: the data set that the scenario names; `stand_in` is the one that stood in for it, if it was not there.
        description: facts for people and for MLflow: stream, student, teachers, losses, memory (one line each).
        facts: numbers that do not change: parameters and multiply-accumulates of student and teachers.
        record: what evaluation found so far.
        seconds: wall time by purpose: total, train, evaluate, tracking, data, teachers.
        rows: how many rows the student was trained on (replayed rows count too).
        epochs: how many the current experience has.
        epoch: how many of them are over and were told to trackers.
        phase: which further training of the experience is under way, if one is.
        unevaluated: whether that experience was trained and ended, and only its evaluation is missing.
        step: optimiser steps so far.
        planned: how many there will be, about.
        resumed: whether this process continues an earlier one.
        origin: the run that this one goes on from (`run`, `experience`, `mlflow`), if it does.
        report: on what the experience that was trained last has transferred, until it is told.
        shift: how domains lay to each other before and after it, until it is told.
        carried: each experience that the origin trained, which trackers show beside this run's own.
        tracking: what the trackers must know to go on after a resume (MLflow run ids), by tracker name.
    """

    id: str
    directory: Path
    scenario: Scenario
    source: str
    command: str
    seed: int
    device: str
    dataset: str
    stand_in: str | None
    description: dict[str, str]
    facts: dict[str, float]
    record: Record
    seconds: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    epochs: int = 1
    epoch: int = 0
    phase: str | None = None
    unevaluated: bool = False
    step: int = 0
    planned: int = 0
    resumed: bool = False
    plugins: list[str] = field(default_factory=list)
    tracking: dict[str, dict[str, Any]] = field(default_factory=dict)
    origin: dict[str, Any] | None = None
    carried: list[Carried] = field(default_factory=list)
    report: dict[str, Any] | None = None
    shift: dict[str, Any] | None = None


@dataclass(slots=True)
class Outcome:
    """How a run ended: `finished`, `stopped` (a limit was reached), `failed` or `killed`, and its result.

    `hurried` tells whether somebody has asked the process to stop by now, so that nobody may keep it waiting.
    """

    status: str
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)
    hurried: Callable[[], bool] = lambda: False
