"""A real Ray cluster on this machine, and what is asked of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

RAY = "from ray.scripts.scripts import main; main()"


def missing() -> str | None:
    """Why there is no Ray here; None if there is."""
    return None if find_spec("ray") else "Ray is not installed: pip install 'clkd[ray]'; `make plugins` does"


@contextmanager
def head(cpus: int) -> Iterator[str]:
    """The only machine of a cluster; its address."""
    home = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a socket's path is short
    words = ["start", "--head", "--port=0", f"--num-cpus={cpus}", "--include-dashboard=false", f"--temp-dir={home}"]
    words += ["--object-store-memory=100000000", "--disable-usage-stats", "--block"]
    log = Path(home) / "told"
    with log.open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-c", RAY, *words], stdout=told, stderr=told, start_new_session=True
        )
    try:
        yield _address(process, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # who is asked to end takes half a minute, and has nothing to save
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while not (found := re.search(r"ray start --address='([\d.:]+)'", log.read_text())):
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    return found[1]


def parent(pid: int) -> int:
    """The process that started another one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
