"""Real `clkd` processes without the seconds that imports take: a nursery that has loaded torch and mlflow forks each.

A process has its own pid, environment, working directory, signals and exit code, and prints into its own files. What
differs from `python -m clkd` is that modules are loaded already; where that is the question, start Python itself.
"""

from __future__ import annotations

import atexit
import faulthandler
import importlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

HEAVY = (
    "clkd.cli.run",
    "clkd.engine.execute",  # torch
    "mlflow.store.tracking.sqlalchemy_store",
    "alembic.command",
    "clkd.tracking.figures",
)
ALONE = {"JE_ARROW_MALLOC_CONF": "background_thread:false", "OMP_NUM_THREADS": "1"}
"""Arrow's allocator and NumPy's arithmetic start no threads with this."""
FDS = 3
"""Standard output, standard error, and where the end is told."""


@dataclass
class Process:
    """As much of `subprocess.Popen` as tests ask for."""

    pid: int
    told: int
    out: Path
    err: Path
    returncode: int | None = field(default=None, init=False)

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float = 120) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("clkd", timeout, self.out.read_text(), self.err.read_text())
        return code

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What it printed, once it has ended."""
        self.wait(timeout)
        return self.out.read_text(), self.err.read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float) -> int | None:
        if self.returncode is None and select.select([self.told], [], [], timeout)[0]:
            self.returncode = int(os.read(self.told, 100))
            os.close(self.told)
        return self.returncode


@dataclass(frozen=True)
class Done:
    """How a command ended; as `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def start(*arguments: str, cwd: Path | None = None, **environment: str) -> Process:
    """Start `clkd ARGUMENTS`."""
    place, count, ask = _nursery()
    number = next(count)
    out, err = place / f"{number}.out", place / f"{number}.err"
    told, tell = os.pipe()
    with out.open("wb") as o, err.open("wb") as e:
        wanted = {"arguments": arguments, "cwd": str(cwd or Path.cwd()), "environment": {**os.environ, **environment}}
        pid = ask(json.dumps(wanted), [o.fileno(), e.fileno(), tell])
    os.close(tell)
    return Process(pid, told, out, err)


def clkd(*arguments: str, cwd: Path | None = None, timeout: float = 120, **environment: str) -> Done:
    """Run `clkd ARGUMENTS` to its end."""
    process = start(*arguments, cwd=cwd, **environment)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.kill()
    return Done(process.wait(), out, err)


def python(code: str, *arguments: str, cwd: Path | None = None, **environment: str) -> Process:
    """Start `python -c CODE ARGUMENTS`."""
    return start("-c", code, *arguments, cwd=cwd, **environment)


def wait_for(happened: Callable[[], Any], process: Process | subprocess.Popen[str], seconds: float = 90) -> None:
    """Until it has happened; fails if the process ends before."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


@cache
def _nursery() -> tuple[Path, Any, Callable[[str, list[int]], int]]:
    """A folder for what is printed, the numbers of processes, and how to ask for one: it gives the pid."""
    home = tempfile.TemporaryDirectory(prefix="clkd-processes-")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    environment = {**os.environ, **ALONE, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command, null = [sys.executable, __file__, str(theirs.fileno())], subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdin=null, stdout=null)
    theirs.close()

    def ask(wanted: str, fds: list[int]) -> int:
        socket.send_fds(ours, [len(wanted.encode()).to_bytes(8)], fds)
        ours.sendall(wanted.encode())
        return int.from_bytes(ours.recv(8, socket.MSG_WAITALL))

    def close() -> None:
        ours.close()
        process.wait()
        home.cleanup()

    atexit.register(close)
    return Path(home.name), itertools.count(), ask


def serve(channel: socket.socket) -> None:
    """The nursery: it trains nothing and has but one thread, so that forking it is safe."""
    for name in HEAVY:
        importlib.import_module(name)
    threads = [each.read_text().strip() for each in Path("/proc/self/task").glob("*/comm")]
    if len(threads) > 1:
        raise RuntimeError(f"a fork would leave some of these threads behind: {threads}")

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers need nobody to wait for them
    while True:
        size, fds, _, _ = socket.recv_fds(channel, 8, FDS)
        if not size:
            return
        wanted = json.loads(channel.recv(int.from_bytes(size), socket.MSG_WAITALL))
        child = os.fork()
        if child == 0:
            _keep(channel, wanted, fds)
        for fd in fds:
            os.close(fd)


def _keep(channel: socket.socket, wanted: dict[str, Any], fds: list[int]) -> None:
    """Fork the process, tell its pid, and, when it has ended, how."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        _become(channel, wanted, fds)
    channel.sendall(pid.to_bytes(8))
    os.write(fds[2], str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def _become(channel: socket.socket, wanted: dict[str, Any], fds: list[int]) -> None:
    from clkd.cli.main import main

    code = 1
    try:
        channel.close()
        for i, fd in enumerate(fds[:2], 1):
            os.dup2(fd, i)
        for fd in fds:
            os.close(fd)
        os.chdir(wanted["cwd"])
        os.environ.clear()
        os.environ.update(wanted["environment"])
        sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        told = wanted["arguments"]
        sys.argv = ["-c", *told[2:]] if told[:1] == ["-c"] else ["clkd", *told]
        signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts tests in the background ignores it
        faulthandler.enable()  # a crash below Python says where it was
        code = main() if sys.argv[0] == "clkd" else _carry_out(told[1])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _end(code)


def _carry_out(code: str) -> int:
    exec(code, {"__name__": "__main__"})
    return 0


def _end(code: int) -> None:
    """As the interpreter ends: threads, what was to be done at the end, what was not yet printed."""
    import threading

    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    del sys.path[0]  # this folder
    serve(socket.socket(fileno=int(sys.argv[1])))
