"""What commands share: options that load plugins, and how results are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from clkd.page.words import duration
from clkd.plugins import Plugins, load_plugins
from clkd.tracking.points import without_nan

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(slots=True)
class State:
    """What the outermost level must know when a command fails."""

    verbose: bool = False
    plugins: Plugins | None = None


def alone() -> bool:
    """Whether torchrun did not start this process, with others beside it."""
    return not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def _verbose(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(State).verbose = True


def _switched_off(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """`-p no:NAME`, as in pytest."""
    for value in values:
        if not value.startswith("no:") or value == "no:":
            raise click.BadParameter(f"write no:NAME to leave a plugin out; got '{value}'")
    return tuple(value.removeprefix("no:") for value in values)


def plugin_options(command: Command) -> Command:
    """`--plugins-dir`, `-p` and `-v`: the parameters `plugins_dirs` and `disabled` of commands that load plugins."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, expose_value=False, callback=_verbose, help="Show tracebacks."),
        click.option(
            "-p", "disabled", multiple=True, metavar="no:NAME", callback=_switched_off, help="Leave a plugin out."
        ),
        click.option(
            "--plugins-dir",
            "plugins_dirs",
            multiple=True,
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="Load the plugin files (*.py) of a directory, too.",
        ),
    ):
        command = option(command)
    return command


set_option = click.option(
    "--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Change one value of the scenario; VALUE is YAML."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def plugins_from(plugins_dirs: Sequence[Path], disabled: Sequence[str]) -> Plugins:
    """The plugins that these options leave."""
    plugins = load_plugins(plugins_dirs, disabled)
    if (context := click.get_current_context(silent=True)) is not None:
        context.ensure_object(State).plugins = plugins
    return plugins


def print_json(data: Any) -> None:
    """One JSON value on stdout. JSON has no NaN: what was not measured is `null`."""
    click.echo(legible(json.dumps(without_nan(data), indent=2, ensure_ascii=False, allow_nan=False)))


def legible(text: str) -> str:
    """A folder's name need not be UTF-8: `?` for the bytes that are not."""
    return text.encode("utf-8", "replace").decode()


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be."""
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    for row in table:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(legible(line.rstrip()))


def time_left(seconds: float, done: int, count: int) -> str:
    """What is said of the rest of `count` pieces, of which `done` took so many seconds.

    >>> time_left(60, 2, 5), time_left(60, 5, 5)
    ('; about 1 min 30 s left', '')
    """
    return f"; about {duration(seconds / done * (count - done))} left" if done < count else ""
