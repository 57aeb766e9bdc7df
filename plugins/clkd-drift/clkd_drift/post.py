"""JSON to a webhook, from a thread of its own: whoever hands something over goes on at once."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from clkd.errors import one_line

log = logging.getLogger("clkd.drift")


class Post:
    """Posts what it is handed, at most once in `every` seconds; a failure is said once and ends nothing.

    Each body says in `missed` how many before it, since the last that arrived, were held back or did not arrive.

    Args:
        url: http or https. A redirection is a failure: what is posted goes where it was sent.
        timeout: seconds for each step of a request.
    """

    def __init__(self, url: str, timeout: float, every: float) -> None:
        self.url, self.timeout, self.every = url, timeout, every
        self._bodies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._held: dict[str, Any] | None = None
        """The latest that has not arrived."""
        self._missed = 0
        self._next = 0.0
        self._failed = False
        self._thread = threading.Thread(target=self._work, name="clkd-drift", daemon=True)
        self._thread.start()

    def put(self, body: dict[str, Any]) -> None:
        self._bodies.put(body)

    def close(self, patience: float) -> None:
        """Post the latest of those that were held back, and wait for it, but not longer than that."""
        self._bodies.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            self._fail("it takes too long")

    def _work(self) -> None:
        while (body := self._bodies.get()) is not None:
            if self._held is not None:
                self._missed += 1
            self._held = body
            if time.monotonic() >= self._next:
                self._try()
        if self._held is not None:
            self._try()

    def _try(self) -> None:
        assert self._held is not None, "there is something to post"
        self._next = time.monotonic() + self.every
        try:
            self._send({**self._held, "missed": self._missed})
        except (OSError, HTTPException, ValueError) as error:
            self._fail(_reason(error))
        else:
            self._held, self._missed = None, 0

    def _send(self, body: dict[str, Any]) -> None:
        data = json.dumps(body, allow_nan=False).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "clkd-drift"}
        request = urllib.request.Request(self.url, data, headers, method="POST")
        with urllib.request.build_opener(_Stay).open(request, timeout=self.timeout):
            pass

    def _fail(self, reason: str) -> None:
        """The address itself is not said: it may be a secret."""
        if not self._failed:
            log.warning(
                "drift: an alert did not reach %s (%s); training goes on, and run and metrics have the alarm",
                urlsplit(self.url).hostname,
                reason,
            )
        self._failed = True


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nobody: a redirected POST would arrive as a GET, or somewhere else."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        with error:
            return f"it answers {error.code}"
    if isinstance(error, urllib.error.URLError):
        return one_line(str(error.reason), 200)
    return one_line(str(error), 200) or type(error).__name__
