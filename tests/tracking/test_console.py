"""People see on stderr what matters, stdout stays empty, and nothing but a terminal gets control characters."""

import sys
from types import SimpleNamespace

import pytest

from clkd.tracking import console
from clkd.tracking.console import ConsoleTracker, progress


def test_a_run_as_people_see_it(drive, make_run, capsys):
    run = make_run(tracking={"mlflow": {"uri": "sqlite:////d/mlflow.db", "experiment_id": "1", "run_id": "r"}})
    drive(ConsoleTracker(), run)
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in err
    assert "\r" not in err
    lines = err.splitlines()
    assert "digits stands in for cifar10" in lines[0]
    assert lines[1] == "run tiny-1: tiny, seed 3, on cpu"
    assert "experience 1 (2/3) [2, 3] epoch 2/2  loss 0.025  kd@[0] 0.5  lr 0.1" in lines
    assert "   2    50.0    70.0    95.0" in lines
    assert err.count("epoch 1/2") == err.count("epoch 2/2") == 3
    for fact in ["run tiny-1", str(run.directory), "71.7 %", "25.0 %", "2.0 s, of which 0.1 s in tracking"]:
        assert fact in err[err.index("finished: ") :]
    assert [line.split()[-3:] for line in lines[-2:]] == [["clkd", "report", "tiny-1"], ["clkd", "ui", "tiny-1"]]


def test_a_run_that_goes_on_counts_its_epochs_on(drive, make_run, capsys):
    run = make_run()
    run.record.trained, run.epoch, run.resumed = 1, 1, True
    tracker = ConsoleTracker()
    tracker.start(run)
    drive.train(tracker, run, 1, epochs=1)
    drive.train(tracker, run, 2, epochs=1)
    err = capsys.readouterr().err
    assert "experience 1 (2/3) [2, 3] epoch 2/2" in err
    assert "experience 2 (3/3) [4, 5] epoch 1/2" in err


def test_a_servers_run_is_a_link(drive, make_run, capsys):
    drive(ConsoleTracker(), make_run(tracking={"mlflow": {"uri": "http://h:5/", "experiment_id": "1", "run_id": "r"}}))
    assert "http://h:5/#/experiments/1/runs/r?workflowType=machine_learning" in capsys.readouterr().err


def test_after_an_epoch_it_says_how_long_the_rest_will_take(drive, make_run, capsys, monkeypatch):
    """Of 60 steps, 20 were there when the process began and it made 10 in 3 minutes: 30 more take 9."""
    tracker, run = ConsoleTracker(), make_run(trained=1, planned=60)
    now = 1000.0
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now))  # for nobody else
    tracker.start(run)
    now, run.step = now + 180, run.step + 10
    tracker.epoch(run, drive.experience(1), {"train/loss": 0.5})
    assert capsys.readouterr().err.endswith("epoch 1/2  loss 0.5  about 9 min 0 s left\n")
    run.step = 60
    tracker.epoch(run, drive.experience(1), {"train/loss": 0.5})
    run.step, run.phase = 40, "balanced"
    tracker.epoch(run, drive.experience(1), {"phase/balanced/loss": 0.5})
    assert "left" not in capsys.readouterr().err


def test_quiet_tells_only_of_the_stand_in(drive, make_run, capsys):
    drive(ConsoleTracker(quiet=True))
    assert capsys.readouterr().err.count("\n") == 1
    drive(ConsoleTracker(quiet=True), make_run(stand_in=None))
    assert capsys.readouterr().err == ""


def test_a_failure_can_be_resumed_and_a_resume_says_so(drive, make_run, capsys):
    run = make_run(trained=1)
    (run.directory / "checkpoints" / "exp_000").mkdir(parents=True)
    drive(ConsoleTracker(), run, status="failed", error="loss 'kd' is not a number")
    err = capsys.readouterr().err
    assert "resumed tiny-1" in err
    summary = err[err.index("failed: tiny s3") :]
    assert "clkd run --resume tiny-1" in summary
    assert "clkd extend" not in err


def test_what_never_trained_has_nothing_to_look_at(drive, make_run, capsys):
    drive(ConsoleTracker(), make_run(), status="failed", experiences=0)
    assert capsys.readouterr().err.splitlines()[-1] == "failed: tiny s3, run tiny-1"


def test_where_no_experience_is_over_there_are_no_scores_and_nothing_to_resume(drive, make_run, capsys):
    drive(ConsoleTracker(), make_run(step=7), status="failed", experiences=0)
    err = capsys.readouterr().err
    assert "tracking" in err
    assert not [word for word in ("average accuracy", "forgetting", "--resume", "clkd extend") if word in err]


def test_of_a_run_that_is_all_trained_a_resume_says_what_it_can_go_on_with(drive, make_run, capsys):
    drive(ConsoleTracker(), make_run(trained=3))
    assert "all of it is trained: to go on with more data: clkd extend tiny-1 NEW_DATA" in capsys.readouterr().err


@pytest.mark.parametrize(("terminal", "variable", "drawn"), [
    (True, None, True), (False, None, False), (True, "NO_COLOR", False), (True, "CI", False),
])  # fmt: skip
def test_bars_are_drawn_for_people_only(monkeypatch, capsys, terminal, variable, drawn):
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with progress(3, "training") as bar:
        for _ in range(3):
            bar.update()
    out, err = capsys.readouterr()
    assert out == ""
    assert ("training" in err) == drawn
    with progress(3, "training", quiet=True) as bar:
        bar.update()
    assert capsys.readouterr().err == ""
