"""A real `mlflow server` that is down, killed, stopped and started again: training goes on, and nothing is lost."""

import http.server
import json
import math
import os
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from addresses import nobody

from clkd.cli import ui
from clkd.errors import TrackingError, UserError
from clkd.locks import claimed
from clkd.tracking import events, mlflow, store, worker
from clkd.tracking.group import Trackers
from clkd.tracking.jsonl import JsonlTracker
from clkd.tracking.mlflow import MlflowTracker
from clkd.tracking.sync import sync


@pytest.fixture(autouse=True)
def impatient(monkeypatch, tmp_path):
    """Failed tries are not rested from, since these runs take milliseconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "PAUSE", 0.0)


class Recorded(Trackers):
    """MLflow as every run has it, behind its own JSON lines."""

    def __init__(self, uri):
        self.mlflow = MlflowTracker(uri, tags={"who": "me", "clkd.seed": "forged"})
        super().__init__([JsonlTracker(), self.mlflow])


def image(uri, name):
    """All that the store has of a run, without what differs between any two: ids and times."""
    client = store.open_client(uri)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`clkd.run_id` = '{name}'")
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return {**_about(client, parent), "children": sorted((_about(client, child) for child in children), key=str)}


def _about(client, run):
    def steady(name, value):
        return (name, value) if name not in ("clkd.run_id", "clkd.settled", "mlflow.parentRunId") else (name, "")

    points = [
        (key, point.step, "nan" if math.isnan(point.value) else point.value)
        for key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    ]
    items = client.list_artifacts(run.info.run_id)
    inside = [client.list_artifacts(run.info.run_id, item.path) if item.is_dir else [item] for item in items]
    inputs = [(each.dataset.name, each.dataset.digest, each.dataset.source) for each in run.inputs.dataset_inputs]
    tags = dict(sorted(steady(*pair) for pair in run.data.tags.items()))
    assert run.info.end_time is not None
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "points": sorted(points, key=lambda point: point[:2]),
        "params": dict(run.data.params),
        "tags": tags,
        "files": sorted(file.path for each in inside for file in each),
        "inputs": inputs,
    }


@pytest.fixture
def undisturbed(server, drive, make_run):
    """A run that was recorded while it was trained, as the store has it; made once."""
    if server.undisturbed is None:
        drive(Recorded(server.uri), make_run(id="whole"))
        whole = server.undisturbed = image(server.uri, "whole")
        assert len(whole["points"]) > 50
        assert len(whole["children"]) == 3
        assert whole["status"] == "FINISHED"
    return server.undisturbed


@pytest.fixture
def nowhere():
    """Where nobody listens."""
    with nobody() as address:
        yield f"http://{address}"


@contextmanager
def answering(code, health=200):
    """A server that is healthy, or says it is, and answers everything else with `code` (None: never)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = health if self.path == "/health" else code
            if answer is None:
                over.wait(60)
                return
            self.send_response(answer)
            self.end_headers()

        do_POST = do_GET  # noqa: N815  # the name that http.server looks for

        def log_message(self, *arguments):
            pass

    over = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as here:
        here.daemon_threads = True
        threading.Thread(target=here.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{here.server_port}"
        finally:
            over.set()
            here.shutdown()


def lacking(caplog):
    """The one line at the end of a disturbed run."""
    (line,) = [record.getMessage() for record in caplog.records if "MLflow lacks" in record.getMessage()]
    return line


# What becomes of a disturbed run


@pytest.mark.slow
def test_a_run_that_never_reached_its_server(server, drive, make_run, nowhere, undisturbed, caplog):
    run = drive(Recorded(nowhere), make_run(id="never"))
    assert "MLflow lacks 11 of this run's 11 records" in lacking(caplog)
    assert lacking(caplog).endswith("bring them in with: clkd track sync runs/never")
    first = sync(run.directory, server.uri)
    assert image(server.uri, "never") == undisturbed
    assert first.brought["children"] == 3
    assert not sync(run.directory, server.uri).brought, "nothing changes the second time"
    assert image(server.uri, "never") == undisturbed


@pytest.mark.slow
def test_a_run_that_was_recorded_nowhere(server, drive, make_run, undisturbed):
    run = drive(JsonlTracker(), make_run(id="off"))
    sync(run.directory, server.uri)
    assert image(server.uri, "off") == undisturbed


@pytest.mark.slow
def test_a_server_that_hangs_in_the_middle(server, drive, make_run, undisturbed, caplog, monkeypatch):
    run, trackers = make_run(id="hung"), Recorded(server.uri)
    trackers.start(run)
    drive.train(trackers, run, 0)
    trackers.mlflow.settle()
    monkeypatch.setenv(store.TIMEOUT, "2")
    monkeypatch.setattr(store, "PATIENCE_SECONDS", 1.0)
    server.signal(signal.SIGSTOP)
    begin = time.monotonic()
    try:
        drive.finish(trackers, run, 0)
        for i in (1, 2):
            drive.train(trackers, run, i)
            drive.finish(trackers, run, i)
        trained = time.monotonic() - begin
        trackers.end(run, drive.outcome(run))
        assert time.monotonic() - begin < 30
        assert trained < 10, "training waits for nothing"
    finally:
        server.signal(signal.SIGCONT)
    monkeypatch.setenv(store.TIMEOUT, "60")
    monkeypatch.setattr(store, "PATIENCE_SECONDS", 60.0)
    assert "records" in lacking(caplog)
    sync(run.directory, server.uri)
    assert image(server.uri, "hung") == undisturbed


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back(server, drive, make_run, undisturbed, caplog):
    """One run ends while it is away, another sees it come back and needs no help."""
    runs = {name: make_run(id=name) for name in ("ends", "waits")}
    trackers = {name: Recorded(server.uri) for name in runs}

    def train(name, i):
        drive.train(trackers[name], runs[name], i)
        drive.finish(trackers[name], runs[name], i)

    for name in runs:
        trackers[name].start(runs[name])
        train(name, 0)
        trackers[name].mlflow.settle()
    server.kill()
    train("ends", 1)
    train("ends", 2)
    trackers["ends"].end(runs["ends"], drive.outcome(runs["ends"]))
    assert "MLflow lacks 7 of this run's 11 records" in lacking(caplog)
    train("waits", 1)
    server.start()
    train("waits", 2)
    trackers["waits"].end(runs["waits"], drive.outcome(runs["waits"]))
    assert image(server.uri, "waits") == undisturbed
    assert sync(runs["ends"].directory, server.uri).brought
    assert image(server.uri, "ends") == undisturbed
    assert not sync(runs["waits"].directory, server.uri).brought


@pytest.mark.slow
def test_a_run_that_vanished_and_went_on(server, drive, make_run, undisturbed):
    """Its process died in experience 1 and left half a line; meanwhile it is brought in as killed, then resumed."""
    run, trackers = make_run(id="gone"), Recorded(server.uri)
    trackers.start(run)
    drive.train(trackers, run, 0)
    drive.finish(trackers, run, 0)
    trackers.mlflow.settle()
    drive.train(trackers, run, 1, epochs=1)
    trackers.mlflow._worker.close()
    with (run.directory / events.FILE).open("a") as file:
        file.write('{"event": "epoch", "metr')

    sync(run.directory, server.uri)
    dead = image(server.uri, "gone")
    assert dead["status"] == dead["tags"]["clkd.status_detail"].upper() == "KILLED"
    assert "without a word" in dead["tags"]["clkd.error"]
    assert ("train/loss", 30, 1 / 30) in dead["points"]

    drive(Recorded(server.uri), make_run(id="gone", trained=1))
    assert image(server.uri, "gone") == undisturbed


# What a server may do to a run


@pytest.mark.slow
@pytest.mark.parametrize(("code", "health"), [(500, 500), (500, 200), (200, 200), (None, 200), (None, None)])
def test_nothing_that_a_server_does_takes_long(drive, make_run, caplog, monkeypatch, code, health):
    monkeypatch.setenv(store.TIMEOUT, "2")
    monkeypatch.setattr(store, "PATIENCE_SECONDS", 1.0)
    begin = time.monotonic()
    with answering(code, health) as uri:
        run = drive(Recorded(uri), make_run())
    assert time.monotonic() - begin < 30
    assert "MLflow lacks 11 of this run's 11 records" in lacking(caplog)
    assert [event["event"] for event in events.read(run.directory / events.FILE)[0]].count("epoch") == 6
    assert store.RETRIES not in os.environ


def test_a_server_that_hangs_is_not_waited_for_longer_than_said(drive, make_run, caplog, monkeypatch):
    monkeypatch.setattr(mlflow, "PATIENCE", 0.5)
    with answering(None) as uri:
        drive(Recorded(uri), make_run())
    assert "it takes too long" in lacking(caplog)


def test_who_is_asked_to_stop_waits_less(drive, make_run, caplog, monkeypatch):
    monkeypatch.setattr(mlflow, "HURRY", 0.5)
    run, begin = make_run(), time.monotonic()
    with answering(None) as uri:
        trackers = Recorded(uri)
        trackers.start(run)
        outcome = drive.outcome(run, "killed")
        outcome.hurried = lambda: time.monotonic() - begin > 0.2  # Ctrl-C while the end waits
        trackers.end(run, outcome)
    assert time.monotonic() - begin < 60, "half of what it would have waited else"
    assert "it takes too long" in lacking(caplog)


@pytest.mark.slow
def test_required_means_before_training(drive, make_run, nowhere, monkeypatch):
    monkeypatch.setattr(mlflow, "PATIENCE", 0.5)
    with answering(None) as silent, answering(500) as broken:
        for uri in (nowhere, silent, broken):
            trackers = Trackers([JsonlTracker(), MlflowTracker(uri, required=True)], required=True)
            run, begin = make_run(id=uri[-5:]), time.monotonic()
            with pytest.raises(TrackingError, match="tracking is required, but"):
                trackers.start(run)
            trackers.end(run, drive.outcome(run, "failed"))  # as the engine does: it must not wait again
            assert time.monotonic() - begin < 30


# What `sync` says


def test_what_cannot_be_brought_in(drive, make_run, nowhere, tmp_path):
    with pytest.raises(UserError, match=r"holds no metrics\.jsonl"):
        sync(make_run(id="empty").directory)
    run = drive(JsonlTracker(), make_run(id="there"))
    with pytest.raises(TrackingError, match="does not answer"):
        sync(run.directory, nowhere)
    with answering(500) as uri, pytest.raises(TrackingError, match="failed"):
        sync(run.directory, uri)
    old = make_run(id="old").directory
    (old / events.FILE).write_text('{"time": 1, "step": 0, "event": "start", "metrics": {}}\n')
    with pytest.raises(TrackingError, match="older clkd"):
        sync(old, f"sqlite:///{tmp_path}/m.db")


@pytest.mark.slow
def test_the_command(empty_store, drive, make_run, tmp_path, monkeypatch, capsys):
    """All runs below ./runs, one that is broken among them."""
    from clkd.cli.main import main

    for name in ("a", "b"):
        run = drive(JsonlTracker(), make_run(id=name))
        (run.directory / "run.json").write_text(json.dumps({"id": name}))
        os.utime(run.directory / "run.json", (1000, 1000))
    broken = make_run(id="broken").directory
    (broken / "run.json").write_text(json.dumps({"id": "broken"}))
    uri = f"sqlite:///{tmp_path}/m.db"
    shutil.copy(empty_store, tmp_path / "m.db")
    assert main(["track", "sync", "--tracking-uri", uri]) == 2
    said = capsys.readouterr()
    assert said.out.count("3 children") == 2
    assert said.err == f"clkd: runs/broken: {broken} holds no metrics.jsonl, so nothing of it can be brought in\n"
    assert main(["track", "sync", "a", "runs/b", "--tracking-uri", uri, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["brought"] for entry in told] == [{}, {}]
    assert {entry["uri"] for entry in told} == {uri}
    noted = json.loads(Path("runs/a/run.json").read_text())["tracking"]["mlflow"]
    assert (noted["uri"], noted["run_id"]) == (uri, told[0]["run_id"]), "it is found there from now on"
    assert ui._place("a", None) == ui.Place(uri, store.page(noted["experiment_id"], noted["run_id"]))
    assert Path("runs/a/run.json").stat().st_mtime == 1000, "which makes no other run the last one"
    with claimed(Path("runs/a/.lock"), "training it"):
        assert main(["track", "sync", "a", "b", "--tracking-uri", uri]) == 0
    assert capsys.readouterr().out == "runs/a: still being trained, skipped\nruns/b: nothing was missing\n"
    assert main(["track", "sync", "c", "--tracking-uri", uri]) == 2
    monkeypatch.chdir(broken)
    assert main(["track", "sync"]) == 2
    assert "no run below ./runs" in capsys.readouterr().err
