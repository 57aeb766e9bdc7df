"""Every test is at home in its own corner: a cache, a store and a working directory that nobody else uses."""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # tests that a shell started in its background hear Ctrl-C, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_DATA = os.environ.get("CLKD_DATA")
"""Where the user keeps real data sets, for the tests that use them when they are there."""
THEIRS = ("CLKD_", "MLFLOW_TRACKING_", "MLFLOW_EXPERIMENT_", "MLFLOW_RUN_", "RANK", "WORLD_SIZE", "RAY_ADDRESS")
"""How the names of variables begin by which an environment changes what clkd does."""


@pytest.fixture
def real_data() -> str:
    """A folder with real MNIST and CIFAR-10."""
    if not REAL_DATA:
        pytest.skip(reason="CLKD_DATA names no folder with real MNIST and CIFAR-10")
    return REAL_DATA


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests of a worker: decoding and fitting are done once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def empty_store(_clkd_mlflow_template: Path) -> Path:
    """An MLflow database without any run, which tests copy: making its schema takes seconds."""
    return _clkd_mlflow_template


@pytest.fixture(scope="session", autouse=True)
def packages_that_stay() -> Iterator[None]:
    """Looking through all installed packages is a third of a small run, and seldom does anything come or go."""
    from clkd import plugins
    from clkd.tracking import labels

    entry_points, requirement = plugins.entry_points, labels._requirement
    found: dict[Any, Any] = {}
    named: dict[Any, str] = {}

    def look_once(group: str) -> Any:
        where = (group, *((each, changed(each)) for each in sys.path))
        return found[where] if where in found else found.setdefault(where, entry_points(group=group))

    def read_once(dist: Any) -> str:
        where = dist._path
        return named[where] if where in named else named.setdefault(where, requirement(dist))

    def changed(folder: str) -> int:
        """When something was installed there or taken away."""
        return os.stat(folder).st_mtime_ns if os.path.isdir(folder) else 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "entry_points", look_once)
        patch.setattr(labels, "_requirement", read_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def digits_that_stay() -> Iterator[None]:
    """Whoever decodes them into a cache of their own need not unpack scikit-learn's file again."""
    from clkd.data import digits

    read, rows = digits.read, list[Any]()

    def read_once(scratch: Path) -> Any:
        rows.extend([] if rows else [read(scratch)])
        return copy.deepcopy(rows[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "read", read_once)
        yield


@pytest.fixture(autouse=True)
def no_power_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here outlives the machine, and waiting for its disk is half of a small run's time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def own_corner(monkeypatch: pytest.MonkeyPatch, session_cache: Path) -> None:
    """No test sees the user's data, cache, tracking server, plugins, cluster, or the job that it may be part of."""
    for name in list(os.environ):
        if name.startswith(THEIRS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CLKD_CACHE", str(session_cache))
    monkeypatch.setenv("CLKD_OFFLINE", "1")


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Who draws without a seed draws the same, whatever was drawn before."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def clkd(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, stdout, stderr."""
    from clkd.cli.main import main

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
