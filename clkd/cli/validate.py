"""`clkd validate`: check scenarios, without loading torch or data unless asked to."""

from __future__ import annotations

from pathlib import Path

import click

from clkd.cli.common import plugin_options, plugins_from, set_option
from clkd.errors import UserError
from clkd.scenario.load import ScenarioErrors, load


@click.command("validate", short_help="Check scenarios: all mistakes at once.")
@click.argument("scenarios", nargs=-1, required=True, metavar="SCENARIO...", type=click.Path(path_type=Path))
@set_option
@click.option("--data", "with_data", is_flag=True, help="Read the data, and try every loss in every experience.")
@plugin_options
def command(
    scenarios: tuple[Path, ...],
    overrides: tuple[str, ...],
    with_data: bool,
    plugins_dirs: tuple[Path, ...],
    disabled: tuple[str, ...],
) -> int:
    """Check scenarios: all mistakes at once, each with file, line and column.

    With --data also what only the data can tell: whether each loss finds classes and layers to work on in every
    experience of the stream. Nothing is trained.
    """
    plugins = plugins_from(plugins_dirs, disabled)
    codes = [0]
    for path in scenarios:
        try:
            loaded = load(path, overrides, plugins.registry)
            plugins.manager.hook.clkd_configure(scenario=loaded.scenario, registry=plugins.registry)
            if with_data:
                from clkd.engine.explain import composed  # loads torch

                composed(loaded, plugins.registry)
            click.echo(f"ok: {path}")
        except UserError as error:
            prefix = "" if isinstance(error, ScenarioErrors) else "clkd: "
            click.echo(f"{prefix}{error}", err=True)
            codes.append(error.exit_code)
    return max(codes)
