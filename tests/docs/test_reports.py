"""docs/reports.md names every option and section, and its commands are ones that click takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click import Option

from clkd.cli.main import cli
from clkd.page.accuracy import MOST_CURVES
from clkd.page.document import SECTIONS
from clkd.page.tables import MOST_CELLS
from clkd.page.transferred import MOST_CLASSES

PAGE = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["report", "ui"])
def test_every_option_is_on_the_page(name):
    command = cli.get_command(None, name)
    options = {name for each in command.params if isinstance(each, Option) for name in each.opts}
    assert options
    assert {name for name in options if f"`{name}" not in PAGE} == set()


def test_every_command_shown_is_one_that_click_takes():
    lines = [line.partition("#")[0].strip() for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
             for line in block.splitlines()]  # fmt: skip
    words = [shlex.split(line)[1:] for line in lines if line.startswith("clkd ")]
    assert len(words) >= 8
    for name, *rest in words:
        cli.get_command(None, name).make_context(name, rest)


def test_every_section_and_limit_is_on_the_page():
    assert all(f"| {title} |" in PAGE for _, title, _ in SECTIONS)
    for limit in (f"{MOST_CELLS} rows or columns", f"{MOST_CLASSES} classes", f"{MOST_CURVES} experiences"):
        assert limit in PAGE
