"""A tracker that fails is reported once, left alone, tried again, and never stops a run; a stop signal still does."""

import logging
import threading
import time

import pytest

from clkd.errors import Interrupted, TrackingError
from clkd.tracking.base import Tracker
from clkd.tracking.group import Trackers


class Witness(Tracker):
    """Notes what it is told, and raises while `broken`."""

    def __init__(self, name="witness", broken=(), seconds=0.0, error=RuntimeError, shared=None):
        self.name, self.broken, self.seconds, self.error = name, set(broken), seconds, error
        self.told, self.shared = [], shared if shared is not None else []

    def _hear(self, moment):
        self.told.append(moment)
        self.shared.append((self.name, moment))
        time.sleep(self.seconds)
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


class Slow(Witness):
    """Starts beside training, and not before `may_start` is set."""

    slow_start = True

    def __init__(self, **facts):
        super().__init__("slow", **facts)
        self.may_start, self.threads = threading.Event(), []

    def start(self, run):
        self.threads.append(threading.current_thread().name)
        assert self.may_start.wait(30)
        super().start(run)


def test_a_slow_start_goes_on_beside_training_and_costs_no_moment(drive, make_run):
    slow, quick = Slow(), Witness("quick")
    trackers, run = Trackers([slow, quick]), make_run()
    trackers.start(run)
    assert quick.told == ["start"]
    assert slow.told == []  # nobody waits for it here
    slow.may_start.set()
    for i in range(3):
        drive.train(trackers, run, i)
        drive.finish(trackers, run, i)
    trackers.end(run, drive.outcome(run))
    assert slow.told == quick.told == WHOLE
    assert slow.threads == [name for name in slow.threads if "clkd-tracker" in name]


def test_a_start_slower_than_the_whole_run_is_waited_for_at_its_end(drive, make_run):
    """A run that ends before its first epoch does."""
    slow = Slow()
    trackers, run = Trackers([slow]), make_run()
    trackers.start(run)
    threading.Timer(0.05, slow.may_start.set).start()
    trackers.end(run, drive.outcome(run, "failed", "no data"))
    assert slow.told == ["start", "end"]
    assert len(slow.threads) == 1


def test_of_a_start_that_failed_beside_training_one_moment_is_lost(drive, make_run, caplog):
    """It is told of at the first epoch, whose numbers it never gets; from the second one on it is told everything."""
    slow, quick = Slow(broken=["start"]), Witness("quick")
    trackers, run = Trackers([slow, quick]), make_run()
    slow.may_start.set()
    trackers.start(run)
    drive.train(trackers, run, 0, epochs=1)
    assert caplog.text.count("'slow' failed") == 1
    assert slow.told == ["start"]
    slow.broken.clear()
    drive.train(trackers, run, 0, epochs=1)
    drive.finish(trackers, run, 0)
    trackers.end(run, drive.outcome(run))
    assert slow.told == ["start", "start", "epoch", "experience", "end"]
    assert "clkd-tracker" not in slow.threads[1]  # the second try is waited for
    assert quick.told == ["start", "epoch", "epoch", "experience", "end"]


def test_a_start_that_failed_in_a_run_without_epochs_is_reported_and_the_run_ends(drive, make_run, caplog):
    slow = Slow(broken=["start"], error=TrackingError)
    trackers, run = Trackers([slow]), make_run()
    slow.may_start.set()
    trackers.start(run)
    trackers.end(run, drive.outcome(run))
    assert slow.told == ["start"]
    assert caplog.text.count("'slow' failed") == 1


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


def test_time_is_counted_for_the_console_apart(drive):
    trackers = Trackers([Witness("console", seconds=0.002), Witness("jsonl", seconds=0.001, broken=["epoch"])])
    drive(trackers)
    assert trackers.console >= 11 * 0.002
    assert 7 * 0.001 <= trackers.total < trackers.console
