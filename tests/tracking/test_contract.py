"""Trackers keep the laws, and every law catches a tracker that breaks it."""

from __future__ import annotations

import json
import os
import random

import pytest

from clkd.testing.contract import check, check_tracker
from clkd.testing.tracker_laws import TRACKER_LAWS
from clkd.tracking.base import Tracker
from clkd.tracking.console import ConsoleTracker
from clkd.tracking.jsonl import JsonlTracker


@pytest.mark.parametrize("make", [Tracker, JsonlTracker, ConsoleTracker])
def test_built_in_trackers_keep_the_contract(make):
    """MLflow's is fed from the file of the JSON lines' one; tests/tracking/test_mlflow.py tells it everything."""
    check_tracker(make)


class Nameless(Tracker):
    name = ""


class Strict(Tracker):
    def epoch(self, run, experience, metrics):
        json.dumps(metrics, allow_nan=False)


class Optimist(Tracker):
    def end(self, run, outcome):
        outcome.result["metrics"]["average_accuracy"]


class Closing(Tracker):
    def start(self, run):
        self.file = (run.directory / "mine.txt").open("a")

    def end(self, run, outcome):
        self.file.write("end")
        self.file.close()


class Exclusive(Tracker):
    def start(self, run):
        (run.directory / "mine.txt").open("x").close()


class Tidying(Tracker):
    """Takes out of the dictionary what it has written."""

    def epoch(self, run, experience, metrics):
        metrics.pop("train/loss", None)


class Wandering(Tracker):
    def start(self, run):
        os.chdir(run.directory)


class Drawing(Tracker):
    def start(self, run):
        self.id = random.randint(0, 9)


class Chatty(Tracker):
    def epoch(self, run, experience, metrics):
        print(metrics)


BROKEN = {
    "whole": Nameless, "odd": Strict, "ended_badly": Optimist, "ended_twice": Closing, "resumed": Exclusive,
    "apart": Tidying, "no_draws": Drawing, "quiet": Chatty,
}  # fmt: skip


@pytest.mark.parametrize("law", TRACKER_LAWS)
def test_each_law_catches_a_tracker_that_breaks_it(law):
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever the tracker raises is the breach
        check(BROKEN[law], {law: TRACKER_LAWS[law]})
    assert f"while checking the law '{law}' of {BROKEN[law].__name__}" in caught.value.__notes__


def test_one_that_leaves_the_working_directory_is_caught(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="working directory"):
        check(Wandering, {"apart": TRACKER_LAWS["apart"]})
