"""A tracker that fails is reported once, left alone, tried again, and never stops a run; a stop signal still does."""

import logging

import pytest

from clkd.errors import Interrupted, TrackingError
from clkd.tracking import group
from clkd.tracking.base import Tracker
from clkd.tracking.group import Trackers


class Witness(Tracker):
    """Notes what it is told, and raises while `broken`."""

    def __init__(self, name="witness", broken=(), takes=lambda: None, error=RuntimeError, shared=None):
        self.name, self.broken, self.takes, self.error = name, set(broken), takes, error
        self.told, self.shared = [], shared if shared is not None else []

    def _hear(self, moment):
        self.told.append(moment)
        self.shared.append((self.name, moment))
        self.takes()
        if moment in self.broken:
            raise self.error(f"no {moment}\nand a second line")

    def start(self, run):
        self._hear("start")

    def epoch(self, run, experience, metrics):
        self._hear("epoch")

    def experience(self, run, experience, result):
        self._hear("experience")

    def end(self, run, outcome):
        self._hear("end")


WHOLE = ["start", *["epoch", "epoch", "experience"] * 3, "end"]


@pytest.mark.parametrize("broken", [(), ("epoch",), ("experience",), ("end",), ("start",), tuple(set(WHOLE))])
def test_a_failing_tracker_disturbs_nobody(drive, broken, caplog):
    bad, good = Witness("bad", broken), Witness("good")
    with caplog.at_level(logging.WARNING):
        drive(Trackers([bad, good]))
    assert good.told == WHOLE
    warnings = [record for record in caplog.records if record.name == "clkd.tracking"]
    assert len(warnings) == bool(broken)  # once, with the name and one line of the reason
    if broken:
        assert "'bad'" in warnings[0].getMessage()
        assert "RuntimeError: no " in warnings[0].getMessage()
        assert "second" not in warnings[0].getMessage()


def test_after_two_failures_it_rests_until_the_next_experience(drive, make_run):
    bad = Witness(broken=["epoch", "experience"])
    trackers, run = Trackers([bad]), make_run()
    trackers.start(run)
    drive.train(trackers, run, 0, epochs=5)
    assert bad.told == ["start", "epoch", "epoch"]
    drive.finish(trackers, run, 0)
    assert bad.told[3:] == ["experience"]
    drive.train(trackers, run, 1, epochs=5)
    assert bad.told[4:] == []
    bad.broken.clear()
    drive.finish(trackers, run, 1)
    drive.train(trackers, run, 2, epochs=5)
    assert bad.told[4:] == ["experience", *["epoch"] * 5]


def test_a_tracker_that_could_not_start_is_started_before_its_next_moment(drive, make_run):
    late = Witness(broken=["start"])
    trackers, run = Trackers([late]), make_run()
    trackers.start(run)
    late.broken.clear()
    drive.train(trackers, run, 0, epochs=2)
    assert late.told == ["start", "start", "epoch", "epoch"]


def test_required_trackers_stop_the_run_only_where_they_cannot_start(drive, make_run):
    with pytest.raises(TrackingError, match="no start"):
        drive(Trackers([Witness(broken=["start"], error=TrackingError)], required=True))
    drive(Trackers([Witness(broken=["epoch", "end"], error=TrackingError)], required=True))
    drive(Trackers([Witness(broken=["start"], error=TrackingError)]))


@pytest.mark.parametrize("error", [lambda text: Interrupted(text, 143), KeyboardInterrupt])
def test_a_signal_to_stop_is_not_swallowed(drive, error):
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        drive(Trackers([Witness(broken=["epoch"], error=error)]))


def test_the_local_record_is_first_and_the_summary_last(drive):
    order = []
    trackers = Trackers([Witness(name, shared=order) for name in ["mlflow", "console", "jsonl"]])
    drive(trackers, experiences=0)
    assert [name for name, moment in order if moment == "start"] == ["jsonl", "console", "mlflow"]
    assert [name for name, moment in order if moment == "end"] == ["jsonl", "mlflow", "console"]


def test_time_is_counted_for_the_console_apart(drive, monkeypatch):
    now = 0.0

    def takes(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(group, "perf_counter", lambda: now)
    console, jsonl = Witness("console", takes=lambda: takes(2)), Witness("jsonl", ["epoch"], lambda: takes(1))
    trackers = Trackers([console, jsonl])
    drive(trackers)
    assert trackers.total == 11
