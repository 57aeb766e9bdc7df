"""Looking at the student during training: no bit of it changes, and a run that goes on says the same."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from states import assert_same, state

from clkd import checkpoint
from clkd.engine.execute import _Execution, execute
from clkd.errors import Interrupted, UserError
from clkd.losses.ewc import EWC
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest

BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 12}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "resnet8", "width": 3}, "head": "linear"},
    "losses": ["cross_entropy"],
    "memory": {"kind": "reservoir", "size": 20},
    "train": {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9}},
    "tracking": {"mode": "off"},
    "checkpoint": {"every_minutes": None, "every_steps": 5},
}
LOOKING = {"train": {**BASE["train"], "evaluate_every": 3}, "metrics": ["average_accuracy", "anytime_accuracy"]}


def scenario(home: Path, name: str, **changes: Any) -> Path:
    path = home / f"{name}.yaml"
    path.write_text(to_yaml({**BASE, **changes, "output": str(home / name)}))
    return path


def run(home: Path, name: str, **changes: Any) -> dict[str, Any]:
    return execute(RunRequest(scenario=scenario(home, name, **changes), quiet=True), load_plugins())


def moments(directory: Path) -> list[tuple[int, int, float]]:
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    found = [line for line in lines if line["event"] == "evaluation"]
    return [(line["experience"], line["step"], line["metrics"]["anytime/average_accuracy"]) for line in found]


def test_no_bit_of_training_changes(tmp_path):
    run(tmp_path, "plain")
    result = run(tmp_path, "looking", **LOOKING)
    plain, looking = state(tmp_path / "plain"), state(tmp_path / "looking")
    for part in ("student", "memory", "terms"):
        assert_same(plain[part], looking[part])
    seen = moments(tmp_path / "looking")
    assert [step for _, step, _ in seen] == list(range(3, plain["run"]["step"] + 1, 3))
    mean = sum(accuracy for *_, accuracy in seen) / len(seen)
    assert result["metrics"]["anytime_accuracy"] == pytest.approx(mean)
    assert (
        result["compute"]["training_macs"] == 3 * result["compute"]["macs_per_row"] * result["compute"]["training_rows"]
    )
    assert moments(tmp_path / "plain") == []


def test_a_run_that_goes_on_within_an_experience_says_the_same(tmp_path, monkeypatch):
    run(tmp_path, "whole", **LOOKING)
    ordinary, steps = _Execution._on_step, []

    def stopping(self: Any, progress: Any) -> None:
        ordinary(self, progress)
        steps.append(progress.step)
        if len(steps) == 7:
            raise Interrupted("SIGTERM", 143)

    monkeypatch.setattr(_Execution, "_on_step", stopping)
    with pytest.raises(Interrupted):
        run(tmp_path, "halves", **LOOKING)
    monkeypatch.setattr(_Execution, "_on_step", ordinary)
    execute(RunRequest(resume=tmp_path / "halves", quiet=True), load_plugins())
    assert moments(tmp_path / "halves") == moments(tmp_path / "whole")
    whole, halves = state(tmp_path / "whole"), state(tmp_path / "halves")
    assert_same(whole["student"], halves["student"])
    assert whole["run"]["record"]["anytime"] == halves["run"]["record"]["anytime"]


def test_anytime_accuracy_without_evaluations_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match=r"set train\.evaluate_every"):
        run(tmp_path, "blind", metrics=["anytime_accuracy"])


def test_intransigence_reads_a_joint_run(tmp_path):
    one = {**BASE["stream"], "split": {"by": "class", "experiences": 1}}
    joint = run(tmp_path, "joint", stream=one)
    part = {"kind": "intransigence", "joint": "joint"}
    result = run(tmp_path, "continual", metrics=["average_accuracy", part])
    own = [result["accuracy_matrix"][i][i] for i in range(2)]
    # the experiences have as many test rows, so that the mean of their joint accuracies is the joint run's
    wanted = joint["metrics"]["average_accuracy"] - sum(own) / 2
    assert result["metrics"]["intransigence"] == pytest.approx(wanted, abs=0.02)
    numbers = run(tmp_path, "given", metrics=[{"kind": "intransigence", "joint": [0.9, 0.8]}])
    assert numbers["metrics"]["intransigence"] == pytest.approx(0.85 - sum(own) / 2)


@pytest.mark.parametrize(
    ("joint", "told"), [("nowhere", "has no result.json"), ([0.5], "1 accuracies, the stream 2 experiences")]
)
def test_a_joint_run_that_is_not_there_is_told_in_a_line(tmp_path, joint, told):
    with pytest.raises(UserError, match=told):
        run(tmp_path, "run", metrics=[{"kind": "intransigence", "joint": joint}])


def test_stopped_while_losses_look_back_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was trained is saved as soon as it can be: once it is to be evaluated."""
    changes = {"losses": ["cross_entropy", "ewc"], "checkpoint": {"every_minutes": None}}
    run(tmp_path, "whole", **changes)
    review, asked = EWC.review, list[int]()

    def interrupted(self: EWC, *about: Any) -> None:
        asked.append(1)
        if len(asked) == 1:
            signal.raise_signal(signal.SIGTERM)
        review(self, *about)

    monkeypatch.setattr(EWC, "review", interrupted)
    with pytest.raises(Interrupted):
        run(tmp_path, "cut", **changes)
    saved = checkpoint.load(tmp_path / "cut" / "checkpoints" / "step")["run"]
    assert saved["unevaluated"]
    execute(RunRequest(resume=str(tmp_path / "cut"), quiet=True), load_plugins())
    assert_same(state(tmp_path / "cut"), state(tmp_path / "whole"))


def test_each_experience_is_told_the_seconds_so_far(tmp_path: Path) -> None:
    result = run(tmp_path, "run", checkpoint={"every_minutes": None})
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    told = [line["metrics"] for line in lines if line["event"] == "experience"]
    for metrics in told:
        parts = [metrics[f"time/{purpose}_s"] for purpose in ("train", "evaluate", "teachers", "tracking")]
        assert metrics["time/total_s"] > sum(parts) > 0
    assert told[0]["time/total_s"] < told[1]["time/total_s"] <= result["seconds"]["total"]


def test_seconds_go_on_counting_where_a_run_goes_on(tmp_path: Path) -> None:
    request = RunRequest(scenario=scenario(tmp_path, "run"), limit_experiences=1, quiet=True)
    execute(request, load_plugins())
    before = json.loads((tmp_path / "run" / "result.json").read_text())["seconds"]
    execute(RunRequest(resume=str(tmp_path / "run"), quiet=True), load_plugins())
    after = json.loads((tmp_path / "run" / "result.json").read_text())["seconds"]
    assert all(after[purpose] > seconds for purpose, seconds in before.items())
