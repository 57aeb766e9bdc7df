"""Commands that plugins add: one that fails in it hides neither help nor the others' commands."""

import os
import subprocess
import sys
from types import ModuleType

import click
import pytest

from clkd import hookimpl
from clkd.cli.main import added_commands
from clkd.errors import PluginError
from clkd.plugins import isolated

BROKEN = """
from clkd import hookimpl

@hookimpl
def clkd_register_commands(cli):
    import nosuchmodule_xyz
"""
GOOD = """
import click
from clkd import hookimpl

@hookimpl
def clkd_register_commands(cli):
    cli.add_command(click.Command("hello", help="Say hello.", callback=lambda: click.echo("hello")))
"""


def plugin(name, *commands, error=None):
    """A module that adds commands of these names, or raises."""
    module = ModuleType(name)
    module.__file__ = f"{name}.py"

    @hookimpl
    def clkd_register_commands(cli):
        for each in commands:
            cli.add_command(click.Command(each))
        if error:
            raise error

    module.clkd_register_commands = clkd_register_commands
    return module


@pytest.mark.parametrize("error", [ImportError("no module"), SystemExit(3), ValueError("two\nlines")])
def test_a_plugin_that_fails_adds_nothing_and_is_named(error, caplog):
    found = added_commands(isolated(plugin("a_bad", "half", error=error), plugin("b_good", "hello")))
    assert [*found] == ["hello"]
    (said,) = caplog.messages
    assert said.startswith(f"plugin 'a_bad' adds no command: {type(error).__name__}: ")
    assert "\n" not in said


def test_two_plugins_with_one_command_are_told_apart():
    with pytest.raises(
        PluginError, match="'b' adds the command 'tune', which 'a' has already: rename it, or uninstall"
    ):
        added_commands(isolated(plugin("b", "tune"), plugin("a", "tune")))
    with pytest.raises(PluginError, match="'a' adds the command 'run', which clkd has already"):
        added_commands(isolated(plugin("a", "run")))


def test_help_comes_up_beside_a_broken_one(tmp_path):
    for name, text in (("bad", BROKEN), ("good", GOOD)):
        site = tmp_path / f"{name}-1.dist-info"
        site.mkdir()
        (site / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (site / "entry_points.txt").write_text(f"[clkd]\n{name} = {name}_plugin\n")
        (tmp_path / f"{name}_plugin.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    for arguments in (["--help"], ["hello"]):
        done = subprocess.run(
            [sys.executable, "-m", "clkd", *arguments], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert "hello" in done.stdout
        assert "plugin 'bad' adds no command: ModuleNotFoundError: No module named 'nosuchmodule_xyz'" in done.stderr
