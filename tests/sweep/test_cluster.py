"""`clkd sweep --cluster ray`: real runs on a real cluster of one machine, what is lost on it, and what is refused."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from addresses import nobody
from processes import clkd, start, wait_for
from ray_cluster import head, missing, parent
from tiny_scenario import TINY

from clkd.errors import UserError
from clkd.scenario.tracking import TrackingOptions
from clkd.sweep.plan import Point, check_store

needs_ray = pytest.mark.skipif(missing() is not None, reason=str(missing()))
pytestmark = pytest.mark.timeout(600)

HOLDS = """\
import os, signal, time
from clkd.hooks import hookimpl

@hookimpl
def clkd_experience_end(run, experience, result):
    if experience.index == 0 and os.path.exists("hold"):
        stop = signal.getsignal(signal.SIGTERM)

        def told(*signalled):
            open(f"told-{os.getpid()}", "w").close()
            stop(*signalled)

        signal.signal(signal.SIGTERM, told)
        open(f"held-{os.getpid()}", "w").close()
        while os.path.exists("hold"):
            time.sleep(0.01)
"""
"""Runs wait after their first experience as long as they are told to, and note that they were asked to stop."""


@pytest.fixture(scope="module")
def address():
    with head(cpus=2) as address:
        yield address


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "holds.py").write_text(HOLDS)
    return tmp_path


def words(address, *more):
    return ["sweep", "tiny.yaml", "--cluster", f"ray:{address}", "--plugins-dir", "own", "--seed", "0", "1", *more]


def results(home):
    return [json.loads(path.read_text()) for path in sorted((home / "runs").glob("*/result.json"))]


@pytest.fixture
def under_way(address, home):
    """A sweep whose two runs are both held: its process, and theirs."""
    (home / "hold").touch()
    sweep = start(*words(address), cwd=home)
    try:
        wait_for(lambda: len(list(home.glob("held-*"))) == 2, sweep, 300)
        yield sweep, [int(mark.name.removeprefix("held-")) for mark in home.glob("held-*")]
    finally:
        (home / "hold").unlink(missing_ok=True)
        sweep.kill()


@needs_ray
def test_the_same_command_makes_the_same_runs_there(address, home):
    done = clkd(*words(address, "--json"), cwd=home, timeout=400)
    assert done.returncode == 0, done.stderr
    (group,) = json.loads(done.stdout)["groups"]
    assert group["seeds"] == [0, 1]
    assert re.search(r"\[2/2\] seed [01]: average accuracy [\d.]+ % in \d+ s on \S+$", done.stderr, re.MULTILINE)
    with nobody() as elsewhere:
        again = clkd(*words(elsewhere, "--json"), cwd=home)
    assert "2 of 2 runs are there already" in again.stderr, "and nobody is asked for a cluster"
    assert json.loads(again.stdout)["groups"] == [group]

    assert clkd("run", "tiny.yaml", "--seed", "1", "-q", cwd=home).returncode == 0
    accuracies = [each["metrics"]["average_accuracy"] for each in results(home)]
    assert len(accuracies) == 3
    assert accuracies[2] == group["metrics"]["average_accuracy"]["values"][1], "the same seed, the same bits"


@needs_ray
def test_a_run_whose_machine_is_lost_goes_on_on_another_and_the_others_hear_nothing_of_it(under_way, home):
    sweep, (lost, _) = under_way
    os.kill(parent(lost), signal.SIGKILL)
    wait_for(lambda: "LOST: " in sweep.err.read_text(), sweep, 120)
    (home / "hold").unlink()
    out, err = sweep.communicate(400)
    assert sweep.returncode == 0, err
    assert len(out.splitlines()) == 2
    assert [each["status"] for each in results(home)] == ["finished"] * 2, "in two directories: none was begun anew"


@needs_ray
def test_ctrl_c_stops_the_runs_there_and_the_same_command_goes_on(under_way, address, home):
    sweep, _ = under_way
    sweep.send_signal(signal.SIGINT)
    wait_for(lambda: len(list(home.glob("told-*"))) == 2, sweep, 120)
    assert sweep.poll() is None, "it waits until they have saved what they have"
    (home / "hold").unlink()
    out, err = sweep.communicate(120)
    assert (sweep.returncode, out) == (130, ""), err
    assert [each["status"] for each in results(home)] == ["killed"] * 2, "and saved"
    done = clkd(*words(address), cwd=home, timeout=400)
    assert done.returncode == 0, done.stderr
    assert [each["status"] for each in results(home)] == ["finished"] * 2


@needs_ray
def test_a_run_that_fails_is_told_with_its_machine(address, home):
    done = clkd(*words(address, "--set", "train.optimizer.lr=1e30"), cwd=home, timeout=400)
    assert done.returncode == 1
    assert re.search(r"FAILED: .* on \S+; about .* left$", done.stderr, re.MULTILINE)


CHECK = """
import sys
from dataclasses import replace
from pathlib import Path
from clkd.errors import UserError
from clkd.sweep import cluster
try:
    with cluster.joined(sys.argv[1], cluster.Share(int(sys.argv[2]))) as joined:
        cluster.__version__ = sys.argv[3]
        replace(joined, mark=Path(sys.argv[4])).check()
except UserError as error:
    print(error)
"""


@needs_ray
@pytest.mark.parametrize(
    ("cpus", "version", "folder", "said"),
    [
        ("1", "99", ".", "it has clkd {here}, and here it is 99"),
        ("1", "{here}", "/no/such", "/no/such is not there, or another folder: start `clkd sweep` where all machines"),
        ("3", "{here}", ".", "--cluster: no machine of it has 3 CPUs: ask for less by --cpus and --gpus"),
    ],
)
def test_a_machine_that_is_not_as_it_must_be_is_refused_by_name(address, home, cpus, version, folder, said):
    from clkd import __version__ as here

    arguments = [address, cpus, version.format(here=here), f"{folder}/mark"]
    done = subprocess.run([sys.executable, "-c", CHECK, *arguments], capture_output=True, text=True)
    assert said.format(here=here) in done.stdout, done.stderr
    assert not list(Path().glob(".clkd-sweep-*"))


@needs_ray
@pytest.mark.parametrize(("scheme", "said"), [("ray:", "Connection refused"), ("ray://", "write HOST:PORT")])
def test_a_head_that_is_not_there_is_told_at_once(scheme, said, home):
    with nobody() as address:
        done = clkd("sweep", "tiny.yaml", "--cluster", scheme + address, cwd=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"clkd: --cluster {scheme}{address}: {said}" in done.stderr


def test_without_ray_it_is_told_what_to_install(home, monkeypatch, capsys):
    from clkd.cli.main import main

    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "tiny.yaml", "--cluster", "ray"]) == 2
    assert capsys.readouterr().err == "clkd: --cluster ray: Ray is not installed: pip install 'clkd[ray]'\n"


def test_several_machines_do_not_write_into_one_database(home):
    def point(**options):
        return Point(Path("tiny.yaml"), (), "", 0, "tiny-0", "0", TrackingOptions(**options))

    refused = "is a store of one machine, and these are 2: name a server by --tracking-uri, or take --tracking offline"
    with pytest.raises(UserError, match=refused):
        check_store([point(mode="off"), point()], None, None, 2)
    with pytest.raises(UserError, match=r"sqlite:///.*/a\.db is a store"):
        check_store([point(uri="http://server")], "required", "sqlite:///a.db", 2)
    check_store([point()], None, None, 1)
    check_store([point()], "offline", None, 2)
    check_store([point()], None, "http://server", 2)
