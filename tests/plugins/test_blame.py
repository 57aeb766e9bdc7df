"""A mistake in a plugin's code is one line that names the plugin and the place; one in clkd's own stays a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import clkd

from clkd.plugins import load_plugins

SCENARIO = """\
name: tiny
stream: {dataset: {name: digits, rows_per_class: 6}, split: {by: class, experiences: 2}}
student: {model: {kind: mlp, hidden: [8]}, head: linear}
losses: [clumsy]
train: {optimizer: {kind: sgd, lr: 0.05}}
"""
PLUGIN = """\
from clkd import Loss, hookimpl
from clkd.errors import shorten


class Clumsy(Loss):
    sides = 1

    def forward(self, batch, a, b=None):
        return a.nothing


@hookimpl
def clkd_register_losses(register):
    register("clumsy", Clumsy)


def fail():
    raise KeyError("mine")


def hand_on():
    shorten(None)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clumsy.py").write_text(PLUGIN)
    return tmp_path


@pytest.mark.slow
def test_a_run_that_a_plugin_fails_says_where(folder: Path) -> None:
    (folder / "s.yaml").write_text(SCENARIO)
    words = ("run", "s.yaml", "--plugins-dir", ".", "--tracking", "off", "-q")
    done = clkd(*words, cwd=folder)
    line = PLUGIN.splitlines().index("        return a.nothing") + 1
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        f"clkd: plugin 'clumsy' failed at {folder}/clumsy.py:{line}: AttributeError: 'Signals' object has no attribute "
        "'nothing' (-v shows how)"
    )
    assert "Traceback" not in done.stderr
    assert "Traceback" in clkd(*words, "-v", cwd=folder).stderr


def test_who_raised_last_is_to_blame(folder: Path) -> None:
    plugins = load_plugins([folder])
    module = plugins.manager.get_plugin("clumsy")
    with pytest.raises(KeyError) as own:
        module.fail()
    assert "plugin 'clumsy' failed at " in str(plugins.blame(own.value))
    with pytest.raises(TypeError) as ours:
        module.hand_on()
    assert plugins.blame(ours.value) is None
    with pytest.raises(ZeroDivisionError) as nobodys:
        _ = 1 // 0
    assert plugins.blame(nobodys.value) is None
