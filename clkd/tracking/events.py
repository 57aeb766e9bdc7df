"""A run's record as its directory holds it: `metrics.jsonl`, whoever wrote it and however that ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"
START, EPOCH, EVALUATION, EXPERIENCE, END = "start", "epoch", "evaluation", "experience", "end"
SYSTEM = "system"
WITHIN = (EPOCH, EVALUATION, SYSTEM)
"""What comes while an experience is trained."""

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
