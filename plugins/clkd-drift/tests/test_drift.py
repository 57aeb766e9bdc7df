"""The tracker `drift`: a webhook hears of each alarm, and of nothing else, and can do no harm.

The webhook is a server of the test's own.
"""

import http.server
import json
import logging
import math
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import clkd_drift
import pytest
import torch
from clkd_drift.post import Post
from clkd_drift.tracker import DriftTracker

from clkd.engine.execute import execute
from clkd.engine.run import Outcome
from clkd.metrics.shift import drift
from clkd.scenario.request import RunRequest
from clkd.seeding import generator
from clkd.testing.parts import check_part

DOMAINS = {
    "stream": {
        "dataset": {"name": "digits", "rows_per_class": 30},
        "split": {"by": "domain", "domains": ["clean", {"kind": "brightness", "severity": 5}, "clean"]},
    },
    "shift": {"rows": 60, "permutations": 99},
    "train": {"epochs": 1, "optimizer": {"kind": "sgd", "lr": 0.05}},
}


@pytest.fixture
def clkd_plugins():
    return [clkd_drift]


class Webhook:
    """What was posted, and how it answers: a status, or (None) not before it is let go."""

    def __init__(self):
        self.bodies, self.status, self.location = [], 200, None
        self.free = threading.Event()
        webhook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["Content-Type"] == "application/json"
                webhook.bodies.append(body)
                if webhook.status is None:
                    webhook.free.wait(300)
                    return
                self.send_response(webhook.status)
                if webhook.location:
                    self.send_header("Location", webhook.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self):
                webhook.bodies.append("GET")

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/secret/path"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self):
        self.free.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def nobody():
    """An address where nobody listens, nor will: the port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


def until(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


@pytest.fixture
def webhook():
    made = Webhook()
    yield made
    made.stop()


def run_of(index=1):
    """As much of a run and an experience as an alert is made of."""
    scenario = SimpleNamespace(name="rain", shift=SimpleNamespace(false_alarms=0.05))
    return SimpleNamespace(id="r1", scenario=scenario, tracking={}), SimpleNamespace(index=index, name="fog")


ALARM = {"alarm": True, "p": 0.01, "nearest": 0, "domains": {0: 0.01, 1: 0.005}}
DONE = Outcome("finished")


def test_contract(clkd_tiny, webhook, nobody):
    check_part(clkd_tiny, "trackers", {"kind": "drift", "url": webhook.url})
    assert webhook.bodies
    check_part(clkd_tiny, "trackers", {"kind": "drift", "url": nobody})


def test_a_run_alerts_of_the_new_domain_and_not_of_the_one_that_comes_back(clkd_tiny, webhook):
    """Of experience 1 (much brighter), before it is trained; not of 2, which is the first domain again."""
    trackers = {"mode": "offline", "trackers": [{"kind": "drift", "url": webhook.url, "every": 0}]}
    result = clkd_tiny.run(**DOMAINS, tracking=trackers)
    (alert,) = webhook.bodies
    assert (alert["event"], alert["experience"], alert["nearest"], alert["missed"]) == ("drift", 1, 0, 0)
    assert alert["p"] == 0.02
    assert alert["false_alarms"] == 0.05
    assert alert["run"] == result["run_id"]
    assert "of no known domain" in alert["text"]


def test_a_resumed_run_tells_of_nothing_twice(clkd_tiny, webhook):
    trackers = {"mode": "offline", "trackers": [{"kind": "drift", "url": webhook.url, "every": 0}]}
    path = clkd_tiny.scenario(**DOMAINS, tracking=trackers)
    cut = execute(RunRequest(scenario=path, limit_experiences=2, quiet=True), clkd_tiny.plugins)
    assert len(webhook.bodies) == 1
    directory = Path(cut["checkpoint"]).parents[1]
    assert json.loads((directory / "run.json").read_text())["tracking"]["drift"] == {"told": [1]}
    execute(RunRequest(resume=str(directory), quiet=True), clkd_tiny.plugins)
    assert len(webhook.bodies) == 1
    run, experience = run_of()
    run.tracking = {"drift": {"told": [1]}}
    tracker = DriftTracker(webhook.url)
    tracker.start(run)
    tracker.arrival(run, experience, ALARM)
    tracker.end(run, DONE)
    assert len(webhook.bodies) == 1


def test_false_alarms_are_the_monitors(webhook):
    """Rows of a known domain alert no more often than the monitor says, counted over 150 arrivals; others always."""
    allowed, count = 0.2, 150
    draws = generator(0, "false alarms")
    tracker, (run, _) = DriftTracker(webhook.url, every=0), run_of()
    tracker.start(run)
    alarms = 0
    for i in range(count):
        known = {
            0: {"input": torch.randn(20, 3, generator=draws)},
            1: {"input": torch.randn(20, 3, generator=draws) + 4},
        }
        found = drift({"input": torch.randn(20, 3, generator=draws)}, known, allowed, 39, draws)
        alarms += found.alarm
        tracker.arrival(run, SimpleNamespace(index=i, name=str(i)), found._asdict())
    tracker.end(run, DONE)
    assert len(webhook.bodies) == alarms
    assert 0 < alarms <= allowed * count + 3 * math.sqrt(allowed * (1 - allowed) * count)
    tracker.start(run)
    for i in range(count, count + 5):
        found = drift({"input": torch.randn(20, 3, generator=draws) - 9}, known, allowed, 39, draws)
        tracker.arrival(run, SimpleNamespace(index=i, name=str(i)), found._asdict())
    tracker.end(run, DONE)
    assert len(webhook.bodies) == alarms + 5


def test_alerts_are_rare_and_none_is_lost(webhook):
    post = Post(webhook.url, 5, every=3600)
    for i in range(5):
        post.put({"experience": i})
    until(lambda: webhook.bodies)
    time.sleep(0.1)
    assert webhook.bodies == [{"experience": 0, "missed": 0}]
    post.close(60)
    assert webhook.bodies == [{"experience": 0, "missed": 0}, {"experience": 4, "missed": 3}]


def test_a_failed_alert_comes_with_the_next(webhook, caplog):
    webhook.status = 500
    post = Post(webhook.url, 5, every=0)
    post.put({"experience": 0})
    until(lambda: caplog.records)
    webhook.status = 204
    post.put({"experience": 1})
    post.close(60)
    assert webhook.bodies[1:] == [{"experience": 1, "missed": 1}]
    (said,) = caplog.records
    assert said.getMessage().startswith("drift: an alert did not reach 127.0.0.1 (it answers 500)")
    assert "secret" not in said.getMessage()


@pytest.mark.parametrize("there", [False, True])
def test_a_webhook_that_never_answers_holds_nobody_up(clkd_tiny, webhook, nobody, caplog, there):
    """Nobody listens, or somebody who says nothing: the run is as without, and it is said once."""
    webhook.status = None
    told = {"kind": "drift", "url": webhook.url if there else nobody, "timeout": 0.2, "every": 0}
    begun = time.perf_counter()
    with caplog.at_level(logging.WARNING):
        result = clkd_tiny.run(**DOMAINS, tracking={"mode": "offline", "trackers": [told]})
    assert time.perf_counter() - begun < 60
    plain = clkd_tiny.run(**DOMAINS)
    assert result["accuracy_matrix"] == plain["accuracy_matrix"]
    assert len([each for each in caplog.records if each.name == "clkd.drift"]) == 1


def test_handing_over_takes_no_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run, experience = run_of()
        tracker = DriftTracker(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=100, every=0)
        tracker.start(run)
        begun = time.perf_counter()
        tracker.arrival(run, experience, ALARM)
        tracker.end(run, Outcome("killed", hurried=lambda: True))
        assert time.perf_counter() - begun < 50, "neither waits as long as the webhook may take"


def test_it_goes_nowhere_else(webhook, caplog):
    webhook.status, webhook.location = 302, webhook.url
    post = Post(webhook.url, 5, every=0)
    post.put({"experience": 0})
    post.close(60)
    assert "GET" not in webhook.bodies
    assert "it answers 302" in caplog.text


def test_an_address_may_come_from_the_environment(clkd_tiny, webhook, monkeypatch, caplog):
    run, experience = run_of()
    monkeypatch.setenv("CLKD_DRIFT_WEBHOOK", webhook.url)
    tracker = DriftTracker()
    tracker.start(run)
    tracker.arrival(run, experience, ALARM)
    tracker.end(run, DONE)
    assert len(webhook.bodies) == 1
    monkeypatch.delenv("CLKD_DRIFT_WEBHOOK")
    clkd_tiny.run(**DOMAINS, tracking={"mode": "offline", "trackers": ["drift"]})
    assert caplog.text.count("nobody to alert of drift") == 1


@pytest.mark.parametrize(
    ("url", "shift", "said"),
    [
        ("ftp://host/x", True, "give an address that begins with http:// or https://"),
        ("http://[", True, "give an address that begins with http:// or https://"),
        ("http://host/x", False, "it tells of the drift monitor's alarms, and that is off: set shift: true"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(clkd_tiny, url, shift, said):
    from clkd.errors import UserError

    own = {**DOMAINS, "shift": shift, "tracking": {"mode": "offline", "trackers": [{"kind": "drift", "url": url}]}}
    with pytest.raises(UserError, match="(?s)" + said):
        clkd_tiny.run(**own)
