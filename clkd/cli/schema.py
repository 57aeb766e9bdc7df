"""`clkd schema`: the JSON Schema of scenarios, for editors."""

from __future__ import annotations

from pathlib import Path

import click

from clkd.cli.common import plugin_options, plugins_from, print_json
from clkd.scenario.schema import schema


@click.command("schema", short_help="Print the JSON Schema of scenarios, for editors.")
@click.option("--kind", metavar="KIND", help="Only one kind of part: losses, memories, …")
@plugin_options
def command(kind: str | None, plugins_dirs: tuple[Path, ...], disabled: tuple[str, ...]) -> None:
    """Print the JSON Schema of scenario files, installed plugins included.

    Write it to clkd.schema.json, and `# yaml-language-server: $schema=clkd.schema.json` on a scenario's first line.
    """
    print_json(schema(plugins_from(plugins_dirs, disabled).registry, kind))
