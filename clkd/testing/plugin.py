"""The pytest plugin: fixtures for tests of clkd plugins. pytest finds it by itself where clkd is installed.

A test file says what it tests by overriding the fixture `clkd_plugins`::

    @pytest.fixture
    def clkd_plugins():
        return [clkd_focal]

Nothing of clkd is imported before a fixture is asked for, so that test runs that are not about clkd stay fast.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from clkd.plugins import Plugins
    from clkd.registry import Registry
    from clkd.testing.tiny import Tiny


@pytest.fixture
def clkd_plugins() -> Sequence[ModuleType]:
    """The plugin modules under test; override it to name them."""
    return ()


@pytest.fixture
def _clkd_isolated(clkd_plugins: Sequence[ModuleType]) -> Plugins:
    from clkd.plugins import isolated

    return isolated(*clkd_plugins)


@pytest.fixture
def clkd_registry(_clkd_isolated: Plugins) -> Registry:
    """clkd's own parts and those of `clkd_plugins`, and no others, whatever is installed."""
    return _clkd_isolated.registry


@pytest.fixture(scope="session")
def _clkd_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clkd_cache")


@pytest.fixture
def clkd_tiny(_clkd_isolated: Plugins, _clkd_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """A stream of 2 experiences with 32 rows each, and runs on it (`clkd.testing.tiny.Tiny`), offline."""
    monkeypatch.setenv("CLKD_CACHE", str(_clkd_cache))
    monkeypatch.setenv("CLKD_OFFLINE", "1")
    from clkd.testing.tiny import Tiny

    return Tiny(tmp_path, _clkd_isolated)


@pytest.fixture(scope="session")
def _clkd_mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store: making its schema takes seconds, copying it none."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from clkd.tracking.store import open_client

    path = tmp_path_factory.mktemp("clkd_mlflow") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def clkd_mlflow(_clkd_mlflow_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty MLflow store of the test's own, in force for it through `MLFLOW_TRACKING_URI`."""
    path = tmp_path / "mlflow.db"
    shutil.copy(_clkd_mlflow_template, path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return f"sqlite:///{path}"
