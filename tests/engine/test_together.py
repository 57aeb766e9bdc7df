"""Runs beside each other: real processes that share a cache, a run's directory or a tracking database."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Process, start, wait_for

from clkd.cli.main import main
from clkd.data.prepare import prepare
from clkd.engine.directory import create, new_run_id
from clkd.locks import claimed
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.teachers.answers import Answers, folders

pytestmark = pytest.mark.timeout(600)
"""Real processes, on machines that may be busy."""

TINY: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "losses": ["cross_entropy"],
    "train": {"epochs": 1, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "offline"},
}
TAUGHT = {
    **TINY,
    "stream": {**TINY["stream"], "augment": {"crop": 1, "views": 2}},
    "teachers": {"big": {"kind": "fit", "model": {"kind": "mlp", "hidden": [24]}, "epochs": 2}},
    "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "big"]}],
}
MEET = """
import os, time
from pathlib import Path
from clkd.hooks import hookimpl

@hookimpl
def clkd_configure(scenario, registry):
    "All runs go on from here together."
    place = Path(os.environ["MEET"])
    (place / str(os.getpid())).touch()
    until = time.monotonic() + 240
    while len(list(place.iterdir())) < int(os.environ["MEETING"]):
        assert time.monotonic() < until, "the others do not come"
        time.sleep(0.005)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a directory of this test's own."""
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, scenario: dict[str, Any] | None = None, **environment: str) -> Process:
    if scenario is not None:
        file = Path("tiny.yaml")
        if not file.exists() or file.read_text() != to_yaml(scenario):  # another run may be reading it
            file.write_text(to_yaml(scenario))
        arguments = (file.name, *arguments)
    return start("run", "--json", *arguments, **environment)


def together(home: Path, *commands: tuple[str, ...], scenario: dict[str, Any]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of runs that compose at the same moment."""
    (home / "plugins").mkdir()
    (home / "plugins" / "meet.py").write_text(MEET)
    (home / "meet").mkdir()
    meeting = {"MEET": str(home / "meet"), "MEETING": str(len(commands))}
    started = [run(*c, "--plugins-dir", "plugins", scenario=scenario, **meeting) for c in commands]
    said = [process.communicate(timeout=300) for process in started]
    return [(process.returncode, *each) for process, each in zip(started, said, strict=True)]


def fit_once(home: Path, count: int, scenario: dict[str, Any] = TAUGHT, links: int = 1) -> None:
    done = together(home, *(("--seed", str(seed)) for seed in range(count)), scenario=scenario)
    assert [code for code, _, _ in done] == [0] * count, done
    said = "".join(stderr for _, _, stderr in done)
    assert said.count("decoding digits into") == 1, said
    assert said.count("teacher: fitting mlp") == links, said
    assert said.count("teacher: mlp from the cache") == links * (count - 1)
    (folder,) = folders(home / "cache" / "answers")
    answers = Answers.open(folder)
    assert all(answers.intact(view, block) for view in range(2) for block in range(len(answers.blocks)))
    lines = [json.loads(line) for path in home.glob("runs/*/metrics.jsonl") for line in path.read_text().splitlines()]
    asked = [line["metrics"]["teacher_cache/big/rows_asked"] for line in lines if line["event"] == "experience"]
    assert len(asked) == 2 * count
    assert sum(asked) == answers.rows() == answers.meta["asked"] == 2 * 200, "each row was asked about once, by anybody"
    assert len({path.parent for path in home.glob("runs/*/result.json")}) == count
    assert {path.name for path in (home / "cache" / "data").iterdir() if path.is_dir()} == {
        path.parent.name for path in (home / "cache" / "data").glob("*/meta.json")
    }, "nothing half-decoded stays"


@pytest.mark.slow
def test_many_started_at_once_decode_fit_and_ask_once(home: Path) -> None:
    fit_once(home, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fit", "born_again"])
def test_many_started_at_once_build_a_chain_once(home: Path, kind: str) -> None:
    big = TAUGHT["teachers"]["big"]
    chains = {"fit": {**big, "teacher": {**big, "teacher": {**big, "seed": 2}}}, "born_again": {**big, "kind": kind}}
    fit_once(home, 3, {**TAUGHT, "teachers": {"big": chains[kind]}}, links=3)


@pytest.mark.slow
def test_so_do_eight(home: Path) -> None:
    fit_once(home, 8)


@pytest.mark.slow
def test_one_place_for_two_new_runs_is_one_runs_place(home: Path) -> None:
    started = [run("--set", "output=here", scenario=TINY) for _ in range(2)]
    done = sorted((process.wait(300), *process.communicate()) for process in started)
    assert [code for code, _, _ in done] == [0, 2], done
    said = done[1][2].splitlines()
    assert len(said) == 1, said
    # One of them was there first: it is done, it trains, or it has the lock and has not signed it yet.
    assert re.search("already holds a run|is in use by (another )?process", said[0])


def test_a_place_where_a_run_is_just_starting_is_refused(home: Path) -> None:
    (home / "here").mkdir()
    with claimed(home / "here" / ".lock", "starting a run"):
        process = run("--set", "output=here", scenario=TINY)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(
        rf"clkd: {re.escape(str(home))}/here is in use by process {os.getpid()} on \S+, starting a run since .*: .*\n",
        err,
    ), err


@pytest.mark.slow
def test_a_run_that_goes_on_is_not_resumed_and_a_killed_one_is(home: Path) -> None:
    endless = {**TINY, "train": {**TINY["train"], "epochs": 100_000, "min_steps": 1}}
    first = run(scenario=endless)
    wait_for(lambda: list(home.glob("runs/*/metrics.jsonl")), first)
    (directory,) = home.glob("runs/*")
    before = {path.name for path in directory.iterdir()}
    second = run("--resume", str(directory))
    out, err = second.communicate(timeout=300)
    assert (second.returncode, out) == (2, "")
    assert re.fullmatch(
        rf"clkd: {re.escape(str(directory))} is in use by process {first.pid} on \S+, training it since .*: .*\n", err
    ), err
    own = {"environment.txt", "checkpoints"}  # which the first run may have come to meanwhile
    assert {path.name for path in directory.iterdir()} - before <= own
    assert first.poll() is None, "the one that was there goes on"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    third = run("--resume", str(directory))
    wait_for(lambda: (directory / "metrics.jsonl").read_text().count('"start"') == 2, third)
    third.send_signal(signal.SIGTERM)
    said = third.communicate(timeout=300)  # which closes the pipes, too
    assert third.returncode == 143, said


def test_runs_of_one_second_have_places_of_their_own(home: Path) -> None:
    (home / "cache").mkdir()
    made = [create(None, "tiny", new_run_id(), home / "cache", "") for _ in range(300)]
    assert len({directory.path for directory in made}) == 300
    assert len({directory.manifest()["id"] for directory in made}) == 300


CLEARED = """
import subprocess, sys
from clkd.hooks import hookimpl

def clear():
    done = subprocess.run([sys.executable, "-m", "clkd", "cache", "clear", "--all", "--yes"], capture_output=True)
    assert done.returncode == 0, done
    print("cleared:", done.stdout.decode().replace("\\n", " "), file=sys.stderr)

@hookimpl
def clkd_run_start(run):
    clear()

@hookimpl
def clkd_experience_end(run, experience, result):
    clear()
"""


@pytest.mark.slow
def test_clearing_the_cache_during_a_run_changes_nothing(home: Path) -> None:
    Path("plugins").mkdir()
    Path("plugins/clear.py").write_text(CLEARED)
    disturbed = run("--plugins-dir", "plugins", scenario=TAUGHT)
    out, err = disturbed.communicate(timeout=300)
    assert disturbed.returncode == 0, err
    assert err.count("cleared: deleted 2 ") == 1, "data and teacher, once they were there"
    assert err.count("a run is using it") == 2, "answers stay"
    assert not list((home / "cache" / "data").glob("*/meta.json"))
    alone = run(scenario=TAUGHT)
    lone, _ = alone.communicate(timeout=300)
    for key in ("metrics", "accuracy_matrix"):
        assert json.loads(out)[key] == json.loads(lone)[key]


def test_opening_and_clearing_again_and_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever moment the deletion comes at, a data set is opened whole."""
    registry = load_plugins().registry
    part = registry.parse("datasets", {"name": "digits", "rows_per_class": 20})
    (home / "cache").mkdir()

    def store() -> Any:
        return prepare(part, build=registry.build, cache=home / "cache", base=home)

    first, over, codes = store().train.x.clone(), threading.Event(), []

    def clear() -> None:
        while not over.is_set():
            codes.append(main(["cache", "clear", "--data", "--yes"]))

    thread = threading.Thread(target=clear)
    thread.start()
    try:
        opened = 0
        while opened < 60 or len(codes) < 6:
            assert thread.is_alive()
            assert torch.equal(store().train.x, first)
            opened += 1
    finally:
        over.set()
        thread.join()
    assert set(codes) == {0}


OPEN = """
import sys, time
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from clkd.tracking.store import find_experiment, open_client
place, count = Path(sys.argv[1]), int(sys.argv[2])
(place / sys.argv[3]).touch()
until = time.monotonic() + 240
while len(list(place.iterdir())) < count and time.monotonic() < until:
    time.sleep(0.005)
uri = "sqlite:///" + sys.argv[4]
client = open_client(uri)
experiment = find_experiment(client, "tiny", uri)
print(experiment, client.create_run(experiment).info.run_id)
"""


@pytest.mark.slow
def test_many_make_one_tracking_database_at_once(home: Path) -> None:
    (home / "meet").mkdir()
    opening = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(home / "meet"), "3", str(i), str(home / "mlflow.db")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(3)
    ]
    done = [(process.communicate(timeout=300), process.returncode) for process in opening]
    assert [code for _, code in done] == [0, 0, 0], done
    found = [out.split() for (out, _), _ in done]
    assert len({experiment for experiment, _ in found}) == 1
    assert len({run_id for _, run_id in found}) == 3
