"""`clkd show`: the whole scenario, every default filled in."""

from __future__ import annotations

from pathlib import Path

import click

from clkd.cli.common import json_option, plugin_options, plugins_from, print_json, set_option
from clkd.scenario.load import load
from clkd.scenario.resolve import config_sha, resolved
from clkd.scenario.show import show


@click.command("show", short_help="Print every value of a scenario, and whose it is.")
@click.argument("scenario", type=click.Path(path_type=Path))
@set_option
@json_option
@plugin_options
def command(
    scenario: Path, overrides: tuple[str, ...], as_json: bool, plugins_dirs: tuple[Path, ...], disabled: tuple[str, ...]
) -> None:
    """Print a scenario with every value resolved, and where each comes from."""
    loaded = load(scenario, overrides, plugins_from(plugins_dirs, disabled).registry)
    if not as_json:
        click.echo(show(loaded), nl=False)
        return
    origins = {".".join(map(str, place)): origin for place, origin in loaded.origins.items()}
    sha = config_sha(loaded.scenario)
    print_json({"scenario": resolved(loaded.scenario), "origins": origins, "config_sha": sha})
