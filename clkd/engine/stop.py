"""Ctrl-C and SIGTERM: a run stops between two steps, never inside somebody else's code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from clkd.errors import Interrupted
from clkd.handlers import handled
from clkd.ranks import ALONE, Ranks

EXIT = {signal.SIGINT: Interrupted("stopped by Ctrl-C", 130), signal.SIGTERM: Interrupted("stopped by SIGTERM", 143)}


class Stop:
    """Whether somebody asked to stop.

    While nothing is held, a signal stops at once. Within `held()` it is noted, and `heard()` tells of it at the next
    step: a database call that is cut in the middle would swallow the request or lose what it was writing. A second
    signal stops at once, wherever that is.
    """

    def __init__(self) -> None:
        self.asked: Interrupted | None = None
        self._holding = False

    def heard(self, ranks: Ranks = ALONE) -> Interrupted | None:
        """What a signal to any rank asks for: to be raised once all is safe. With several, all ask at the same step."""
        if code := ranks.highest(self.asked.exit_code if self.asked else 0):
            self.asked = next(stop for stop in EXIT.values() if stop.exit_code == code)
        return self.asked

    @contextmanager
    def held(self) -> Iterator[None]:
        """Signals wait for `heard()` in here."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over SIGINT and SIGTERM; outside the main thread, whoever runs us there handles signals."""
        numbers = EXIT if threading.current_thread() is threading.main_thread() else ()
        with handled(numbers, self._note):
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.asked is not None
        self.asked = EXIT[signal.Signals(number)]
        if again or not self._holding:
            raise self.asked
