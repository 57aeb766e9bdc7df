"""What the machine is busy with while a run trains, sampled now and then by a thread."""

from __future__ import annotations

import importlib
import os
import threading
import time
from importlib.util import find_spec
from typing import Any

from clkd.errors import UserError

DEFAULT = 10.0
"""Seconds between two samples."""
MEGABYTE = 2**20

Sample = dict[str, Any]
"""`time` (Unix seconds) and `metrics` by MLflow's names, which its page of system metrics knows."""


def interval(asked: float | bool) -> float | None:
    """What `tracking.system_metrics` means, in seconds.

    Raises:
        UserError: it is asked for, and psutil is missing.
    """
    if not asked:
        return None
    if find_spec("psutil") is None:
        raise UserError("tracking.system_metrics needs psutil: pip install 'clkd[sysmetrics]', or leave it out")
    return DEFAULT if asked is True else float(asked)


class Sampler:
    """Samples every `seconds`, from now on until it is closed."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._taken, self._closed = seconds, list[Sample](), threading.Event()
        self._psutil = importlib.import_module("psutil")
        self._process = self._psutil.Process(os.getpid())
        self._psutil.cpu_percent()  # the share since the call before: this is the first
        threading.Thread(target=self._work, name="clkd-system", daemon=True).start()

    def drain(self) -> list[Sample]:
        """The samples since the last call."""
        taken, self._taken = self._taken, []
        return taken

    def close(self) -> None:
        """Take no more."""
        self._closed.set()

    def _work(self) -> None:
        while not self._closed.wait(self._seconds):
            self._taken.append({"time": round(time.time(), 3), "metrics": self._now()})

    def _now(self) -> dict[str, float]:
        memory = self._psutil.virtual_memory()
        return {
            "system/cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_memory_usage_megabytes": self._process.memory_info().rss / MEGABYTE,
            **_gpus(),
        }


def _gpus() -> dict[str, float]:
    """Of each GPU that this process has tensors on: how much of its memory is taken, by whomever, and how busy it is
    where `nvidia-ml-py` can tell. To ask about another one would take some of its memory."""
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch gives it no types
        return {}
    told = {}
    for i in filter(torch.cuda.memory_reserved, range(torch.cuda.device_count())):
        free, total = torch.cuda.mem_get_info(i)
        told[f"system/gpu_{i}_memory_usage_megabytes"] = (total - free) / MEGABYTE
        told[f"system/gpu_{i}_memory_usage_percentage"] = 100 * (total - free) / total
        if find_spec("pynvml") is not None:
            told[f"system/gpu_{i}_utilization_percentage"] = float(torch.cuda.utilization(i))
    return told
