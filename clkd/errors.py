"""Errors that people read: one sentence, no traceback, an exit code that scripts can use."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ClkdError(Exception):
    """A failure clkd can explain. `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(ClkdError):
    """Something the user gave is wrong and can be put right: a key, a path, a class list."""

    exit_code = 2


class PluginError(ClkdError):
    """A plugin that this run needs is broken."""

    exit_code = 3


class TrackingError(ClkdError):
    """Tracking was required and cannot be reached."""

    exit_code = 4


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


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Name the allowed word closest to `name`, or list what is allowed.

    >>> did_you_mean("temprature", ["temperature", "weight"])
    "did you mean 'temperature'?"
    >>> did_you_mean("zzz", ["kd", "features"])
    'allowed: features, kd'
    """
    words = sorted(set(allowed))
    close = get_close_matches(str(name), words, n=1)
    return f"did you mean '{close[0]}'?" if close else f"allowed: {', '.join(words) or 'none'}"
