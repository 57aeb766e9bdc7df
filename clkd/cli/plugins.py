"""`clkd plugins`: which plugins there are, and what is wrong with those that do not work."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from clkd.cli.common import json_option, plugin_options, plugins_from, print_json, print_table


@click.command("plugins", short_help="List plugins: who brings what, and what is broken.")
@json_option
@plugin_options
def command(as_json: bool, plugins_dirs: tuple[Path, ...], disabled: tuple[str, ...]) -> None:
    """List plugins: where they come from, whether they work, what they provide."""
    found = plugins_from(plugins_dirs, disabled).found
    if as_json:
        print_json([asdict(plugin) for plugin in found])
        return
    rows = [
        (plugin.name, plugin.origin, plugin.version, plugin.status, plugin.reason or " ".join(plugin.provides))
        for plugin in found
    ]
    print_table(("NAME", "ORIGIN", "VERSION", "STATUS", "PROVIDES"), rows)
