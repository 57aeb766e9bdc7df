"""A disk that is full, or a place that cannot be written: one line, exit code 1, and what was good before stays good.

A limit on the size of files gives the same kind of error everywhere; a small tmpfs is used where one may be mounted.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from clkd import checkpoint
from clkd.scenario.document import to_yaml

SCENARIO = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 8}, "split": {"by": "class", "experiences": 3}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "train": {"batch_size": 8, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "offline"},
}
LARGE = {"student": {"model": {"kind": "mlp", "hidden": [400]}, "head": "linear"}}


@contextmanager
def files_up_to(size):
    """No file can grow beyond `size` bytes: writing more fails with EFBIG. (Python ignores the signal SIGXFSZ.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def scenario(tmp_path, monkeypatch):
    """`scenario(section=…)` writes it; its output is `run`. The cache is the test's own."""
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def write(**sections):
        Path("s.yaml").write_text(to_yaml({**SCENARIO, "output": "run", **sections}))
        return "s.yaml"

    return write


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(scenario, clkd):
    path = scenario(**LARGE)
    assert clkd("run", path, "-q", "--set", "output=whole").code == 0
    assert clkd("run", path, "-q", "--limit-experiences", "1").code == 0
    with files_up_to(40_000):
        done = clkd("run", "--resume", "run", "-q")
    assert done.code == 1
    assert "checkpoints/exp_001: the checkpoint cannot be written: " in done.line
    assert done.line.endswith("the one before it stays: make room, then go on with --resume")
    assert sorted(os.listdir("run/checkpoints")) == ["exp_000"]
    assert json.loads(Path("run/run.json").read_text())["status"] == "failed"
    assert clkd("run", "--resume", "run", "-q").code == 0
    whole, mended = (
        checkpoint.load(Path(name, "checkpoints/exp_002"))["student"]["state"] for name in ("whole", "run")
    )
    assert all(torch.equal(whole[name], mended[name]) for name in whole)


def test_a_run_that_finds_no_room_for_its_first_checkpoint_can_begin_again(scenario, clkd):
    path = scenario(**LARGE)
    assert clkd("run", path, "-q", "--dry-run").code == 0
    with files_up_to(40_000):
        done = clkd("run", path, "-q")
    assert done.code == 1
    assert "exp_000: the checkpoint cannot be written" in done.line
    assert clkd("run", "--resume", "run", "-q").code == 0


def test_a_store_that_finds_no_room_leaves_nothing_half(scenario, clkd):
    path = scenario()
    with files_up_to(4_000):
        done = clkd("run", path, "-q", "--dry-run")
    assert done.code == 1
    assert "cannot be written: File too large: make room" in done.err.splitlines()[-1]
    assert "cache/data/digits-" in done.err.splitlines()[-1]
    assert [name for name in os.listdir("cache/data") if not name.endswith(".lock")] == []
    assert clkd("run", path, "-q", "--dry-run").code == 0


def test_metrics_that_find_no_room_do_not_stop_the_training(scenario, clkd):
    path = scenario(train={**SCENARIO["train"], "epochs": 60})
    assert clkd("run", path, "-q", "--dry-run").code == 0
    with files_up_to(12_000):
        done = clkd("run", path, "-q", "--json")
    assert done.code == 0
    assert "tracker 'jsonl' failed, training goes on without it" in done.line
    assert json.loads(done.out)["status"] == "finished"
    assert Path("run/result.json").exists()


def test_a_teacher_cache_that_finds_no_room_is_done_without(scenario, clkd):
    path = scenario(
        stream={"dataset": {"name": "digits", "rows_per_class": 60}, "split": {"by": "class", "experiences": 2}},
        teachers={"big": {"kind": "fit", "model": {"kind": "mlp", "hidden": [100]}, "epochs": 1}},
        losses=["cross_entropy", {"kind": "kd", "between": ["student", "big"]}],
    )
    assert clkd("run", path, "-q", "--dry-run").code == 0
    with files_up_to(11_500):
        done = clkd("run", path, "-q", "--json")
    assert done.code == 0, done.err
    assert "cannot be written" in done.err
    assert "the next run fits it again" in done.err
    assert "teachers.big: answers cannot be kept: " in done.err
    again = clkd("run", path, "-q", "--json", "--set", "output=again")
    assert again.err == ""
    for a, b in zip(done.matrix, again.matrix, strict=True):
        assert a == pytest.approx(b, abs=0.02, nan_ok=True)


TMPFS = [
    "unshare",
    "--mount",
    "--map-root-user",
    "sh",
    "-c",
    'mount -t tmpfs -o size="$1" clkd "$2" && shift 2 && exec "$@"',
    "sh",
]


def may_mount(tmp_path):
    if shutil.which("unshare") is None:
        return False
    folder = tmp_path / "probe"
    folder.mkdir()
    return subprocess.run([*TMPFS, "64k", folder, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("what", ["run", "cache"])
def test_a_small_tmpfs_fills_up(scenario, tmp_path, what):
    if not may_mount(tmp_path):
        pytest.skip(reason="mounting a tmpfs is not allowed here; files of limited size stand for it")
    path = scenario(**LARGE)
    small = tmp_path / "small"
    small.mkdir()
    environment = {**os.environ, "CLKD_CACHE": str(small if what == "cache" else tmp_path / "cache")}
    command = [*TMPFS, "64k" if what == "run" else "16k", small, sys.executable, "-m", "clkd", "run", path, "-q"]
    output = ["--set", f"output={small / 'run' if what == 'run' else tmp_path / 'run'}"]
    done = subprocess.run([*command, *output], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written: " in done.stderr.splitlines()[-1]
    assert "o space left on device" in done.stderr
    assert "make room" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("what", ["output", "cache"])
def test_a_place_that_cannot_be_written(scenario, what, clkd, monkeypatch):
    """Below a file, which stops a superuser, too."""
    path = scenario()
    Path("file").touch()
    if what == "cache":
        monkeypatch.setenv("CLKD_CACHE", "file/cache")
    done = clkd("run", path, "-q", "--set", f"output={'file/run' if what == 'output' else 'run'}")
    assert done.code == 2
    assert "Not a directory" in done.line
    assert ("--set output=DIR" if what == "output" else "set CLKD_CACHE to a folder that can") in done.line


def test_checkpoints_whose_place_is_taken(scenario, clkd):
    path = scenario()
    Path("run").mkdir()
    Path("run/checkpoints").write_text("mine")
    done = clkd("run", path, "-q")
    assert done.code == 2
    assert "run/checkpoints is there already" in done.line
    assert Path("run/checkpoints").read_text() == "mine"
