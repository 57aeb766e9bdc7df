"""Locks between real processes: who waits says for whom, and what a dead process held is free."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clkd import locks
from clkd.errors import UserError
from clkd.locks import HeldError, InUse, alone, claimed, unused

HOLD = """
import sys
from pathlib import Path
from clkd.locks import alone
with alone(Path(sys.argv[1]), "fitting teacher big"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds `tmp_path / "lock"` until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def waiter(path: Path) -> tuple[threading.Thread, threading.Event]:
    inside = threading.Event()

    def wait() -> None:
        with alone(path, "waiting"):
            inside.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, inside


class Clock:
    """Goes on by what is slept, and not meanwhile: a busy machine makes nobody impatient."""

    strftime = staticmethod(time.strftime)

    def __init__(self, slept: list[float]) -> None:
        self.slept = slept

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        time.sleep(0)


def test_a_waiter_says_once_and_not_at_once_for_whom_it_waits(holder, tmp_path, monkeypatch):
    said = threading.Event()
    monkeypatch.setattr(locks.log, "warning", lambda *line: (lines.append(line[0] % line[1:]), said.set()))
    lines: list[str] = []
    slept: list[float] = []
    monkeypatch.setattr(locks, "time", Clock(slept))
    thread, inside = waiter(tmp_path / "lock")
    assert said.wait(60)
    assert locks.QUIET <= sum(slept) <= locks.QUIET + 2 * locks.LOOK
    assert f"waiting for process {holder.pid} on {socket.gethostname()}, fitting teacher big since " in lines[0]
    assert str(tmp_path / "lock") in lines[0]
    assert not inside.is_set()
    holder.communicate("")
    thread.join(60)
    assert inside.is_set()
    assert len(lines) == 1


def test_what_a_killed_process_held_is_taken_over(holder, tmp_path):
    thread, inside = waiter(tmp_path / "lock")
    assert not inside.wait(0.2)
    holder.send_signal(signal.SIGKILL)
    thread.join(60)
    assert inside.is_set()


def test_what_is_held_can_be_asked_for_without_waiting(holder, tmp_path):
    with pytest.raises(HeldError, match=rf"^process {holder.pid} on .*, fitting teacher big since "):  # noqa: SIM117
        with claimed(tmp_path / "lock", "asking"):
            pass
    with unused(tmp_path / "lock") as free:
        assert not free
    assert "fitting teacher big" in (tmp_path / "lock").read_text(), "who asks does not overwrite who holds"
    holder.communicate("")
    with claimed(tmp_path / "lock", "asking"), unused(tmp_path / "lock") as free:
        assert not free
    with unused(tmp_path / "lock") as free:
        assert free


def test_many_may_use_what_nobody_removes(tmp_path):
    users = [InUse(tmp_path / "use"), InUse(tmp_path / "use")]
    while users:
        with unused(tmp_path / "use") as free:
            assert not free
        users.pop()
    with unused(tmp_path / "use") as free:
        assert free


@pytest.mark.parametrize(
    "take", [lambda path: alone(path, "x").__enter__(), InUse, lambda path: unused(path).__enter__()]
)
def test_a_file_system_without_locks_is_named(take, tmp_path, monkeypatch):
    def no_locks(handle, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))} lies on a file system without locks"):
        take(tmp_path / "lock")


def test_a_full_disk_takes_no_lock_away(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with alone(tmp_path / "lock", "writing"), unused(tmp_path / "lock") as free:
        assert not free
