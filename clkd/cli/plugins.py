"""`clkd plugins`: which plugins there are, and what is wrong with those that do not work."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from clkd.cli.common import json_option, plugin_options, plugins_from, print_json, print_table
from clkd.plugins import Plugin


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
        (plugin.name, plugin.origin, plugin.version, plugin.status, plugin.reason or _provided(plugin))
        for plugin in found
    ]
    print_table(("NAME", "ORIGIN", "VERSION", "STATUS", "PROVIDES"), rows)


def _provided(plugin: Plugin) -> str:
    """A stranger's parts by name, or else its hooks; of clkd's own how many there are: `clkd list KIND` names them."""
    if plugin.origin != "clkd":
        return " ".join(plugin.provides or plugin.hooks)
    return ", ".join(
        f"{count} {kind}" for kind, count in Counter(each.partition(":")[0] for each in plugin.provides).items()
    )
