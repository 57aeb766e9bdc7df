"""A courier: a process that brings runs into MLflow just as this one would."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from addresses import nobody

from clkd import leash
from clkd.cli.main import main
from clkd.errors import TrackingError
from clkd.tracking import courier, mlflow, store
from clkd.tracking.courier import Advance, Courier
from clkd.tracking.group import Trackers
from clkd.tracking.jsonl import JsonlTracker
from clkd.tracking.mlflow import MlflowTracker


@pytest.fixture(autouse=True)
def here(empty_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="module")
def made():
    """One for all who do not end it."""
    made = Courier()
    yield made
    made.end()


@pytest.fixture
def ready(made):
    """It waits for the next tracker."""
    courier._waiting[:] = [made]
    yield made
    courier._waiting.clear()


class Recorded(Trackers):
    def __init__(self, *arguments, **options):
        self.mlflow = MlflowTracker(*arguments, **options)
        super().__init__([JsonlTracker(), self.mlflow])


def content(run):
    """What the store has of the parent and the children: all but ids, times and what a process is."""
    client = store.open_client(run.tracking["mlflow"]["uri"])
    found = []
    for identity in (run.tracking["mlflow"]["run_id"], *run.tracking["mlflow"]["children"].values()):
        kept = client.get_run(identity)
        histories = {
            key: [(point.step, point.value) for point in client.get_metric_history(identity, key)]
            for key in kept.data.metrics
        }
        tags = {
            name: value for name, value in kept.data.tags.items() if name not in ("mlflow.parentRunId", "clkd.settled")
        }
        files = [item.path for item in client.list_artifacts(identity)]
        inputs = [given.dataset.name for given in kept.inputs.dataset_inputs]
        found.append((kept.info.status, kept.info.run_name, histories, tags, kept.data.params, files, inputs))
    return json.dumps(found, sort_keys=True)


def lives(process):
    return process.poll() is None


def test_the_store_has_what_it_has_without_one(ready, told, empty_store, tmp_path):
    alone, sent = (tmp_path / name for name in ("alone.db", "sent.db"))
    for path in (alone, sent):
        shutil.copy(empty_store, path)
    by_courier = told(Recorded(f"sqlite:///{sent}"))
    assert ready in courier._waiting, "it is free for the next run"
    assert courier.take() is ready
    assert courier.take() is None
    by_itself = told(Recorded(f"sqlite:///{alone}"))
    assert content(by_courier) == content(by_itself)
    assert by_courier.tracking["mlflow"].keys() == by_itself.tracking["mlflow"].keys()


@pytest.mark.slow
def test_where_it_is_killed_this_process_goes_on(drive, make_run, caplog):
    courier.prepare()
    courier.prepare()
    (own,) = courier._waiting
    tracker, run = Recorded(), make_run()
    tracker.start(run)
    tracker.mlflow.settle()
    os.kill(own._process.pid, signal.SIGKILL)
    for i in range(3):
        drive.train(tracker, run, i)
        drive.finish(tracker, run, i)
    tracker.end(run, drive.outcome(run))
    assert own.ended
    assert caplog.messages == ["the process that brings runs into MLflow has ended: this one goes on"]
    kept = store.open_client(run.tracking["mlflow"]["uri"]).get_run(run.tracking["mlflow"]["run_id"])
    assert kept.info.status == "FINISHED"
    assert len(run.tracking["mlflow"]["children"]) == 3
    assert courier.take() is None


def test_where_there_is_no_room_for_it_a_run_does_without(drive, make_run, monkeypatch, caplog):
    def start(*words, **options):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(leash, "start", start)
    courier.prepare()
    run = drive(Recorded(), make_run(), experiences=0)
    assert caplog.messages == [
        "MLflow gets no process of its own (Resource temporarily unavailable): this one does its work"
    ]
    assert store.open_client(run.tracking["mlflow"]["uri"]).get_run(run.tracking["mlflow"]["run_id"])


@pytest.mark.slow
def test_one_that_hangs_is_stopped_and_takes_nobody_elses_time(drive, make_run, monkeypatch, caplog):
    """A server that accepts, and says nothing for ever."""
    monkeypatch.setattr(mlflow, "PATIENCE", 0.5)
    courier.prepare()
    (own,) = courier._waiting
    with socket.create_server(("127.0.0.1", 0)) as server:
        tracker, run = Recorded(f"http://127.0.0.1:{server.getsockname()[1]}"), make_run()
        drive(tracker, run, experiences=1)
        worker = tracker.mlflow._worker
        assert own.ended
        deadline = time.monotonic() + 60
        while isinstance(worker.error, type(None)):
            assert time.monotonic() < deadline, "its thread waits for it still"
            time.sleep(0.01)
    assert str(worker.error) == "the process that brings runs into MLflow was stopped"
    (message,) = caplog.messages
    assert "it takes too long" in message
    assert courier.take() is None


def test_what_goes_wrong_in_it_is_told_here_and_tried_again_there(ready, make_run):
    run = make_run()
    with pytest.raises(TrackingError, match="does not answer"):
        Trackers([JsonlTracker(), MlflowTracker(f"http://{nobody()}", required=True)], required=True).start(run)
    assert lives(ready._process)


def test_a_login_that_is_said_later_is_heard(ready, drive, monkeypatch, tmp_path, empty_store):
    """The environment is that of the moment in which a run begins."""
    other = tmp_path / "named later.db"
    shutil.copy(empty_store, other)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "named later")
    run = drive(Recorded(f"sqlite:///{other}"))
    assert (
        store.open_client(f"sqlite:///{other}").get_experiment_by_name("named later").experiment_id
        == (run.tracking["mlflow"]["experiment_id"])
    )


@pytest.mark.parametrize("end", ["exit", "SIGKILL"])
def test_it_ends_when_its_maker_does(end):
    code = (
        "import os, signal; from clkd.tracking.courier import Courier\n"
        "print(Courier()._process.pid, flush=True)\n"
        + ("" if end == "exit" else "os.kill(os.getpid(), signal.SIGKILL)")
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert done.returncode == (0 if end == "exit" else -signal.SIGKILL)
    pid, deadline = int(done.stdout), time.monotonic() + 60
    while is_there(pid):
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.05)


def is_there(pid):
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_no_file_of_this_directory_is_taken_for_a_library(here):
    (here / "mlflow.py").write_text("raise SystemExit('this is not MLflow')")
    made = Courier()
    assert made.ask(Advance(None)).error == "AssertionError: its begin failed, which was told"
    made.end()
    made.end()
    with pytest.raises(TrackingError, match="was stopped"):
        made.ask(Advance(None))
    made.free()
    assert courier.take() is None


# The command


RUN = """
import json, sys
from clkd.cli.main import main
from clkd.tracking import courier
code = main(sys.argv[1:])
print(json.dumps([code, "mlflow" in sys.modules, len(courier._waiting)]))
"""
SCENARIO = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 10}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [4]}, "head": "linear"},
    "losses": ["cross_entropy"],
    "train": {"batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.1}},
}


@pytest.fixture
def tiny(here):
    path = here / "tiny.yaml"
    path.write_text(yaml.safe_dump(SCENARIO))
    return str(path)


@pytest.mark.slow
def test_a_command_leaves_mlflow_to_one_courier(here, tiny):
    words = [sys.executable, "-c", RUN, "run", tiny, "-q", "--seed", "0", "1"]
    done = subprocess.run(words, cwd=here, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, False, 1], done.stderr
    client = store.open_client(f"sqlite:///{here}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert [run.info.status for run in found] == ["FINISHED"] * 6


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ("--limit-experiences 1", True),
        ("--tracking required", True),
        ("--tracking offline", False),
        ("--set tracking.mode=off", False),
        ("--dry-run", False),
    ],
)
def test_a_command_has_one_where_it_needs_it(tiny, options, needed, monkeypatch):
    asked = []
    monkeypatch.setattr(courier, "prepare", lambda: asked.append("one"))
    assert main(["run", tiny, "-q", *options.split()]) == 0
    assert len(asked) == needed
