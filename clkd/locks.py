"""Locks between processes: files that the system frees when their holder ends, however it ends.

A lock is `flock` on a file that stays where it is. Whoever holds it writes into the file who it is and what it does, so
that others can say what they wait for.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from clkd.errors import UserError

log = logging.getLogger("clkd.locks")

QUIET, LOOK = 1.0, 0.02
"""Seconds that are waited without a word, and between two looks meanwhile."""
FREE = fcntl.LOCK_EX | fcntl.LOCK_NB
UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What a file system answers that has no locks."""


def beside(path: Path, of: str = "lock") -> Path:
    """The lock file for a file or folder, which lies beside it and stays when it is replaced.

    >>> beside(Path("cache/digits-1f"), "use").as_posix()
    'cache/digits-1f.use'
    """
    return path.with_name(f"{path.name}.{of}")


class HeldError(Exception):
    """Somebody else holds the lock; the message says who."""


@contextmanager
def alone(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock file `path`; waits for whoever holds it, and after a second says for whom.

    Args:
        path: made if missing, with its folder.
        doing: what the holder does, for the line that a waiter logs.

    Raises:
        UserError: the file cannot be written, or its file system has no locks.
    """
    with _opened(path) as handle:
        _wait(handle, path)
        _sign(handle, doing)
        yield


@contextmanager
def claimed(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock file `path`, or raise `HeldError` if somebody else does."""
    with _opened(path) as handle:
        if not _flock(handle, path, FREE):
            raise HeldError(_holder(path))
        _sign(handle, doing)
        yield


class InUse:
    """Holds the lock file `path` together with others for as long as this object lives: see `unused`."""

    def __init__(self, path: Path) -> None:
        handle = _opened(path)
        weakref.finalize(self, handle.close)
        _flock(handle, path, fcntl.LOCK_SH)


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Whether nobody has `path` `InUse`; as long as this is held, nobody can begin to."""
    with _opened(path) as handle:
        yield _flock(handle, path, FREE)


def _opened(path: Path) -> IO[str]:
    """Open for reading and writing, since a network file system wants both for its locks; nothing in it is lost."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path} is not writable ({error.strerror}): choose a folder that is; for the cache, set CLKD_CACHE"
        ) from error


def _flock(handle: IO[str], path: Path, how: int) -> bool:
    """Take the lock; False if somebody else holds it and `how` says not to wait."""
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        raise UserError(
            f"{path.parent} lies on a file system without locks ({error.strerror}), so runs beside each other could "
            f"spoil it: choose a folder on a local disk"
        ) from error
    return True


def _wait(handle: IO[str], path: Path) -> None:
    until = time.monotonic() + QUIET
    while not _flock(handle, path, FREE):
        if time.monotonic() > until:
            log.warning("waiting for %s (lock: %s)", _holder(path), path)
            _flock(handle, path, fcntl.LOCK_EX)
            return
        time.sleep(LOOK)


def _sign(handle: IO[str], doing: str) -> None:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    with suppress(OSError):  # on a full disk: the lock holds without a signature, too
        os.ftruncate(handle.fileno(), 0)
        os.pwrite(handle.fileno(), f"process {os.getpid()} on {socket.gethostname()}, {doing} since {now}".encode(), 0)


def _holder(path: Path) -> str:
    """Who holds it, as it signed; it may not have done so yet, and need not be there any more."""
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except FileNotFoundError:
        return "another process"
