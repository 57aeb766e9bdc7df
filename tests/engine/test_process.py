"""`clkd run` as people meet it: a real process, its output, its exit codes, its MLflow store."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Done, clkd, start, wait_for

from clkd.scenario.document import to_yaml

KEYS = {
    "run_id",
    "status",
    "scenario",
    "seed",
    "dataset",
    "stand_in",
    "metrics",
    "accuracy_matrix",
    "seconds",
    "rows_per_second",
    "checkpoint",
}
HEADLINES = {
    "average_accuracy",
    "average_accuracy_task_aware",
    "forgetting",
    "backward_transfer",
    "forward_transfer",
}
TINY: dict[str, Any] = {
    "name": "tiny",
    "stream": {
        "dataset": {"name": "cifar10", "offline": "digits", "rows_per_class": 10},
        "split": {"by": "class", "experiences": 5},
    },
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "teachers": {"previous": "previous"},
    "losses": [
        "cross_entropy",
        {"kind": "kd", "between": ["student", "previous"], "weight": "old_fraction"},
    ],
    "memory": {"kind": "reservoir", "size": 20},
    "transfer": {"kind": "coral", "weight": 0.1},
    "train": {"epochs": 1, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}},
}


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(to_yaml(TINY))
    return path


def changed(scenario: Path, **sections: Any) -> Path:
    scenario.write_text(to_yaml({**TINY, **sections}))
    return scenario


def test_one_json_object_on_stdout_and_the_stand_in_on_the_first_line(scenario: Path, tmp_path: Path) -> None:
    done = clkd("run", "tiny.yaml", "--json", "--tracking", "offline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result.keys() >= KEYS
    assert result["metrics"].keys() >= HEADLINES
    assert result["seconds"].keys() >= {"total", "train", "evaluate", "tracking"}
    assert (result["status"], result["dataset"], result["stand_in"]) == ("finished", "cifar10", "digits")
    assert len(result["accuracy_matrix"]) == 5
    assert all(0 <= result["accuracy_matrix"][i][j] <= 1 for i in range(5) for j in range(i + 1))
    assert result["rows_per_second"] > 0
    assert Path(result["checkpoint"]).is_dir()
    assert "digits stands in for cifar10" in done.stderr.splitlines()[0]
    steps = result["compute"]["steps"]
    assert f"1 epoch of batches of 16 by sgd, {steps} steps in all" in done.stderr
    assert done.stderr.count(" left\n") == 4, "after each epoch but the last"
    lines = [json.loads(line) for line in next(tmp_path.glob("runs/*/metrics.jsonl")).read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", *["epoch", "experience"] * 5, "end"]


def test_without_an_offline_entry_missing_data_is_one_line_that_says_how_to_get_it(
    scenario: Path, tmp_path: Path
) -> None:
    stream = {**TINY["stream"], "dataset": "cifar10"}
    done = clkd("run", str(changed(scenario, stream=stream)), cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "CLKD_DATA" in done.stderr
    assert "offline: digits" in done.stderr
    assert not list(tmp_path.glob("runs/*")), "a mistake found before training leaves no directory"


def test_resumed_in_another_process_it_ends_as_if_never_stopped(scenario: Path, tmp_path: Path) -> None:
    whole = clkd("run", "tiny.yaml", "--json", "--tracking", "off", cwd=tmp_path)
    cut = clkd("run", "tiny.yaml", "--json", "--tracking", "off", "--limit-experiences", "2", cwd=tmp_path)
    assert json.loads(cut.stdout)["status"] == "stopped"
    resumed = clkd("run", "--resume", "last", "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    a, b = json.loads(whole.stdout), json.loads(resumed.stdout)
    assert b["run_id"] == json.loads(cut.stdout)["run_id"]
    for key in ("status", "metrics", "accuracy_matrix"):
        assert a[key] == b[key], key


HOLDS = """
import time
from pathlib import Path
from clkd.hooks import hookimpl

@hookimpl
def clkd_experience_start(run, experience):
    "The second one waits until it is let go: the run is not over before the signal comes."
    held = Path("held")
    if experience.index == 1:
        held.touch()
        while held.exists():
            time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("number", "code", "tracking"),
    [
        (signal.SIGTERM, 143, ["--tracking-uri", "sqlite:///m.db"]),
        (signal.SIGINT, 130, ["--tracking", "off"]),
    ],
)
def test_a_stopped_run_is_killed_and_keeps_its_experiences(
    scenario: Path, tmp_path: Path, empty_store: Path, number: signal.Signals, code: int, tracking: list[str]
) -> None:
    shutil.copy(empty_store, tmp_path / "m.db")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "holds.py").write_text(HOLDS)
    process = start("run", "tiny.yaml", "--plugins-dir", "plugins", *tracking, cwd=tmp_path)
    wait_for((tmp_path / "held").exists, process)
    process.send_signal(number)
    (tmp_path / "held").unlink()
    _, said = process.communicate(timeout=150)
    assert process.returncode == code, said
    assert "Traceback" not in said
    manifest = json.loads(next(tmp_path.glob("runs/*/run.json")).read_text())
    assert manifest["status"] == "killed"
    assert next(tmp_path.glob("runs/*/result.json")).exists()
    if "mlflow" in manifest["tracking"]:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{tmp_path}/m.db")
        assert client.get_run(manifest["tracking"]["mlflow"]["run_id"]).info.status == "KILLED"


def test_a_diverging_run_fails_and_names_its_term(scenario: Path, tmp_path: Path) -> None:
    train = {**TINY["train"], "epochs": 5, "optimizer": {"kind": "sgd", "lr": 1e30}}
    done = clkd("run", str(changed(scenario, train=train)), "--tracking", "off", cwd=tmp_path)
    assert done.returncode == 1
    assert "loss term 'cross_entropy' became NaN or infinite in experience 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(next(tmp_path.glob("runs/*/run.json")).read_text())["status"] == "failed"


def mistake(done: Done) -> str:
    """The one line that a user's mistake is worth."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if "stands in" not in line and "decoding" not in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_teacher_whose_classes_do_not_match(scenario: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"head.weight": zeros(7, 16), "head.bias": zeros(7)}, tmp_path / "teacher.safetensors")
    teacher = {"kind": "checkpoint", "path": "teacher.safetensors", "model": {"kind": "mlp", "hidden": [16]}}
    losses = ["cross_entropy", {"kind": "kd", "between": ["student", "big"]}]
    path = changed(scenario, teachers={"big": teacher}, losses=losses)
    said = mistake(clkd("run", str(path), "--tracking", "off", cwd=tmp_path))
    assert "teachers.big: the teacher has 7 classes, the stream has 10" in said
    missing = {**teacher, "path": "nowhere.pt"}
    path = changed(scenario, teachers={"big": missing}, losses=losses)
    assert "nowhere.pt does not exist" in mistake(clkd("run", str(path), "--tracking", "off", cwd=tmp_path))


def test_a_cache_or_an_output_that_cannot_be_written(scenario: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = str(tmp_path / "file" / "cache")
    assert "set CLKD_CACHE" in mistake(clkd("run", "tiny.yaml", cwd=tmp_path, CLKD_CACHE=blocked))
    said = mistake(clkd("run", "tiny.yaml", "--set", f"output={tmp_path}/file/run", cwd=tmp_path))
    assert "choose another place with --set output=DIR" in said


def test_a_mistake_deletes_nothing_that_was_in_the_output_directory(scenario: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    stream = {**TINY["stream"], "dataset": "cifar10"}
    done = clkd("run", str(changed(scenario, stream=stream, output="mine")), cwd=tmp_path)
    assert done.returncode == 2
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_class_list_that_leaves_an_experience_empty(scenario: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 255, (40, 8, 8), dtype=np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x[y < 3], y_test=y[y < 3])
    stream = {"dataset": {"name": "arrays", "path": "own.npz"}, "split": {"by": "class", "classes": [[0, 1, 2], [3]]}}
    said = mistake(clkd("run", str(changed(scenario, stream=stream)), "--tracking", "off", cwd=tmp_path))
    assert "experience 1" in said
    assert "no test rows" in said


@pytest.mark.parametrize(
    ("head", "split", "said"),
    [
        ({"kind": "fixed", "classes": 6}, {"by": "class", "experiences": 5}, "has 6 classes from 0, but class 7 came"),
        ("multi", {"by": "domain", "transform": "permuted", "experiences": 2}, "brings class 0, 1, 2"),
    ],
)
def test_a_head_that_does_not_suit_the_stream_is_refused_before_training(
    scenario: Path, tmp_path: Path, head: Any, split: Any, said: str
) -> None:
    sections = {"student": {**TINY["student"], "head": head}, "stream": {**TINY["stream"], "split": split}}
    done = clkd("run", str(changed(scenario, **sections)), "--tracking", "off", cwd=tmp_path)
    assert said in mistake(done)
    assert not list(tmp_path.glob("runs/*")), "nothing was trained"


def test_a_dry_run_describes_everything_and_writes_nothing(scenario: Path, tmp_path: Path) -> None:
    done = clkd("run", "tiny.yaml", "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [entry["classes"] for entry in told["stream"]] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert not (tmp_path / "runs").exists()
    assert not list(tmp_path.glob("*.db"))
    shown = clkd("run", "tiny.yaml", "--dry-run", cwd=tmp_path)
    assert "[8, 9]" in shown.stdout + shown.stderr
