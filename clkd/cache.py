"""The cache directory: decoded data, fitted teachers, teachers' answers, an index of runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from clkd.errors import UserError


def cache_directory() -> Path:
    """`$CLKD_CACHE`, else `~/.cache/clkd` (below `$XDG_CACHE_HOME` where that is set); made if missing.

    Raises:
        UserError: it cannot be written.
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = Path(os.path.expanduser(os.environ.get("CLKD_CACHE") or f"{home}/clkd")).absolute()
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


def clear(path: Path) -> None:
    """Take away what lies at `path`, a folder or a file, if anything does."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # another process may be at it, too
    else:
        path.unlink(missing_ok=True)
