"""What the C library does with memory that is given back: it keeps it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT = {M_MMAP_THRESHOLD: 256 * 2**20, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}
"""Bytes, by parameter of `mallopt`: what is smaller comes from the heap, the heap keeps up to so much at its end, and
grows by so much at once."""


def keep_freed_memory() -> bool:
    """Have glibc keep what tensors gave back for the next ones; False where that is not ours to set.

    A step takes the same tensors anew each time. glibc gives the larger ones back to the system, which hands them out
    again page by page, each cleared first: a sixth of a small network's time (`benchmarks/savings.py`). With this,
    the process stays as large as it once was. Nothing is done where the environment has settings of its own.
    """
    named = [name for name in os.environ if name.startswith("MALLOC_") and name.endswith("_")]
    chosen = bool(named) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return not chosen and allocate(KEPT)


def allocate(settings: Mapping[int, int]) -> bool:
    """Set these parameters of glibc's allocator; False beside another C library."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
