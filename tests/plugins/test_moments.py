"""The moments that plugins are told of: which, in what order, with what in hand."""

from __future__ import annotations

import json
from pathlib import Path

from processes import clkd

SCENARIO = """\
name: tiny
stream: {dataset: {name: digits, rows_per_class: 6}, split: {by: class, experiences: 2}}
student: {model: {kind: mlp, hidden: [8]}, head: linear}
train: {epochs: 2, optimizer: {kind: sgd, lr: LR}}
tracking: {mode: "off"}
"""
PLUGIN = """\
import json
from clkd import hookimpl


def note(*what):
    with open("notes.jsonl", "a") as file:
        file.write(json.dumps(what) + "\\n")


@hookimpl
def clkd_configure(scenario, registry):
    note("configure", scenario.name, "kd" in registry.names("losses"))


@hookimpl
def clkd_run_start(run):
    note("run_start", run.record.trained)


@hookimpl
def clkd_experience_start(run, experience):
    note("experience_start", experience.index, list(experience.classes))


@hookimpl
def clkd_epoch_end(run, experience, metrics):
    note("epoch_end", experience.index, run.step, sorted(metrics))


@hookimpl
def clkd_experience_end(run, experience, result):
    note("experience_end", experience.index, run.record.trained, result["metrics"]["stream/average_accuracy"])


@hookimpl
def clkd_run_end(run, outcome):
    note("run_end", outcome.status, outcome.result["status"])
"""
METRICS = ["train/loss", "train/loss_cross_entropy", "train/lr", "train/weighted_cross_entropy"]


def told(home: Path, lr: str, *arguments: str) -> tuple[int, list[list[object]]]:
    """Run the scenario beside the plugin; the exit code and what the plugin noted."""
    (home / "plugins").mkdir(exist_ok=True)
    (home / "plugins" / "witness.py").write_text(PLUGIN)
    (home / "s.yaml").write_text(SCENARIO.replace("LR", lr))
    (home / "notes.jsonl").unlink(missing_ok=True)
    done = clkd("run", "s.yaml", "--plugins-dir", "plugins", *arguments, cwd=home)
    notes = (home / "notes.jsonl").read_text().splitlines()
    return done.returncode, [json.loads(line) for line in notes]


def test_every_moment_in_order(tmp_path: Path) -> None:
    code, notes = told(tmp_path, "0.05")
    assert code == 0
    accuracies = [note[3] for note in notes if note[0] == "experience_end"]
    assert all(isinstance(accuracy, float) for accuracy in accuracies)
    assert [note[:3] if note[0] == "experience_end" else note for note in notes] == [
        ["configure", "tiny", True],
        ["run_start", 0],
        ["experience_start", 0, [0, 1, 2, 3, 4]],
        ["epoch_end", 0, 1, METRICS],
        ["epoch_end", 0, 2, METRICS],
        ["experience_end", 0, 1],
        ["experience_start", 1, [5, 6, 7, 8, 9]],
        ["epoch_end", 1, 3, METRICS],
        ["epoch_end", 1, 4, METRICS],
        ["experience_end", 1, 2],
        ["run_end", "finished", "finished"],
    ]


def test_the_end_is_told_also_of_a_run_that_failed(tmp_path: Path) -> None:
    code, notes = told(tmp_path, "1e30")
    assert code == 1
    assert notes[-1] == ["run_end", "failed", "failed"]


def test_a_dry_run_is_configured_and_not_run(tmp_path: Path) -> None:
    code, notes = told(tmp_path, "0.05", "--dry-run")
    assert code == 0
    assert [note[0] for note in notes] == ["configure"]
