"""A run's record as its directory holds it: `metrics.jsonl`, whoever wrote it and however that ended.

Whoever has to do with a living run holds the file (`hold`); whoever wants to do something about a dead one claims it
(`claim`). Both are locks that the system frees when a process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

FILE = "metrics.jsonl"
START, EPOCH, EXPERIENCE, END = "start", "epoch", "experience", "end"

Event = dict[str, Any]


def read(path: Path, start: int = 0) -> tuple[list[Event], int]:
    """The events from byte `start` on, and the byte to go on from: behind the last line that is whole.

    A line that is none of ours, such as half of one, is passed over.
    """
    with path.open("rb") as file:
        file.seek(start)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    found = map(parse, whole.splitlines())
    return [event for event in found if event is not None], start + len(whole)


def parse(line: bytes) -> Event | None:
    """The event of a line.

    >>> parse(b'{"event": "end", "status": "finished"}')
    {'event': 'end', 'status': 'finished'}
    >>> parse(b'{"event": "en')
    """
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def hold(path: Path) -> IO[bytes]:
    """Have the run's record held until this handle is closed; a file system without locks does not mind."""
    handle = path.open("rb")
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return handle


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Whether nobody holds the record; then nobody else can claim it in here."""
    with path.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks: it cannot tell, and most runs are over
            pass
        yield True
