"""A hand-made run of three experiences, and what an engine would tell trackers about it."""

import json
import math
import shutil
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from mlflow_server import Server

from clkd.engine.run import Outcome, Run
from clkd.experience import Experience, Rows
from clkd.metrics.base import Record
from clkd.scenario.document import to_yaml
from clkd.tracking import mlflow, store
from clkd.tracking.result import build_result

MATRIX = [[0.9, 0.1, math.nan], [0.6, 0.8, 0.2], [0.5, 0.7, 0.95]]
CONFIG = {
    "name": "tiny",
    "seed": 3,
    "losses": [{"kind": "cross_entropy", "weight": 1.0}, {"kind": "kd", "between": ["student", "previous"]}],
    "train": {"epochs": 2, "clip_norm": None},
    "groups": [[0, 1], [2, 3]],
    "long": "x" * 9000,
    "tracking": {"uri": None, "experiment": None, "child_runs": True, "tags": {"who": "me", "clkd.seed": "forged"}},
    **{f"more{i}": i for i in range(120)},
}
SOURCE = "name: tiny  # as written\n"


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine's servers are given time, and who still asks one that a test gave up has ended before the next.

    (As long as somebody asks, variables of the environment have other values.)
    """
    monkeypatch.setattr(mlflow, "PATIENCE", 120.0)
    monkeypatch.setattr(store, "PATIENCE_SECONDS", 60.0)
    monkeypatch.setenv(store.TIMEOUT, "60")
    yield
    deadline = time.monotonic() + 100
    while store._impatience._users:
        assert time.monotonic() < deadline, "somebody still asks a server"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def server(tmp_path_factory, empty_store):
    """For all: who kills it or stops it lets it go on."""
    server = Server(tmp_path_factory.mktemp("server"))
    shutil.copy(empty_store, server.home / "mlflow.db")
    server.start()
    yield server
    server.kill()


def scenario():
    return SimpleNamespace(name="tiny", train=SimpleNamespace(epochs=2), model_dump=lambda mode, **how: dict(CONFIG))


def rows(n):
    at = torch.arange(n)
    return Rows(torch.zeros(n, 1, dtype=torch.uint8), at % 2, at, at)


def experience(i):
    some = rows(4)
    return Experience(i, (2 * i, 2 * i + 1), tuple(range(2 * i + 2)), some, rows(0), some, f"[{2 * i}, {2 * i + 1}]", 3)


def run_in(home, trained=0, tracking=None, **changes):
    """The run, anew or as a resume finds it: with the experiences in `trained` behind it."""
    directory = home / "runs" / changes.get("id", "tiny-1")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "scenario.yaml").write_text(SOURCE)
    (directory / "resolved.yaml").write_text(to_yaml(CONFIG))
    known = Record.empty(3)
    run = Run(
        id="tiny-1",
        directory=directory,
        scenario=scenario(),
        source=SOURCE,
        command="clkd run tiny.yaml",
        seed=3,
        device="cpu",
        dataset="cifar10",
        stand_in="digits",
        epochs=2,
        description={"stream": "digits in 3", "student": "mlp"},
        facts={"student_parameters": 1234.0},
        record=known,
        seconds={"total": 2.0, "train": 1.0, "evaluate": 0.25, "tracking": 0.125},
        plugins=["clkd-extra==1.0"],
        tracking=tracking if tracking is not None else {},
        resumed=trained > 0,
    )
    for i in range(trained):
        evaluate(run, i)
        run.step += 20
    for name, value in changes.items():
        setattr(run, name, value)
    return run


@pytest.fixture
def make_run(tmp_path):
    return partial(run_in, tmp_path)


def evaluate(run, i):
    run.record.class_incremental[i] = list(MATRIX[i])
    run.record.task_aware[i] = [min(1.0, value + 0.04) for value in MATRIX[i]]
    run.record.trained = i + 1


def train(tracker, run, i, epochs=2):
    """The epochs of one experience, ten steps each."""
    for _ in range(epochs):
        run.step += 10
        tracker.epoch(run, experience(i), {"train/loss": 1 / run.step, "train/loss_kd@[0]": 0.5, "train/lr": 0.1})


def finish(tracker, run, i, **more):
    """The evaluation of one experience."""
    evaluate(run, i)
    result = {
        "metrics": {"stream/average_accuracy": 0.7, "stream/forgetting": math.nan if i == 0 else 0.1},
        "per_class": {f"class {2 * i}": 0.25, "a/b #1": 0.5},
        "digest": f"digest{i}",
        **more,
    }
    tracker.experience(run, experience(i), result)


def outcome(run, status="finished", error=None):
    """How it ended, after an engine has written it down."""
    metrics = {"average_accuracy": 0.7167, "forgetting": 0.25, "forward_transfer": math.nan}
    result = build_result(run, status, metrics, run.directory / "checkpoints" / "exp_02")
    (run.directory / "result.json").write_text(json.dumps(result))
    return Outcome(status, error, result)


def tell(tracker, run, status="finished", error=None, experiences=3):
    tracker.start(run)
    for i in range(run.record.trained, experiences):
        train(tracker, run, i)
        finish(tracker, run, i)
    tracker.end(run, outcome(run, status, error))
    return run


@pytest.fixture(scope="session")
def told(tmp_path_factory):
    """Tells a tracker a whole run in a folder of its own."""
    return lambda tracker: tell(tracker, run_in(tmp_path_factory.mktemp("told")))


@pytest.fixture
def drive(make_run):
    """Tells a tracker a whole run, as an engine would."""

    def go(tracker, run=None, **how):
        return tell(tracker, run or make_run(), **how)

    go.train, go.finish, go.outcome, go.experience, go.matrix = train, finish, outcome, experience, MATRIX
    return go
