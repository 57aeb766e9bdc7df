"""The cache directory: decoded data, fitted teachers, teachers' answers, an index of runs."""

from __future__ import annotations

import os
from pathlib import Path

from clkd.errors import UserError


def cache_directory() -> Path:
    """`$CLKD_CACHE`, else `~/.cache/clkd` (below `$XDG_CACHE_HOME` where that is set); made if missing.

    Raises:
        UserError: it cannot be written.
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = Path(os.environ.get("CLKD_CACHE") or Path(home) / "clkd").expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache {path} cannot be written ({error.strerror}): set CLKD_CACHE to a folder that can"
        ) from error
    return path
