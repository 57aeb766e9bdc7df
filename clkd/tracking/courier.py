"""Runs brought into MLflow by a process of its own: loading MLflow and drawing figures take none of training's time.

A command that is about to train calls `prepare` first; the process then loads MLflow while this one loads torch, and
whoever tracks a run takes it. Nothing else differs: there is one way into MLflow (`clkd.tracking.upload`), and that
process goes it.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
from dataclasses import dataclass, field
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

from clkd import leash
from clkd.errors import TrackingError
from clkd.tracking.events import Event
from clkd.tracking.upload import Destination

OTHER_END = "clkd.tracking.errands"
"""The program that the process runs."""

log = logging.getLogger("clkd.tracking")


@dataclass(frozen=True, slots=True)
class Begin:
    """Look a run up in the store, or create it there."""

    directory: Path
    destination: Destination
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    """As it is now: a plugin may have said how to log in since the process began."""


@dataclass(frozen=True, slots=True)
class Advance:
    """Bring in what is new of it (`Upload.advance`)."""

    otherwise: Event | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of it, and where the upload stands."""

    found: dict[str, Any]
    events: int
    error: str | None = None


class EndedError(TrackingError):
    """The process is no more; what it was asked for, this one can do."""


class Courier:
    """The process, which ends when this one does, however that ends. One at a time may ask it."""

    def __init__(self) -> None:
        self._line, other = Pipe()
        with other:
            end = other.fileno()
            self._process = leash.start(
                [OTHER_END, str(end)],
                signal.SIGKILL,  # what it was bringing in is in the run's directory, too
                pass_fds=[end],
                stdout=2,  # ours is for results
                env={**os.environ, "PYTHONSAFEPATH": "1"},  # a file `mlflow.py` right here is not to be imported
            )
        atexit.register(self.end)
        self.ended = False

    def ask(self, order: Begin | Advance) -> Reply:
        """Let it do that, and wait.

        Raises:
            EndedError: it is no more, although nobody stopped it.
            TrackingError: it was stopped.
        """
        try:
            self._line.send(order)
            reply: Reply = self._line.recv()
        except (EOFError, OSError) as error:
            if self.ended:
                raise TrackingError("the process that brings runs into MLflow was stopped") from error
            self.end()
            raise EndedError("the process that brings runs into MLflow has ended") from error
        return reply

    def end(self) -> None:
        """Stop it, whatever it does."""
        if not self.ended:
            self.ended = True
            self._process.kill()
            self._process.communicate()
            atexit.unregister(self.end)

    def free(self) -> None:
        """It has done all that it was asked, and the next run may have it."""
        if not self.ended:
            _waiting.append(self)


class Sent:
    """An `Upload` that the courier carries out."""

    def __init__(self, courier: Courier, directory: Path, destination: Destination) -> None:
        self.found: dict[str, Any] = {}
        self.events = 0
        self._courier = courier
        self._order(Begin(directory, destination))

    def advance(self, otherwise: Event | None = None) -> None:
        """As `Upload.advance`; every error is a `TrackingError`, with the other one's type in its text."""
        self._order(Advance(otherwise))

    def _order(self, order: Begin | Advance) -> None:
        reply = self._courier.ask(order)
        self.found, self.events = reply.found, reply.events
        if reply.error:
            raise TrackingError(reply.error)


_waiting: list[Courier] = []


def prepare() -> None:
    """Have a courier ready soon. Where processes cannot be tied to each other, there is none."""
    if os.name != "posix" or _waiting:
        return
    try:
        _waiting.append(Courier())
    except OSError as error:  # no room for one more process: whoever tracks can do without
        log.warning("MLflow gets no process of its own (%s): this one does its work", error.strerror)


def take() -> Courier | None:
    """The one that is ready, if there is any: it is the caller's until it is freed or ended."""
    return _waiting.pop() if _waiting else None
