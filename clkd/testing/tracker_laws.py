"""The laws of trackers."""

from __future__ import annotations

import copy
import io
import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from clkd.engine.run import Outcome, Run
from clkd.experience import Experience
from clkd.metrics.base import Record
from clkd.plugins import isolated
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.resolve import resolved
from clkd.testing import tiny
from clkd.testing.metric_laws import MATRIX
from clkd.tracking.base import Tracker

Make = Callable[[], Tracker]
USUAL = {"train/loss": 0.5, "train/loss_kd_previous": 0.25, "train/lr": 0.1}
ODD = {
    "train/loss": math.nan,
    "train/loss_kd@[0] #1": math.inf,
    "train/ä b": -math.inf,
    "train/large": 1e308,
    "train/small": 5e-324,
}
"""What a run that goes wrong, or a plugin of somebody else's, may tell."""


def whole(make: Make) -> None:
    """It can be told a whole run, and has a name."""
    with _run() as run:
        tracker = make()
        assert tracker.name, "it has no name"
        _tell(tracker, run)


def odd(make: Make) -> None:
    """Values that are no numbers, and names with any sign in them, do not make it fail."""
    with _run() as run:
        _tell(make(), run, ODD)


def ended_badly(make: Make) -> None:
    """It can be told that a run failed or was killed, at any time after its start, with an empty result."""
    for told in range(3):
        for status in ("failed", "killed", "stopped"):
            with _run() as run:
                tracker = make()
                tracker.start(run)
                for experience in list(tiny.stream())[:told]:
                    _experience(tracker, run, experience, USUAL)
                tracker.end(run, Outcome(status, "it failed: 'losses.kd' is NaN\nsecond line"))


def ended_twice(make: Make) -> None:
    """Told twice that the run has ended, it does not fail."""
    with _run() as run:
        tracker = make()
        _tell(tracker, run)
        tracker.end(run, _outcome(run))


def resumed(make: Make) -> None:
    """A new one goes on with the run where another had stopped."""
    with _run() as run:
        first, second = tiny.stream()
        tracker = make()
        tracker.start(run)
        _experience(tracker, run, first, USUAL)
        tracker.end(run, Outcome("stopped"))
        run.resumed = True
        tracker = make()
        tracker.start(run)
        _experience(tracker, run, second, USUAL)
        tracker.end(run, _outcome(run))


def apart(make: Make) -> None:
    """It changes nothing of what it is told but `run.tracking`, and not the working directory."""
    with _run() as run:
        place, told, expected = os.getcwd(), copy.deepcopy(ODD), _facts(run)
        tracker = make()
        tracker.start(run)
        assert _facts(run) == expected, "the run differs after start"
        for experience in tiny.stream():
            _experience(tracker, run, experience, told)
        expected, outcome = _facts(run), _outcome(run)
        before = repr(outcome.result)
        tracker.end(run, outcome)
        assert repr(told) == repr(ODD), "metrics have other values afterwards"
        assert _facts(run) == expected, "the run differs after its end"
        assert repr(outcome.result) == before, "the result has other values afterwards"
        assert os.getcwd() == place, "the working directory is another one afterwards"


def no_draws(make: Make) -> None:
    """It draws from no global random generator, so that being recorded changes no number."""
    with _run() as run:
        torch_state, python_state = torch.get_rng_state(), random.getstate()
        _tell(make(), run)
        assert torch.equal(torch_state, torch.get_rng_state()), "it draws from torch's global generator"
        assert python_state == random.getstate(), "it draws from Python's global generator"


def quiet(make: Make) -> None:
    """It prints nothing on stdout, which belongs to results (`clkd run --json`)."""
    with _run() as run, redirect_stdout(io.StringIO()) as out:
        _tell(make(), run)
    assert not out.getvalue(), f"it prints {out.getvalue()[:60]!r}"


TRACKER_LAWS: dict[str, Callable[[Make], None]] = {
    law.__name__: law for law in (whole, odd, ended_badly, ended_twice, resumed, apart, no_draws, quiet)
}


@contextmanager
def _run() -> Iterator[Run]:
    """A run of two experiences before its start, with its directory."""
    with TemporaryDirectory() as home:
        directory = Path(home) / "runs" / "tiny-1"
        directory.mkdir(parents=True)
        source = to_yaml(tiny.SCENARIO)
        (directory / "scenario.yaml").write_text(source)
        scenario = load(directory / "scenario.yaml", [], isolated().registry).scenario
        (directory / "resolved.yaml").write_text(to_yaml(resolved(scenario)))
        yield Run(
            id="tiny-1",
            directory=directory,
            scenario=scenario,
            source=source,
            command="clkd run tiny.yaml",
            seed=0,
            device="cpu",
            dataset="tiny",
            stand_in=None,
            description={"stream": "tiny in 2", "student": "mlp"},
            facts={"student_parameters": 1234.0},
            record=Record.empty(2),
            seconds={"total": 2.0, "train": 1.0, "evaluate": 0.25, "tracking": 0.125},
            epochs=2,
        )


def _tell(tracker: Tracker, run: Run, metrics: dict[str, float] = USUAL) -> None:
    tracker.start(run)
    for experience in tiny.stream():
        _experience(tracker, run, experience, metrics)
    tracker.end(run, _outcome(run))


def _experience(tracker: Tracker, run: Run, experience: Experience, metrics: dict[str, float]) -> None:
    """What the drift monitor says of its rows, two epochs, an evaluation within them, and the one at the end."""
    i = experience.index
    if i:
        tracker.arrival(run, experience, {"alarm": True, "p": 0.02, "nearest": 0, "domains": {0: 0.02}})
    for _ in range(2):
        run.step += 10
        tracker.epoch(run, experience, metrics)
        tracker.evaluation(run, experience, {"anytime/accuracy": 0.5})
    run.record.class_incremental[i] = list(MATRIX[i][:2])
    run.record.task_aware[i] = list(MATRIX[i][:2])
    run.record.trained = i + 1
    streamed = {name.replace("train", "stream"): value for name, value in metrics.items()}
    result: dict[str, Any] = {
        "metrics": {"stream/average_accuracy": 0.7, "stream/forgetting": math.nan, **streamed},
        "accuracy": list(MATRIX[i][:2]),
        "accuracy_task_aware": list(MATRIX[i][:2]),
        "per_class": {"top": 0.25, "a/b #1": 0.5},
        "digest": f"digest{i}",
    }
    tracker.experience(run, experience, result)


def _outcome(run: Run) -> Outcome:
    metrics = {"average_accuracy": 0.7, "forgetting": math.nan}
    return Outcome("finished", result={"status": "finished", "run": run.id, "metrics": metrics, "seconds": {}})


def _facts(run: Run) -> str:
    """Everything about a run but what trackers note in it for themselves."""
    return repr([getattr(run, name) for name in run.__slots__ if name != "tracking"])
