"""`clkd ui`: the store that is meant, what is refused before anything starts, and an end that leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from processes import start, wait_for

from clkd.cli import ui
from clkd.errors import UserError
from clkd.tracking import server, store

TRAINING = "workflowType=machine_learning"


@pytest.fixture
def here(tmp_path, monkeypatch, empty_store):
    """A folder with a store that holds nothing yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def add(here):
    """A run below ./runs, recorded where it is told."""
    count = 0

    def made(name, noted):
        nonlocal count
        count += 1
        home = here / "runs" / name
        home.mkdir(parents=True)
        (home / "run.json").write_text(json.dumps({"id": name, "name": name, "tracking": {"mlflow": noted}}))
        os.utime(home / "run.json", (1000 + count, 1000 + count))
        return home

    return made


def own(folder):
    return f"sqlite:///{folder / 'mlflow.db'}"


def test_the_store_is_the_one_that_runs_go_to(here, add, monkeypatch):
    add("a", {"uri": own(here), "experiment_id": "7", "run_id": "r7"})
    add("b", {"uri": "sqlite:////elsewhere.db", "experiment_id": "8", "run_id": "r8"})
    assert ui._place(None, None) == ui.Place(own(here), f"/#/experiments/7/runs?{TRAINING}")
    assert ui._place("b", None) == ui.Place("sqlite:////elsewhere.db", f"/#/experiments/8/runs/r8?{TRAINING}")
    assert ui._place("last", None) == ui._place("runs/b", None) == ui._place("b", None)
    assert ui._place(None, "sqlite:////elsewhere.db") == ui.Place(
        "sqlite:////elsewhere.db", f"/#/experiments/8/runs?{TRAINING}"
    )
    assert ui._place(".", None) == ui._place("mlflow.db", None) == ui._place(None, None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////third.db")
    assert ui._place(None, None) == ui.Place("sqlite:////third.db", "")
    assert ui._place(None, own(here)).uri == own(here)


def test_a_run_that_is_elsewhere_is_told(here, add, monkeypatch, capsys):
    """As `clkd run --resume` would, it goes where the environment says; the run's page there is not known."""
    add("b", {"uri": "sqlite:////elsewhere.db", "experiment_id": "8", "run_id": "r8"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert ui._place("b", None) == ui.Place("http://server", "")
    assert capsys.readouterr().err == "clkd: the run was recorded in sqlite:////elsewhere.db; this is http://server\n"


def test_a_store_that_is_not_there_is_not_made(here, clkd):
    (here / "mlflow.db").unlink()
    for words in ([], ["--tracking-uri", f"sqlite:///{here}/deep/er.db"], ["."]):
        code, out, err = clkd("ui", *words)
        assert (code, out) == (2, "")
        assert err.startswith("clkd: there is no MLflow store /")
        assert err.endswith(".db yet: `clkd run` makes it, or name another by --tracking-uri\n")
    assert {path.name for path in here.iterdir()} == {"cache"}
    (here / "mlflow.db").touch()
    assert clkd("ui")[0] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "clkd: ui nothing: no such run here: give a run's directory, its id, 'last' or a database ("),
        (["."], "clkd: ui .: --tracking-uri names a store, too: leave one of them out"),
        (["silent"], "silent was not recorded in MLflow: bring it in by: clkd track sync runs/silent"),
    ],
)
def test_a_mistake_is_told(words, said, add, clkd):
    add("silent", {"uri": "http://server"})  # which never answered
    code, out, err = clkd("ui", *words, *(["--tracking-uri", "sqlite:///mlflow.db"] if words == ["."] else []))
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_file_store_is_refused(here, clkd):
    code, _, err = clkd("ui", "--tracking-uri", "file:./mlruns")
    assert code == 4
    assert "is a file store, which MLflow no longer writes" in err


def test_a_port_that_is_taken_is_one_line_with_one_that_is_not(here, clkd):
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        code, out, err = clkd("ui", "--port", str(port))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"clkd: port {port} is taken: give another, such as --port ")
    other = int(err.split()[-1])
    with server.free_port("127.0.0.1", other) as port:
        assert port == other
    unknown = server.free_port("no.such.place.invalid", 0)
    with pytest.raises(UserError, match=r"--host no\.such\.place\.invalid: "), unknown:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only one can be bound")
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_was_chosen_is_nobody_elses_until_the_server_listens_on_it(host):
    with server.free_port(host, 0) as port:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((host, port))
        with socket.create_server((host, port)):
            socket.create_connection(("127.0.0.1", port)).close()


def test_a_leftover_is_mentioned(here, clkd):
    (here / "mlruns" / "0").mkdir(parents=True)
    (here / "mlruns" / "0" / "meta.yaml").touch()
    (here / "mlflow.db").unlink()
    assert clkd("ui")[2].startswith(
        "clkd: ./mlruns is a file store of an older MLflow, which nobody reads here: mlflow"
    )


class Alive(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"OK")

    def log_message(self, *arguments):
        pass


def test_a_server_needs_none(here, clkd, add, monkeypatch):
    shown = []
    monkeypatch.setattr("webbrowser.open", lambda url: shown.append(url) or True)
    with HTTPServer(("127.0.0.1", 0), Alive) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{other.server_port}"
        add("a", {"uri": f"http://me:secret@{address}/", "experiment_id": "3", "run_id": "r"})
        code, out, _ = clkd("ui", "a", "--open")
        assert (code, out) == (0, f"http://{address}/#/experiments/3/runs/r?{TRAINING}\n")
        assert shown == [out.strip()]
        other.shutdown()
    code, out, err = clkd("ui", "a")
    assert (code, out) == (4, "")
    assert "does not answer" in err


def in_session(leader):
    """Processes of the session that `leader` leads."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def gone(leader):
    """Wait until nothing is left of a session."""
    deadline = time.monotonic() + 60
    while left := in_session(leader):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def children(parent):
    return [int(each) for each in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_answers_and_leaves_nothing_behind(here, number, code):
    before = {path.name for path in here.iterdir()}
    process = start("ui", "--port", "0", cwd=here)
    wait_for(process.out.read_text, process, 180)
    address = process.out.read_text().strip()
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert b"MLflow" in answer.read()
    (leader,) = children(process.pid)
    assert in_session(leader)
    process.send_signal(number)
    assert process.wait() == code, process.communicate()
    gone(leader)
    assert {path.name for path in here.iterdir()} == before
    port = int(address.rpartition(":")[2])
    with server.free_port("127.0.0.1", port) as again:
        assert again == port


@pytest.mark.slow
def test_it_does_not_outlive_a_kill(here):
    (here / "mlflow.py").write_text("raise SystemExit('this is not MLflow')")
    process = start("ui", "--port", "0", cwd=here)
    wait_for(process.out.read_text, process, 180)
    (leader,) = children(process.pid)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    gone(leader)


@pytest.mark.slow
def test_a_database_of_another_mlflow_is_told(here):
    with sqlite3.connect(here / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '000000000000'")
    database.close()
    process = start("ui", "--port", "0", cwd=here)
    out, err = process.communicate(180)
    assert (process.wait(), out) == (4, "")
    assert "mlflow db upgrade" in err
    assert store.SQLITE in err
