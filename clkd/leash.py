"""Processes that end when whoever started them does, however that ended.

A child holds the reading end of a pipe as its standard input; nobody but its parent holds the other. The system closes
that with the parent, be it by SIGKILL, and the child hears it.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

INPUT = 0


def start(words: Sequence[str], end: signal.Signals, **options: Any) -> subprocess.Popen[bytes]:
    """Start `python -m WORDS…` in a session of its own; without this process, all of that session are sent `end`.

    Args:
        words: a module that is a program, and its arguments.
        options: as for `subprocess.Popen`.
    """
    command = [sys.executable, "-m", __name__, end.name, *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **options)


def main() -> None:
    """In the child: be that module, and listen."""
    _, end, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    threading.Thread(target=_listen, args=(signal.Signals[end],), name="leash", daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _listen(end: signal.Signals) -> None:
    while os.read(INPUT, 1):
        pass
    os.killpg(os.getpgrp(), end)


if __name__ == "__main__":
    main()
