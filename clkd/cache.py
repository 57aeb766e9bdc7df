"""The cache directory: decoded data, fitted teachers, teachers' answers, an index of runs; and locks in it."""

from __future__ import annotations

import fcntl
import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from clkd.errors import UserError

log = logging.getLogger("clkd.cache")


def cache_directory() -> Path:
    """`$CLKD_CACHE`, else `~/.cache/clkd` (below `$XDG_CACHE_HOME` where that is set); made if missing.

    Raises:
        UserError: it cannot be written.
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = Path(os.environ.get("CLKD_CACHE") or Path(home) / "clkd").expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"the cache {path} cannot be written ({error.strerror}): set CLKD_CACHE to a folder that can"
        ) from error
    return path


@contextmanager
def alone(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock file `path`, which the system frees even if this process dies; waits for whoever holds it.

    Args:
        path: made if missing, with its folder.
        doing: what the holder does, for the line that says what is waited for.

    Raises:
        UserError: the folder cannot be written.
    """
    with _opened(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("waiting for another process that is %s (it holds %s)", doing, path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class InUse:
    """Holds the lock file `path` together with others for as long as this object lives: see `unused`."""

    def __init__(self, path: Path) -> None:
        handle = _opened(path)
        fcntl.flock(handle, fcntl.LOCK_SH)
        weakref.finalize(self, handle.close)


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Whether nobody has `path` `InUse`; as long as this is held, nobody can begin to."""
    with _opened(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w")
    except OSError as error:
        raise UserError(f"the cache is not writable ({error}); set CLKD_CACHE to a folder that is") from error
