"""The front door of the plugin: the command `clkd tune`. It loads neither torch nor optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clkd import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def clkd_register_commands(cli: click.Group) -> None:
    """One line for each command."""
    from clkd_optuna.command import command

    cli.add_command(command, "tune")
