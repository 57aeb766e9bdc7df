"""How real runs end in MLflow, and how they end without it: exit codes, lines, statuses, time."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import wait_for

from clkd.scenario.document import to_yaml

TINY: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 10}, "split": {"by": "class", "experiences": 5}},
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "losses": ["cross_entropy"],
    "memory": {"kind": "reservoir", "size": 20},
    "train": {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}},
}


@pytest.fixture(autouse=True)
def database(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "m.db")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts `clkd …` in a folder with `tiny.yaml`; `changes` go into that."""
    running: list[processes.Process] = []

    def go(*arguments: str, **changes: Any) -> processes.Process:
        (tmp_path / "tiny.yaml").write_text(to_yaml({**TINY, **changes}))
        running.append(processes.start(*arguments, cwd=tmp_path))
        return running[-1]

    yield go
    for process in running:
        process.kill()


@pytest.fixture
def silent() -> Iterator[str]:
    """A socket that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def ended(process: processes.Process, code: int) -> tuple[str, str]:
    out, err = process.communicate(timeout=170)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def stored(tmp_path: Path) -> tuple[Any, list[Any]]:
    """The client of `m.db`, and its parent runs."""
    from clkd.tracking import store

    client = store.open_client(f"sqlite:///{tmp_path}/m.db")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return client, [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def points(client: Any, run: Any) -> list[tuple[str, int]]:
    return sorted(
        (key, point.step) for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key)
    )


MLFLOW = ("--tracking-uri", "sqlite:///m.db")
ENDLESS = {"epochs": 100_000, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}}


@pytest.mark.slow
def test_required_ends_with_4_before_training_and_leaves_nothing(start: Any, silent: str, tmp_path: Path) -> None:
    _, err = ended(start("run", "tiny.yaml", "-q", "--tracking", "required", "--tracking-uri", silent), 4)
    (line,) = [line for line in err.splitlines() if "decoding" not in line]
    assert re.fullmatch(rf"clkd: tracking is required, but MLflow server {silent} does not answer: .*", line)
    assert not list(tmp_path.glob("runs/*"))


PATIENT = """
import sys
from clkd.cli.main import main
from clkd.tracking import mlflow
mlflow.PATIENCE = 3600.0
sys.exit(main(["run", "tiny.yaml", "-q", "--tracking-uri", sys.argv[1]]))
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_run_whose_server_hangs(start: Any, silent: str, tmp_path: Path) -> None:
    """Who asks it to stop is not kept waiting as long as the end of training would be: here, an hour."""
    process = start("-c", PATIENT, silent, train=ENDLESS)
    wait_for(lambda: any(path.read_text().count("epoch") for path in tmp_path.glob("runs/*/metrics.jsonl")), process)
    process.send_signal(signal.SIGINT)
    _, err = ended(process, 130)
    (directory,) = tmp_path.glob("runs/*")
    assert f"clkd track sync runs/{directory.name}\n" in err
    assert json.loads((directory / "run.json").read_text())["status"] == "killed"


@pytest.mark.slow
def test_a_crash_ends_failed_and_says_why(start: Any, tmp_path: Path) -> None:
    train = {**TINY["train"], "epochs": 5, "optimizer": {"kind": "sgd", "lr": 1e30}}
    ended(start("run", "tiny.yaml", "-q", *MLFLOW, train=train), 1)
    _, (run,) = stored(tmp_path)
    assert run.info.status == "FAILED"
    assert "loss term 'cross_entropy' became NaN or infinite" in run.data.tags["clkd.error"]


@pytest.mark.slow
def test_nothing_stays_running_that_was_stopped_while_mlflow_was_starting(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(to_yaml({**TINY, "train": ENDLESS}))
    command = [sys.executable, "-m", "clkd", "run", "tiny.yaml", "-q", *MLFLOW]  # which has to import MLflow
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(tmp_path.glob("runs/*/metrics.jsonl")), process)  # right before MLflow's turn
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=170)
    assert process.returncode == 143, err
    _, runs = stored(tmp_path)
    assert [run.info.status for run in runs] == ["KILLED"], err
    assert runs[0].data.tags["clkd.error"] == "stopped by SIGTERM"


@pytest.mark.slow  # seven real processes
@pytest.mark.timeout(600)
def test_a_process_that_was_killed_is_brought_in_and_resumed(start: Any, tmp_path: Path) -> None:
    ended(start("run", "tiny.yaml", "-q", *MLFLOW, "--set", "output=whole"), 0)
    process = start("run", "tiny.yaml", "-q", *MLFLOW, "--set", "output=cut")
    wait_for(lambda: list(tmp_path.glob("cut/checkpoints/exp_00[12]")), process)
    process.kill()
    process.communicate()

    said, _ = ended(start("track", "sync", "cut"), 0)
    assert said.startswith("cut: ")
    client, runs = stored(tmp_path)
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]
    assert ended(start("track", "sync", "cut"), 0)[0] == "cut: nothing was missing\n"

    ended(start("run", "--resume", "cut", "-q"), 0)
    assert ended(start("track", "sync", "cut"), 0)[0] == "cut: nothing was missing\n"
    client, runs = stored(tmp_path)
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert all("clkd.error" not in run.data.tags for run in runs)
    one, other = (points(client, run) for run in runs)
    assert len(one) > 50
    assert one == other, "each point once"
