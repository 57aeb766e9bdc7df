"""A real `clkd run` that is killed with SIGKILL, wherever it is, goes on and ends as if it had not been."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from processes import clkd, start, wait_for
from states import assert_same, state

from clkd import checkpoint
from clkd.scenario.document import parse, to_yaml

DEATH = '''
"""Kills the process where `death.json` says: after so many Python calls of training, or `fsync`s, or at a step."""
import json, os, signal, sys
from pathlib import Path
import torch
from typing import ClassVar
from clkd import Loss, Options, hookimpl

file = Path("death.json")
death = json.loads(file.read_text()) if file.exists() else {}
file.unlink(missing_ok=True)
left = dict(death)

def die_in(what):
    left[what] = left.get(what, -1) - 1
    if left[what] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

class DiesOptions(Options):
    sides: ClassVar[int] = 1

class Dies(Loss):
    """Adds nothing."""
    sides = 1
    def forward(self, batch, a, b=None):
        if self.progress.step + 1 == death.get("step"):
            os.kill(os.getpid(), signal.SIGKILL)
        return a.logits.sum() * 0

@hookimpl
def clkd_register_losses(register):
    register("dies", Dies, config=DiesOptions, summary="kills the process")

@hookimpl
def clkd_run_start(run):
    fsync = os.fsync
    def counted(handle):
        fsync(handle)
        die_in("fsync")
    if "fsync" in death:
        os.fsync = counted
    if "calls" in death:
        sys.setprofile(lambda frame, event, argument: die_in("calls") if event == "call" else None)
'''
HANG = """
import time
from clkd import hookimpl

@hookimpl
def clkd_run_end(run, outcome):
    print("hangs", flush=True)
    time.sleep(600)
"""
SCENARIO: dict[str, Any] = {
    "name": "mortal",
    "stream": {
        "dataset": {"name": "digits", "rows_per_class": 20},
        "split": {"by": "class", "experiences": 2},
        "augment": {"crop": 1},
    },
    "student": {"model": {"kind": "mlp", "hidden": [16], "dropout": 0.2}, "head": "linear"},
    "teachers": {"previous": "previous", "slow": {"kind": "ema", "decay": 0.9}},
    "losses": [
        "cross_entropy",
        "dies",
        {"kind": "kd", "between": ["student", "previous"], "weight": "old_fraction"},
        {"kind": "features", "between": ["student.penultimate", "slow.penultimate"], "align": "linear", "weight": 0.1},
    ],
    "memory": {"kind": "reservoir", "size": 30},
    "transfer": {"kind": "coral", "weight": 0.1},
    "train": {
        "epochs": 2,
        "batch_size": 16,
        "optimizer": {"kind": "adam", "lr": 0.01},
        "scheduler": {"kind": "cosine", "every": "step"},
    },
    "checkpoint": {"every_steps": 3, "every_minutes": None, "keep": 1},
}
STEPS = 2 * 2 * 7
SHIPPED = Path(__file__).parents[2] / "scenarios" / "split_cifar.yaml"


def main_job() -> dict[str, Any]:
    """The shipped scenario on a few rows of the stand-in: five experiences of 7 steps, with a small teacher."""
    data = parse(SHIPPED.read_text(encoding="utf-8")).data
    data["stream"]["dataset"] |= {"name": "digits", "rows_per_class": 20}
    data["teachers"]["external"] |= {"model": "resnet8", "epochs": 1}
    data["losses"].append("dies")
    data["train"] |= {"min_steps": 7}
    return {**data, "checkpoint": {"every_steps": 2, "every_minutes": None, "keep": 1}}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return prepared(tmp_path, SCENARIO)


def prepared(home: Path, scenario: dict[str, Any]) -> Path:
    (home / "plugins").mkdir()
    (home / "plugins" / "death.py").write_text(DEATH)
    for name in ("whole", "cut"):
        (home / f"{name}.yaml").write_text(to_yaml({**scenario, "output": name}))
    return home


def run(home: Path, *arguments: str, **death: int) -> int:
    """The exit code of a run that is killed where `death` says."""
    if death:
        (home / "death.json").write_text(json.dumps(death))
    done = clkd("run", *arguments, "--plugins-dir", "plugins", "-q", cwd=home)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    assert "Traceback" not in done.stderr
    (home / "death.json").unlink(missing_ok=True)
    return done.returncode


def go_on(home: Path, *more: str, **death: int) -> int:
    started = (home / "cut" / "run.json").exists()
    which = ("--resume", "cut") if started else ("cut.yaml",)
    return run(home, *which, *more, **death)


def assert_same_runs(home: Path, experiences: int = 2, epochs: int = 2) -> None:
    states, stories, results = [], [], []
    for name in ("whole", "cut"):
        assert [path.name for path in (home / name / "checkpoints").iterdir()] == [f"exp_{experiences - 1:03}"], (
            "keep: 1"
        )
        states.append(state(home / name))
        lines = list(map(json.loads, (home / name / "metrics.jsonl").read_text().splitlines()))
        stories.append([told(line) for line in lines if line["event"] in ("epoch", "experience")])
        results.append(json.loads((home / name / "result.json").read_text()))
    assert_same(*states)
    assert stories[0] == stories[1]
    assert len(stories[0]) == experiences * (epochs + 1), "each epoch and experience is told once"
    for key in ("status", "metrics", "accuracy_matrix"):
        assert results[0][key] == results[1][key]


def told(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what took time."""
    metrics = {k: v for k, v in line["metrics"].items() if k.split("/")[0] not in ("time", "speed", "teacher_cache")}
    return {**{key: line.get(key) for key in ("event", "experience", "epoch", "step")}, "metrics": metrics}


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_killed_three_times_it_ends_as_if_never_killed(home: Path) -> None:
    """At a step, between the files of a checkpoint, and at a step of the next experience."""
    draw = random.Random(0)
    assert run(home, "whole.yaml", "--tracking", "offline") == 0
    assert go_on(home, "--tracking", "offline", step=draw.randint(5, 13)) == -signal.SIGKILL
    # Each checkpoint makes seven: metrics.jsonl, two files, their directory, the one above; and there are more.
    assert go_on(home, fsync=draw.randint(9, 20)) == -signal.SIGKILL
    assert go_on(home, step=draw.randint(20, STEPS)) == -signal.SIGKILL
    assert go_on(home) == 0
    assert_same_runs(home)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(4))
def test_killed_anywhere(home: Path, seed: int) -> None:
    """After random numbers of calls and of `fsync`s, eight times or until it is over; MLflow has every point once."""
    tracking = ("--tracking", "mlflow", "--tracking-uri", "sqlite:///m.db") if seed == 0 else ("--tracking", "offline")
    assert run(home, "whole.yaml", *tracking) == 0
    draw, codes = random.Random(seed), []
    for i in range(8):
        death = {"fsync": draw.randint(1, 30)} if i % 4 == 3 else {"calls": draw.randint(1, 20_000)}
        codes.append(go_on(home, *tracking, **death))
    assert codes.count(-signal.SIGKILL) >= 5, codes  # how many calls a run makes is Python's and torch's affair, too
    assert go_on(home, *tracking) == 0
    assert_same_runs(home)
    if seed == 0:
        assert_each_point_once(home)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_main_job_killed_in_each_experience(tmp_path: Path) -> None:
    home, draw = prepared(tmp_path, main_job()), random.Random(5)
    assert run(home, "whole.yaml", "--tracking", "offline") == 0
    steps = [json.loads(line)["step"] for line in (home / "whole" / "metrics.jsonl").read_text().splitlines()
             if json.loads(line)["event"] == "experience"]  # fmt: skip
    for first, last in zip([0, *steps], steps, strict=False):
        assert go_on(home, "--tracking", "offline", step=draw.randint(first + 1, last)) == -signal.SIGKILL
    assert go_on(home, "--tracking", "offline") == 0
    epochs = sum(
        json.loads(line)["event"] == "epoch" for line in (home / "whole" / "metrics.jsonl").read_text().splitlines()
    )
    assert_same_runs(home, len(steps), epochs // len(steps))


def assert_each_point_once(home: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/m.db")
    found = [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len(found) == 2 * (1 + 2), "two runs with a child for each experience"
    for run in found:
        for key in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, key)]
            assert len(steps) == len(set(steps)), (key, steps)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_and_a_second_one_stops_at_once(home: Path, number: signal.Signals, code: int) -> None:
    """The first is obeyed after a step, with a checkpoint; while a tracker hangs at the end, another one ends it."""
    (home / "plugins" / "hang.py").write_text(HANG)
    long = {**SCENARIO["train"], "epochs": 100_000}
    (home / "cut.yaml").write_text(to_yaml({**SCENARIO, "train": long, "checkpoint": {}, "output": "cut"}))
    words = ("run", "cut.yaml", "--plugins-dir", "plugins", "-q", "--tracking", "offline")
    process = start(*words, cwd=home)
    lines = home / "cut" / "metrics.jsonl"
    wait_for(lambda: lines.exists() and '"epoch"' in lines.read_text(), process)
    process.send_signal(number)
    wait_for(lambda: process.out.read_text() == "hangs\n", process)
    step = checkpoint.load(home / "cut" / "checkpoints" / "step")
    assert step["within"]["entry"] is None
    assert step["run"]["step"] > 0
    process.send_signal(number)
    _, said = process.communicate(timeout=150)
    assert process.returncode == code, said
    assert said.splitlines()[-1].startswith("clkd: stopped by"), said
    assert json.loads((home / "cut" / "run.json").read_text())["status"] == "killed"
