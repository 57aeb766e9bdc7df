"""Several runs at once, wherever they are made."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from clkd.errors import Interrupted
from clkd.handlers import handled

LOOK = 0.05
"""Seconds between two looks at who has ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program went.

    Attributes:
        code: its exit code.
        out, err: what it printed.
        where: the machine, if it is of interest.
        lost: it did not end by itself: its machine is gone, and another one may go on with it.
    """

    code: int
    out: str
    err: str
    seconds: float
    where: str | None = None
    lost: bool = False


class Running(Protocol):
    """A program under way."""

    def ended(self) -> Ended | None:
        """How it went, once it has ended."""

    def stop(self) -> None:
        """Ask it to save what it has and to end."""


Start = Callable[[Sequence[str]], Running]
"""Starts a program: the words after `python -m`."""
Told = Callable[[int, Ended], None]


def run_all(programs: Sequence[Sequence[str]], start: Start, workers: int, told: Told) -> None:
    """Run them, at most `workers` at a time; `told` hears of each by its index as it ends, however it ended.

    When this process is asked to stop, it asks those under way to, and waits until they have saved what they have.
    """
    waiting = deque(enumerate(programs))
    running: dict[int, Running] = {}
    signals = _Signals()
    with signals.heard():
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    index, words = waiting.popleft()
                    with signals.held():
                        running[index] = start(words)
                time.sleep(LOOK)
                for index, ended in _ended(running):
                    del running[index]
                    told(index, ended)
        except BaseException:
            _stop(running)
            raise


def _ended(running: dict[int, Running]) -> list[tuple[int, Ended]]:
    looked = [(index, each.ended()) for index, each in running.items()]
    return [(index, ended) for index, ended in looked if ended is not None]


def _stop(running: dict[int, Running]) -> None:
    for each in running.values():
        each.stop()
    for each in running.values():
        while each.ended() is None:
            time.sleep(LOOK)


class _Signals:
    """SIGTERM is an exception, as Ctrl-C is; but neither while a program is being started, which nobody would stop."""

    def __init__(self) -> None:
        self._asked: BaseException | None = None
        self._holding = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) != signal.SIG_IGN]
        with handled(numbers, self._note):
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """Signals wait for the end of this."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._asked:
            raise self._asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = KeyboardInterrupt() if number == signal.SIGINT else Interrupted("stopped by SIGTERM", 143)
        if not self._holding:
            raise self._asked
