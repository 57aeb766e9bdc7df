"""Addresses on this machine that stay what they are while a test uses them."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HERE = "127.0.0.1"
OURS = range(20_000, 30_000)
"""Ports that no system gives away by itself, be it to a client or to whoever asks for any: those lie above."""


@contextmanager
def nobody() -> Iterator[str]:
    """`HOST:PORT` where nobody listens, nor will: the port is taken."""
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        yield f"{HERE}:{taken.getsockname()[1]}"


def free_port() -> int:
    """For a server that takes seconds to start, and may go and come back: until then nobody else gets it by chance."""
    draw = random.SystemRandom()
    while True:
        port = draw.choice(OURS)
        with socket.socket() as door, suppress(OSError):
            door.bind((HERE, port))
            return port
