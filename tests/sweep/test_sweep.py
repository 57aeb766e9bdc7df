"""`clkd sweep` and `clkd run --seed 0 1 2`: real runs, grouped, and none made twice."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from processes import start
from tiny_scenario import TINY

from clkd.cli.main import main
from clkd.errors import Interrupted
from clkd.sweep.local import processes
from clkd.sweep.workers import Ended, run_all


class Forked:
    """A run of a sweep without the seconds that imports take."""

    def __init__(self, words):
        assert words[0] == "clkd"
        self.process = start(*words[1:])

    def ended(self):
        code = self.process.poll()
        return None if code is None else Ended(code, *self.process.communicate(), 0.0)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)


@pytest.fixture
def clkd(tmp_path, monkeypatch, capsys, request):
    """A command in a folder with `tiny.yaml`: exit code, stdout, stderr."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr("clkd.cli.sweep.processes", lambda workers, cpus: Forked)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)

    def run(*words):
        code = main(list(words))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def directories(tmp_path):
    return sorted(path.parent for path in (tmp_path / "runs").glob("*/run.json"))


@pytest.mark.slow
def test_several_seeds_in_one_call_are_one_line_of_compare(clkd, tmp_path):
    code, out, _ = clkd("run", "tiny.yaml", "--seed", "0", "1", "2", "-q", "--json")
    assert code == 0
    runs = json.loads(out)["runs"]
    assert [run["seed"] for run in runs] == [0, 1, 2]
    assert clkd("run", "tiny.yaml", "--seed", "1", "-q", "--json")[1]
    (group,) = json.loads(clkd("compare", "tiny", "--json")[1])["groups"]
    assert group["seeds"] == [0, 1, 2]
    told = group["metrics"]["average_accuracy"]
    assert told["values"] == [run["metrics"]["average_accuracy"] for run in runs]
    assert told["mean"] == pytest.approx(sum(told["values"]) / 3)
    assert len(directories(tmp_path)) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "tiny.yaml", "--seed", "0", "0"], "a seed is given twice"),
        (["run", "--resume", "last", "--seed", "0", "1"], "--resume goes on with one run, which has its seed"),
        (["run", "tiny.yaml", "--seed", "0", "1", "--set", "output=x"], "several seeds are several runs"),
        (["sweep", "tiny.yaml", "--set", "output=x"], "output: a sweep makes many runs"),
        (["sweep", "tiny.yaml", "--set", "train.optimizer.lr=0.1,x"], "train.optimizer.lr: "),
        (["sweep", "tiny.yaml", "--set", "memory.size=1..9"], "say how often by --random N"),
        (["sweep", "tiny.yaml", "--set", "memory.size=1", "--set", "memory.size=2"], "memory.size: is given twice"),
        (["sweep", "tiny.yaml", "--set", "seed=0,1", "--seed", "2"], "--set seed: --seed says the seeds already"),
        (["sweep", "tiny.yaml", "--cluster", "slurm"], "write ray, or ray:HOST:PORT; got 'slurm'"),
        (["sweep", "tiny.yaml", "--gpus", "1"], "--gpus is for a --cluster"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(words, said, clkd, tmp_path):
    code, out, err = clkd(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert not directories(tmp_path)


@pytest.mark.slow  # starts Python for each run
def test_runs_that_start_python_are_the_same(clkd, monkeypatch):
    words = ["sweep", "tiny.yaml", "--set", "train.optimizer.lr=0.1,0.01", "--json", "--workers", "2"]
    told = []
    for name in ("started", "forked"):
        code, out, _ = clkd(*words, "--set", f"name={name}")
        assert code == 0
        told.append([group["metrics"] for group in json.loads(out)["groups"]])
        monkeypatch.setattr("clkd.cli.sweep.processes", lambda workers, cpus: Forked)
    assert told[0] == told[1]


def test_a_grid_is_run_once_and_what_is_missing_is_made_up_for(clkd, tmp_path):
    words = ["sweep", "tiny.yaml", "--set", "train.optimizer.lr=0.1,0.01", "--json"]
    _, out, _ = clkd(*words, "--seed", "0", "1", "--dry-run")
    assert [point["state"] for point in json.loads(out)] == ["to be run"] * 4
    code, out, err = clkd(*words, "--workers", "2")
    assert code == 0
    told = json.loads(out)
    assert "[2/2]" in err
    assert [group["label"] for group in told["groups"]] == [f"tiny train.optimizer.lr={lr}" for lr in (0.1, 0.01)]
    assert [group["seeds"] for group in told["groups"]] == [[0], [0]]
    before = directories(tmp_path)
    assert len(before) == 2
    assert len({point["run"] for point in told["points"]}) == 2
    assert all("clkd.sweep: tiny-" in (run / "resolved.yaml").read_text() for run in before)

    _, again, err = clkd(*words)
    assert json.loads(again)["groups"] == told["groups"]
    assert "2 of 2 runs are there already" in err
    assert directories(tmp_path) == before

    from clkd.cache import clear

    clear(before[0])
    assert "[1/1]" in clkd(*words)[2]
    assert len(directories(tmp_path)) == 2


def test_seeds_may_be_an_axis(clkd):
    _, out, _ = clkd("sweep", "tiny.yaml", "--set", "seed=3,5", "--set", "train.epochs=1,2", "--dry-run", "--json")
    assert [point["seed"] for point in json.loads(out)] == [3, 3, 5, 5]


def test_a_fork_is_no_point(clkd):
    assert clkd("run", "tiny.yaml", "-q")[0] == 0
    assert clkd("run", "--from", "last@0", "--set", "train.optimizer.lr=0.01", "-q")[0] == 0
    _, out, _ = clkd("sweep", "tiny.yaml", "--set", "train.optimizer.lr=0.01", "--dry-run", "--json")
    assert [point["state"] for point in json.loads(out)] == ["to be run"]


def test_what_was_stopped_goes_on_where_it_stopped(clkd, tmp_path):
    assert clkd("run", "tiny.yaml", "--limit-experiences", "1", "-q")[0] == 0
    (stopped,) = directories(tmp_path)
    _, out, _ = clkd("sweep", "tiny.yaml", "--seed", "0", "--dry-run", "--json")
    assert json.loads(out)[0]["state"] == "goes on"
    code, out, _ = clkd("sweep", "tiny.yaml", "--seed", "0", "-q", "--json")
    assert code == 0
    assert json.loads(out)["points"][0]["run"] == str(stopped)
    assert directories(tmp_path) == [stopped]
    assert json.loads((stopped / "result.json").read_text())["status"] == "finished"


def test_what_another_version_has_begun_is_begun_anew(clkd, tmp_path):
    """Its numbers would be of two versions, and nobody's point when it has finished."""
    assert clkd("run", "tiny.yaml", "--limit-experiences", "1", "-q")[0] == 0
    (stopped,) = directories(tmp_path)
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    begun = json.loads(lines[0])
    begun["tags"]["clkd.version"] = "0.0.9"
    (stopped / "metrics.jsonl").write_text("".join([json.dumps(begun) + "\n", *lines[1:]]))
    _, out, _ = clkd("sweep", "tiny.yaml", "--seed", "0", "--dry-run", "--json")
    assert json.loads(out)[0]["state"] == "to be run"


def test_a_run_that_fails_is_told_and_the_others_are_made(clkd, tmp_path):
    code, out, err = clkd("sweep", "tiny.yaml", "--set", "train.optimizer.lr=0.1,1e30")
    assert code == 1
    assert "FAILED: train.optimizer.lr=1" in err
    assert len(out.splitlines()) == 2, "a head, and the run that has finished"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Make a program that is started by its name."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return lambda name, text: (tmp_path / f"{name}.py").write_text(text)


SAVES = """\
import os, signal, sys, time
def note(word):
    with open(f'{sys.argv[1]}.new', 'w') as file:
        file.write(word)
    os.replace(file.name, sys.argv[1])
def end(*_):
    time.sleep(0.3); note('saved'); os._exit(143)
signal.signal(signal.SIGTERM, end)
note('begun')
while True:
    time.sleep(0.01)
"""
"""Notes are whole, and a signal that comes while one is made does not spoil it."""


def begun(marks):
    return f"all(os.path.exists(p) for p in {[str(mark) for mark in marks]})"


def test_sigterm_stops_those_under_way_and_waits_for_them(tmp_path, program):
    program("saves", SAVES)
    marks = [tmp_path / name for name in "abc"]
    before = signal.getsignal(signal.SIGTERM)
    parent = f"import os, signal, time\nwhile not {begun(marks[:2])}: "
    parent += f"time.sleep(0.02)\nos.kill({os.getpid()}, signal.SIGTERM)"
    killer = subprocess.Popen([sys.executable, "-c", parent])
    with pytest.raises(Interrupted):
        run_all([["saves", str(mark)] for mark in marks], processes(2), 2, lambda i, ended: None)
    killer.wait()
    assert [mark.read_text() for mark in marks[:2]] == ["saved", "saved"]
    assert not marks[2].exists(), "the third never began"
    assert signal.getsignal(signal.SIGTERM) == before


class Saves:
    """A program that takes two looks to save what it has."""

    left = math.inf

    def ended(self):
        self.left -= 1
        return Ended(143, "", "", 0.0) if self.left < 0 else None

    def stop(self):
        self.left = 2


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Interrupted), (signal.SIGINT, KeyboardInterrupt)])
def test_a_program_that_is_just_being_started_is_stopped_and_waited_for_too(number, error):
    started = []

    def start(words):
        started.append(Saves())
        if len(started) == 2:
            signal.raise_signal(number)
        return started[-1]

    with pytest.raises(error):
        run_all([["a"], ["b"], ["c"]], start, 3, lambda i, ended: None)
    assert [each.left for each in started] == [-1, -1]


def test_a_sweep_that_is_killed_leaves_nobody_behind(tmp_path, program):
    """Its runs save what they have and end, so that the next one goes on with them."""
    program("saves", SAVES)
    mark = tmp_path / "a"
    parent = "from clkd.sweep.local import processes\nfrom clkd.sweep.workers import run_all\n"
    parent += f"run_all([['saves', {str(mark)!r}]], processes(1), 1, print)"
    sweep = subprocess.Popen([sys.executable, "-c", parent])
    until(lambda: mark.exists() and mark.read_text() == "begun")
    sweep.kill()
    sweep.wait()
    until(lambda: mark.read_text() == "saved")


def until(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_workers_run_beside_each_other_and_everything_printed_comes_back(tmp_path, program):
    """Each ends only when all have begun."""
    marks = [tmp_path / str(i) for i in range(3)]
    program(
        "meets",
        "import os, sys, time\nopen(sys.argv[1], 'w').close()\n"
        f"while not {begun(marks)}: time.sleep(0.01)\n"
        "print('x' * 200_000); code = os.path.basename(sys.argv[1]); print(code, file=sys.stderr); sys.exit(int(code))",
    )
    told = {}
    run_all([["meets", str(mark)] for mark in marks], processes(3), 3, told.__setitem__)
    assert {i: (ended.code, len(ended.out), ended.err) for i, ended in told.items()} == {
        i: (i, 200_001, f"{i}\n") for i in range(3)
    }


def test_processors_are_shared_or_given(program, monkeypatch):
    program("tells", "import os; print(os.environ['OMP_NUM_THREADS'], end='')")

    def told(**options):
        said = []
        run_all([["tells"]], processes(**options), 1, lambda i, ended: said.append(ended.out))
        return said[0]

    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert (told(workers=2), told(workers=9), told(workers=2, cpus=3)) == ("4", "1", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert (told(workers=2), told(workers=2, cpus=3)) == ("2", "3")
