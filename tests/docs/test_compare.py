"""docs/compare.md names every option of its commands, and what it says of sweeps is what they take."""

import re
import shlex
from pathlib import Path

import pytest
from click import Option

from clkd.cli import compare, runs, sweep
from clkd.sweep.axes import Axis, drawn, grid

PAGE = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
SHARED = {"--tracking", "--tracking-uri", "--device", "--plugins-dir", "-p", "-v", "-q", "--quiet", "--verbose"}
"""Of `clkd run`, and told there."""


@pytest.mark.parametrize("command", [compare.command, runs.command, sweep.command], ids=lambda each: each.name)
def test_every_option_is_on_the_page(command):
    options = {name for each in command.params if isinstance(each, Option) for name in each.opts}
    assert {name for name in options - SHARED if name not in PAGE} == set()


def commands():
    lines = [line.partition("#")[0].strip() for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
             for line in block.splitlines()]  # fmt: skip
    return [shlex.split(line)[1:] for line in lines]


def test_every_command_shown_is_one_that_click_takes():
    from clkd.cli.main import cli

    assert len(commands()) >= 6
    for name, *words in commands():
        command = cli.get_command(None, name)
        command.make_context(name, list(words))


def test_the_sweeps_shown_have_points():
    for name, *words in commands():
        if name == "sweep":
            axes = [Axis.read(words[i + 1]) for i, word in enumerate(words) if word == "--set"]
            assert len(drawn(axes, 10) if "--random" in words else grid(axes)) in (1, 2, 4, 10)
