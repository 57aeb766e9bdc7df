"""MLflow's own server above a database: as small as it can be, and gone when it is left or whoever started it is."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from clkd import leash
from clkd.errors import TrackingError, UserError
from clkd.tracking import store

LEAN = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes that score language models
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Of the environment, unless it says otherwise itself."""
SAFE = {"PYTHONSAFEPATH": "1"}
"""A file `mlflow.py` beside the database is not to be imported."""
START_SECONDS, END_SECONDS = 180.0, 5.0
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
"""Where this machine is asked that listens on all its addresses."""


@contextmanager
def serving(uri: str, host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers, in a session of its own: whatever ends this block ends all of its processes.

    Raises:
        UserError: the port is taken.
        TrackingError: the server does not start; the message has its last words.
    """
    with TemporaryDirectory(prefix="clkd-ui-") as folder:
        log = Path(folder) / "log"
        with _start(uri, host, port, log) as process:
            try:
                _wait(process, url(host, port), log)
                yield process
            finally:
                _end(process)


def url(host: str, port: int) -> str:
    """The address for a browser on this machine."""
    asked = EVERYWHERE.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{asked}:{port}"


@contextmanager
def free_port(host: str, wanted: int) -> Iterator[int]:
    """The port, if nobody has it; any free one for 0. On Linux nobody else is given it until the block is left.

    A server may listen on it meanwhile: to be bound to a port, and to share it, keeps away all who want any free one,
    but not who wants this one and shares it, too. Elsewhere only one can be bound, so that it is free again at once.

    Raises:
        UserError: it is taken, or there is no such address here.
    """
    with _door(host, wanted) as door:
        port: int = door.getsockname()[1]
        if sys.platform != "linux":
            door.close()
        yield port


def _door(host: str, wanted: int) -> socket.socket:
    try:
        return _bound(host, wanted)
    except socket.gaierror as error:
        raise UserError(f"--host {host}: {error.strerror}") from error
    except PermissionError as error:
        raise UserError(f"--port {wanted}: not for you ({error.strerror}): give one above 1023") from error
    except OSError as error:
        try:
            with _bound(host, 0) as door:
                other = door.getsockname()[1]
        except OSError:
            raise UserError(f"--host {host}: {error.strerror}") from error
        raise UserError(f"port {wanted} is taken: give another, such as --port {other}") from error


def _bound(host: str, port: int) -> socket.socket:
    door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((host, port))
    except OSError:
        door.close()
        raise
    return door


def _start(uri: str, host: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    options = {
        "--backend-store-uri": uri,
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--uvicorn-opts": f"--app-dir {shlex.quote(str(log.parent))}",  # else it imports from the working directory
    }
    words = [word for option in options.items() for word in option]
    database = store.database(uri)
    with log.open("wb") as told:
        return leash.start(
            ["mlflow", "server", *words],
            signal.SIGKILL,  # it has nothing to save, and nobody is left to wait for it
            stdout=told,
            stderr=subprocess.STDOUT,
            env={**LEAN, **os.environ, **SAFE},
            cwd=database.parent if database else None,
        )


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(address):
        if process.poll() is not None or time.monotonic() > deadline:
            how = "ended" if process.poll() is not None else f"does not answer after {START_SECONDS:.0f} seconds"
            raise TrackingError(f"MLflow's server {how}: {_last_words(log)}")
        time.sleep(0.1)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole session: first as one asks, then as one does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
