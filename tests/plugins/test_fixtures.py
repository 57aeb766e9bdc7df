"""The fixtures that plugin authors get: isolated, quick, and each test's own."""

# ruff: noqa: F811  # pytest's way: an argument is named after a fixture

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from clkd import hookimpl
from clkd.errors import PluginError
from clkd.testing.plugin import (  # noqa: F401  # by name, so that it does not matter what is installed here
    _clkd_cache,
    _clkd_isolated,
    _clkd_mlflow_template,
    clkd_mlflow,
    clkd_registry,
    clkd_tiny,
)


def plugin() -> ModuleType:
    """A plugin made on the spot."""
    from clkd.losses.classification import CrossEntropy

    @hookimpl
    def clkd_register_losses(register):
        register("plain", lambda: CrossEntropy(), summary="mine")

    made = ModuleType("made_on_the_spot")
    made.clkd_register_losses = clkd_register_losses
    made.__file__ = "made_on_the_spot.py"
    return made


@pytest.fixture
def clkd_plugins():
    return [plugin()]


def test_the_registry_has_clkds_parts_and_those_under_test(clkd_registry, monkeypatch):
    assert {"kd", "plain"} <= set(clkd_registry.names("losses"))
    assert clkd_registry.get("losses", "plain").plugin == "made_on_the_spot"
    assert {entry.plugin for entry in clkd_registry.entries.values() if not entry.plugin.startswith("clkd.")} == {
        "made_on_the_spot"
    }


def test_tiny_is_two_experiences_of_32_rows(clkd_tiny):
    assert [len(experience.train) for experience in clkd_tiny.stream] == [32, 32]
    assert [experience.classes for experience in clkd_tiny.stream] == [(0, 1), (2, 3)]


def test_tiny_trains_with_the_plugin_and_learns(clkd_tiny):
    """It can be learned: all classes at once are told apart far above chance."""
    stream = {"dataset": {"name": "arrays", "path": "tiny.npz"}, "split": {"by": "data", "experiences": 1}}
    train = {"epochs": 20, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.1}}
    result = clkd_tiny.run(stream=stream, losses=["plain"], train=train)
    assert result["metrics"]["average_accuracy"] > 0.9
    assert clkd_tiny.run(losses=["plain"])["status"] == "finished"


def test_a_run_leaves_nothing_beside_its_folder(clkd_tiny, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    clkd_tiny.run()
    assert not list(elsewhere.iterdir())


def test_mlflow_is_an_empty_store_of_the_tests_own(clkd_mlflow, clkd_tiny):
    assert os.environ["MLFLOW_TRACKING_URI"] == clkd_mlflow
    clkd_tiny.run(tracking={"mode": "required"})
    path = Path(clkd_mlflow.removeprefix("sqlite:///"))
    with sqlite3.connect(path) as database:
        (count,) = database.execute("SELECT count(*) FROM experiments WHERE name = 'tiny'").fetchone()
    assert count == 1


def test_the_next_test_finds_the_store_empty(clkd_mlflow):
    with sqlite3.connect(clkd_mlflow.removeprefix("sqlite:///")) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_a_mistake_in_the_plugin_is_raised():
    from clkd.plugins import isolated

    twice = plugin()
    twice.__name__ = "another"
    with pytest.raises(PluginError, match="'plain' is registered by"):
        isolated(plugin(), twice)


def test_pytest_starts_fast_with_it():
    code = (
        "import sys, clkd.testing.plugin\n"
        "print([name for name in ('torch', 'mlflow', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
