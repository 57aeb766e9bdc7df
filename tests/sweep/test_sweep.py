"""`clkd sweep` and `clkd run --seed 0 1 2`: real runs, grouped, and none made twice."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from clkd.cli.main import main
from clkd.errors import Interrupted
from clkd.sweep.workers import run_all

TINY = """\
name: tiny
stream: {dataset: {name: digits, rows_per_class: 10}, split: {by: class, experiences: 2}}
student: {model: {kind: mlp, hidden: [8]}, head: linear}
train: {batch_size: 10, optimizer: {kind: sgd, lr: 0.1}}
tracking: {mode: off}
"""


@pytest.fixture
def clkd(tmp_path, monkeypatch, capsys):
    """A command in a folder with `tiny.yaml`: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)

    def run(*words):
        code = main(list(words))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def directories(tmp_path):
    return sorted(path.parent for path in (tmp_path / "runs").glob("*/run.json"))


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
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(words, said, clkd, tmp_path):
    code, out, err = clkd(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert not directories(tmp_path)


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


def test_a_run_that_fails_is_told_and_the_others_are_made(clkd, tmp_path):
    code, out, err = clkd("sweep", "tiny.yaml", "--set", "train.optimizer.lr=0.1,1e30")
    assert code == 1
    assert "FAILED: train.optimizer.lr=1" in err
    assert len(out.splitlines()) == 2, "a head, and the run that has finished"


def test_sigterm_stops_those_under_way_and_waits_for_them(tmp_path):
    program = (
        "import signal, sys, time\n"
        "def end(*_):\n    time.sleep(0.3); open(sys.argv[1], 'w').write('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end)\nopen(sys.argv[1], 'w').write('begun')\n"
        "while True: time.sleep(0.01)\n"
    )
    marks = [tmp_path / name for name in "abc"]
    parent = f"import os, signal, time\nwhile not all(os.path.exists(p) for p in {[str(m) for m in marks[:2]]}): "
    parent += f"time.sleep(0.02)\ntime.sleep(0.2)\nos.kill({os.getpid()}, signal.SIGTERM)"
    killer = subprocess.Popen([sys.executable, "-c", parent])
    with pytest.raises(Interrupted):
        run_all([[sys.executable, "-c", program, str(mark)] for mark in marks], 2, lambda i, ended: None)
    killer.wait()
    assert [mark.read_text() for mark in marks[:2]] == ["saved", "saved"]
    assert not marks[2].exists(), "the third never began"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_workers_run_beside_each_other_and_everything_printed_comes_back():
    told = {}
    nap = (
        "import sys, time; time.sleep(0.5); print('x' * 200_000); print(sys.argv[1], file=sys.stderr); "
        "sys.exit(int(sys.argv[1]))"
    )
    started = time.perf_counter()
    run_all([[sys.executable, "-c", nap, str(i)] for i in range(3)], 3, told.__setitem__)
    assert time.perf_counter() - started < 3 * 0.5 + 20
    assert {i: (ended.code, len(ended.out), ended.err) for i, ended in told.items()} == {
        i: (i, 200_001, f"{i}\n") for i in range(3)
    }
