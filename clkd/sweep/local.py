"""This machine's processes."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from clkd import leash
from clkd.sweep.workers import Ended, Start

THREADS = "OMP_NUM_THREADS"


def processes(workers: int, cpus: int | None = None) -> Start:
    """Starts processes that have so many processors each, or as `$OMP_NUM_THREADS` says, or share them evenly."""
    share = str(max(1, (os.cpu_count() or 1) // workers))
    wanted = {THREADS: str(cpus)} if cpus else {}
    return lambda words: Process(words, {THREADS: share, **os.environ, **wanted})


def _scratch() -> IO[str]:
    """Nobody reads while a process writes: a pipe would fill."""
    return tempfile.TemporaryFile("w+", encoding="utf-8")  # closed by `Process.ended`


@dataclass(slots=True)
class Process:
    """A program under way. It is asked to stop, too, if this process ends without it."""

    words: Sequence[str]
    environment: Mapping[str, str]
    folder: Path | None = None
    out: IO[str] = field(default_factory=_scratch)
    err: IO[str] = field(default_factory=_scratch)
    begun: float = field(default_factory=time.perf_counter)
    popen: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        """A session of its own, so that Ctrl-C reaches it once: by `stop`."""
        self.popen = leash.start(
            self.words, signal.SIGTERM, stdout=self.out, stderr=self.err, env=self.environment, cwd=self.folder
        )

    def ended(self) -> Ended | None:
        if self.popen.poll() is None:
            return None
        with self.popen, self.out, self.err:
            self.out.seek(0)
            self.err.seek(0)
            seconds = time.perf_counter() - self.begun
            return Ended(self.popen.returncode, self.out.read(), self.err.read(), seconds)

    def stop(self) -> None:
        self.popen.terminate()
