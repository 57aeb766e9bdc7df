"""Errors that people read: one sentence, no traceback, an exit code that scripts can use."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room for more: on the disk, in a quota, in one file."""


class ClkdError(Exception):
    """A failure clkd can explain. `exit_code` is what the command line returns."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """What another process takes over, whatever the error was made of there."""
        return _again, (type(self), self.args, vars(self))

    def within(self, place: str) -> None:
        """Say where it happened, before what happened."""
        self.args = (f"{place}: {self}",)


def _again(kind: type[ClkdError], args: tuple[Any, ...], state: dict[str, Any]) -> ClkdError:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


class UserError(ClkdError):
    """Something the user gave is wrong and can be put right: a key, a path, a class list."""

    exit_code = 2


class PluginError(ClkdError):
    """A plugin that this run needs is broken."""

    exit_code = 3


class TrackingError(ClkdError):
    """Tracking was required and cannot be reached."""

    exit_code = 4


class StorageError(ClkdError):
    """A file cannot be written: the disk is full, or its place is not writable. Nothing is wrong with the scenario."""


class Interrupted(ClkdError):  # noqa: N818  # a request, not an error
    """The run was asked to stop (Ctrl-C: 130, SIGTERM: 143)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class EchoError(ClkdError):
    """This process failed only because another, that trains with it, did; that one says why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def one_line(text: str, most: int = 600) -> str:
    """A message that no strange name can break: on one line, without control characters, not endless.

    >>> one_line("losses.a\\nb: unknown key")
    'losses.a\\\\nb: unknown key'
    """
    return shorten("".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: most + 1]), most)


def shorten(text: str, most: int = 60) -> str:
    """The text, cut where it is longer than `most`."""
    return text if len(text) <= most else f"{text[:most]}…"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whoever cannot write below `path` says so in one line, as a `StorageError`."""
    try:
        yield
    except OSError as error:
        way_out = "make room" if error.errno in FULL else "see that it can be"
        raise StorageError(f"{path} cannot be written: {error.strerror or error}: {way_out}") from error


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Name the allowed word closest to `name`, or list what is allowed.

    >>> did_you_mean("temprature", ["temperature", "weight"])
    "did you mean 'temperature'?"
    >>> did_you_mean("KD", ["kd", "dkd"])
    "did you mean 'kd'?"
    >>> did_you_mean("zzz", ["kd", "features"])
    'allowed: features, kd'
    """
    words = sorted(set(allowed))
    plain = {word.lower(): word for word in words}
    close = get_close_matches(str(name).lower(), plain, n=1)
    return f"did you mean '{plain[close[0]]}'?" if close else f"allowed: {', '.join(words) or 'none'}"
