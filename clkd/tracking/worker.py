"""A thread that does one job again and again, so that nobody has to wait for it longer than they like."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PAUSE = 5.0
"""Seconds between a failure and the next try, unless that is urgent."""
LOOK = 0.05


class Worker:
    """Does `job` once after each `wake`, or after several at once. The process can end whatever the job hangs in.

    Attributes:
        error: what the latest try raised, None if it went well.
    """

    def __init__(self, job: Callable[[], None], name: str) -> None:
        self.error: Exception | None = None
        self._job = job
        self._asked = self._tried = 0
        self._urgent = self._closed = False
        self._change = threading.Condition()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def wake(self, urgent: bool = False) -> None:
        """There is something to do; if it is urgent, even right after a failure."""
        with self._change:
            self._asked += 1
            self._urgent |= urgent
            self._change.notify_all()

    def wait(self, patience: Callable[[], float]) -> bool:
        """Wait for a try that began after the latest `wake`. False once `patience()` seconds have passed.

        Signals are heard meanwhile, and patience may run out because of one.
        """
        begin = time.monotonic()
        with self._change:
            while self._tried < self._asked:
                if time.monotonic() - begin > patience():
                    return False
                self._change.wait(LOOK)
        return True

    def close(self) -> None:
        """End the thread as soon as it is done with what it does."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _work(self) -> None:
        while (turn := self._next()) is not None:
            error = None
            try:
                self._job()
            except Exception as raised:  # whoever waits decides what it means
                error = raised
            with self._change:
                self.error, self._tried = error, turn
                self._change.notify_all()

    def _next(self) -> int | None:
        """The latest wake that is to be answered, once there is one; None after `close`."""
        with self._change:
            self._change.wait_for(lambda: self._closed or self._asked > self._tried)
            if self.error:
                self._change.wait_for(lambda: self._closed or self._urgent, PAUSE)
            self._urgent = False
            return None if self._closed else self._asked
