"""A real `mlflow server`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from addresses import HERE, free_port


class Server:
    """`mlflow server` on a port of its own, over a database that outlives it: `mlflow.db` in its home.

    Attributes:
        undisturbed: what a test has once found there, for others.
    """

    def __init__(self, home: Path, *options: str, **environment: str) -> None:
        self.home, self.undisturbed = home, None
        self.process: subprocess.Popen[bytes]
        self._options, self._environment, self._port = options, environment, free_port()
        self.uri = f"http://{HERE}:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self._port), "--workers", "1"]
        command += [*self._options, "--backend-store-uri", f"sqlite:///{self.home}/mlflow.db"]
        command += ["--artifacts-destination", f"{self.home}/artifacts"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **self._environment}
        with (self.home / "log").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.home, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 150
        while not self._answers():
            assert self.process.poll() is None, (self.home / "log").read_text()
            assert time.monotonic() < deadline, "the server does not come up"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> None:
        """To the server and its workers: a session of its own."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()
