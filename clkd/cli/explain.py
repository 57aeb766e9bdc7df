"""`clkd explain`: what a scenario will train."""

from __future__ import annotations

from pathlib import Path

import click

from clkd.cli.common import json_option, legible, plugin_options, plugins_from, print_json, set_option
from clkd.scenario.load import load


@click.command("explain", short_help="Print each experience's loss as a formula.")
@click.argument("scenario", type=click.Path(path_type=Path))
@set_option
@json_option
@plugin_options
def command(
    scenario: Path, overrides: tuple[str, ...], as_json: bool, plugins_dirs: tuple[Path, ...], disabled: tuple[str, ...]
) -> None:
    """Print the loss of a SCENARIO as a formula for each experience, what teachers see, and what a step costs.

    The data are read; nothing is trained.
    """
    plugins = plugins_from(plugins_dirs, disabled)
    loaded = load(scenario, overrides, plugins.registry)
    plugins.manager.hook.clkd_configure(scenario=loaded.scenario, registry=plugins.registry)
    from clkd.engine.explain import explain, text  # loads torch

    told = explain(loaded, plugins)
    if as_json:
        print_json(told)
    else:
        click.echo(legible(text(told)))
