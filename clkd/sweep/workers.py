"""Several commands at once, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

from clkd.errors import Interrupted

LOOK = 0.05
"""Seconds between two looks at who has ended."""


@dataclass(slots=True)
class Ended:
    """How a command went: its exit code, what it printed, and how long it took."""

    code: int
    out: str
    err: str
    seconds: float


Told = Callable[[int, Ended], None]


def _scratch() -> IO[str]:
    """Nobody reads while a process writes: a pipe would fill."""
    return tempfile.TemporaryFile("w+", encoding="utf-8")  # closed by `_Process.ended`


@dataclass(slots=True)
class _Process:
    """One command under way."""

    index: int
    command: Sequence[str]
    threads: int
    out: IO[str] = field(default_factory=_scratch)
    err: IO[str] = field(default_factory=_scratch)
    begun: float = field(default_factory=time.perf_counter)
    popen: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        """A session of its own, so that Ctrl-C reaches it once: by `run_all`, as SIGTERM."""
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads))}
        environment = {**os.environ, **threads}
        self.popen = subprocess.Popen(
            self.command, stdout=self.out, stderr=self.err, env=environment, start_new_session=True
        )

    def ended(self) -> Ended:
        with self.out, self.err:
            self.out.seek(0)
            self.err.seek(0)
            seconds = time.perf_counter() - self.begun
            return Ended(self.popen.returncode, self.out.read(), self.err.read(), seconds)


def run_all(commands: Sequence[Sequence[str]], workers: int, told: Told) -> None:
    """Run them, at most `workers` at a time; `told` hears of each by its index as it ends, however it ended.

    Several share the processors evenly, unless `$OMP_NUM_THREADS` says how. When this process is asked to stop, it asks
    those under way to, and waits until they have saved what they have.
    """
    waiting = deque(enumerate(commands))
    running: list[_Process] = []
    threads = max(1, (os.cpu_count() or 1) // min(workers, len(commands) or 1))
    with _stoppable():
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    running.append(_Process(*waiting.popleft(), threads))
                time.sleep(LOOK)
                for process in [each for each in running if each.popen.poll() is not None]:
                    running.remove(process)
                    told(process.index, process.ended())
        except BaseException:
            _stop(running)
            raise


def _stop(running: Sequence[_Process]) -> None:
    for process in running:
        process.popen.terminate()
    for process in running:
        process.popen.wait()
        process.ended()


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM is an exception in here, as Ctrl-C is."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped by SIGTERM", 143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
