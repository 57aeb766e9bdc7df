"""The data sets as scenarios use them, on small files."""

from collections.abc import Callable
from pathlib import Path

import pytest

import clkd.data
from clkd.data import source
from clkd.data.prepare import prepare
from clkd.data.store import Store
from clkd.registry import Registry


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    clkd.data.clkd_register_datasets(register=registry.register_for("datasets", "clkd.data", "clkd"))
    return registry


@pytest.fixture
def load(registry: Registry, tmp_path: Path) -> Callable[..., Store]:
    """`load(name, **options)`: with a cache and a scenario folder of the test's own."""

    def load(name: str, **options) -> Store:
        part = registry.parse("datasets", {"name": name, **options})
        return prepare(part, build=registry.build, cache=tmp_path / "cache", base=tmp_path)

    return load


@pytest.fixture(autouse=True)
def no_failed_downloads() -> None:
    source._failed.clear()
