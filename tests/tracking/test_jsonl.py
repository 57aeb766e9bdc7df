"""The lines are strict JSON, whole, and never doubled, whatever stopped the run before."""

import json
import math
import platform
import subprocess
import sys
from importlib.metadata import distributions
from types import SimpleNamespace

import pytest

from clkd.tracking import confusions, events, labels, reports
from clkd.tracking.events import FILE
from clkd.tracking.jsonl import JsonlTracker


def strict(run):
    text = (run.directory / FILE).read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def story(lines):
    return [(line["event"], line.get("experience"), line.get("epoch"), line["step"]) for line in lines]


WHOLE = [
    ("start", None, None, 0),
    *(
        entry
        for i in range(3)
        for entry in [
            ("epoch", i, 0, 20 * i + 10),
            ("epoch", i, 1, 20 * i + 20),
            ("experience", i, None, 20 * i + 20),
        ]
    ),
    ("end", None, None, 60),
]


def test_one_line_per_moment(drive):
    lines = strict(drive(JsonlTracker()))
    assert story(lines) == WHOLE
    assert lines[1]["metrics"] == {"train/loss": 0.1, "train/loss_kd@[0]": 0.5, "train/lr": 0.1}
    assert lines[-1]["status"] == "finished"


def test_an_experience_carries_every_number_that_mlflow_gets(drive):
    points = strict(drive(JsonlTracker()))[6]["metrics"]
    assert points["stream/average_accuracy"] == 0.7
    assert [points[f"acc_matrix/exp_{j:02d}"] for j in range(2)] == drive.matrix[1][:2]
    assert points["acc_matrix_task_aware/exp_01"] == pytest.approx(0.84)
    assert "acc_matrix/exp_02" not in points  # was not trained yet
    assert points["class_acc/class 2"] == 0.25
    assert points["time/train_s"] == 1.0


def test_what_is_no_number_is_null(drive, make_run):
    run = make_run()
    tracker = JsonlTracker()
    tracker.start(run)
    tracker.epoch(run, drive.experience(0), {"a": math.nan, "b": math.inf, "c": 0.5})
    assert strict(run)[-1]["metrics"] == {"a": None, "b": None, "c": 0.5}


def test_each_line_is_there_at_once(drive, make_run):
    run = make_run()
    tracker = JsonlTracker()
    tracker.start(run)
    assert len(strict(run)) == 1
    drive.train(tracker, run, 0, epochs=1)
    assert len(strict(run)) == 2


@pytest.mark.parametrize("torn", ["", '{"time": 1, "event": "epo', '{"time": 1}garbage\n'])
def test_a_resumed_run_reads_as_if_never_stopped(drive, make_run, torn, caplog):
    run = make_run()
    tracker = JsonlTracker()
    tracker.start(run)
    for i in range(2):
        drive.train(tracker, run, i)
        drive.finish(tracker, run, i)
    drive.train(tracker, run, 2, epochs=1)  # and the process dies, after the checkpoint of experience 0
    with (run.directory / FILE).open("a") as file:
        file.write(torn)
    resumed = make_run(trained=1)
    drive(JsonlTracker(), resumed)
    assert story(strict(resumed)) == [*WHOLE[:4], ("start", None, None, 20), *WHOLE[4:]]
    assert ("torn line" in caplog.text) == bool(torn)
    assert {path.name for path in run.directory.glob("*.jsonl*")} == {FILE}
    assert not list(run.directory.glob(".*"))


def test_a_full_disk_leaves_whole_lines_and_loses_none(tmp_path):
    """A limit on the file's size is a disk that is full in the middle of a line, and later has room again."""
    code = """
import json, resource, sys
from types import SimpleNamespace
from pathlib import Path
from clkd.tracking.events import FILE
from clkd.tracking.jsonl import JsonlTracker

run = SimpleNamespace(directory=Path(sys.argv[1]), step=0, phase=None)
tracker = JsonlTracker()
tracker._listed = True
tracker._file = (run.directory / FILE).open("ab", buffering=0)
experience = SimpleNamespace(index=0)
for limit in (-1, 150, 150, 150, -1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    run.step += 1
    try:
        tracker.epoch(run, experience, {"train/loss": 0.5})
    except OSError as error:
        print(error.strerror)
    lines = (run.directory / FILE).read_text().splitlines(True)
    assert all(line.endswith("\\n") and json.loads(line) for line in lines), lines
    print(len(lines))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split("\n")[:-1] == ["1", *["File too large", "1"] * 3, "5"]


def test_readers_pass_over_what_is_no_line_of_ours(tmp_path):
    path = tmp_path / FILE
    path.write_bytes(b'{"event": "start"}\n{"event": "ep\n[1]\n\xff\xfe\n{"event": "epoch"}\n{"event": "experi')
    found, offset = events.read(path)
    assert found == [{"event": "start"}, {"event": "epoch"}]
    with path.open("ab") as file:
        file.write(b'ence"}\n')
    assert events.read(path, offset)[0] == [{"event": "experience"}]


def test_the_environment_lists_what_python_knows_to_be_installed():
    known = {f"{dist.metadata['Name']}=={dist.version}" for dist in distributions()}
    python, _, *packages = labels.environment().splitlines()
    assert python == f"python {platform.python_version()}"
    assert packages == sorted(known, key=str.lower)
    assert any(line.startswith("torch==") for line in packages)


def confusion(i):
    matrix = [[0] * 6 for _ in range(6)]
    matrix[1][1], matrix[1][4], matrix[4][1] = 3, 2, i
    return confusions.told(SimpleNamespace(index=i, name=f"e{i}"), "abcdef", matrix)


def test_a_confusion_matrix_is_kept_without_its_zeros(drive, make_run):
    run = make_run()
    tracker = JsonlTracker()
    tracker.start(run)
    for i in (0, 1):
        drive.finish(tracker, run, i, confusion=confusion(i))
    kept = [json.loads(path.read_text()) for path in reports.files(run.directory, confusions.FOLDER)]
    assert [each["counts"] for each in kept] == [[[0, 0, 3], [0, 1, 2]], [[0, 0, 3], [0, 1, 2], [1, 0, 1]]]
    assert kept[1]["classes"] == ["b", "e"], "the others had no row and were not named"
    assert confusions.square(kept[1]) == [[3, 2], [1, 0]]
    resumed = make_run(trained=1)
    JsonlTracker().start(resumed)
    assert [path.name for path in reports.files(run.directory, confusions.FOLDER)] == ["exp_000.json"]
