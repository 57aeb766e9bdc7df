"""`clkd extend`: go on with a finished run, on data that came later."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Literal

import click

from clkd.cli.common import json_option, plugin_options, plugins_from, set_option
from clkd.cli.run import carry_out
from clkd.scenario.request import RunRequest


@click.command("extend")
@click.argument("run", metavar="RUN")
@click.argument("data", metavar="NEW_DATA")
@click.option(
    "--by",
    type=click.Choice(["class", "data", "domain", "given"]),
    help="What is new: classes, rows, a domain, or what the data declares; by default as the run's own stream, "
    "else classes.",
)
@click.option("--experiences", type=click.IntRange(min=1), metavar="N", help="Split NEW_DATA further.")
@click.option("--classes", multiple=True, metavar="NAME,NAME", help="The classes of one experience; once for each.")
@set_option
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--dry-run", is_flag=True, help="Compose everything and list the experiences; train nothing.")
@click.option(
    "--tracking", type=click.Choice(["mlflow", "required", "offline", "off"]), help="Where the run is recorded."
)
@click.option("--tracking-uri", metavar="URI", help="MLflow's tracking URI.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@json_option
@plugin_options
@click.pass_context
def command(
    context: click.Context,
    run: str,
    data: str,
    by: str | None,
    experiences: int | None,
    classes: tuple[str, ...],
    overrides: tuple[str, ...],
    device: str | None,
    dry_run: bool,
    tracking: Literal["mlflow", "required", "offline", "off"] | None,
    tracking_uri: str | None,
    quiet: bool,
    as_json: bool,
    plugins_dirs: tuple[Path, ...],
    disabled: tuple[str, ...],
) -> None:
    """Go on with a finished RUN on NEW_DATA, as a new run.

    RUN is a run's directory, its id (or how it begins), or 'last'. NEW_DATA is a folder of images, an .npz file, or a
    data set's name, perhaps with options:  clkd extend last mnist:rows_per_class=100,size=8 --experiences 2

    Classes are the same if they have the same name. Of what the run has learned from, nothing is read again but its
    memory; its test rows are, where they are still there.
    """
    plugins = plugins_from(plugins_dirs, disabled)
    if classes and (experiences or by not in (None, "class")):
        raise click.UsageError("--classes says which classes come when: leave out --experiences and --by", context)
    from clkd.engine.extend import extension  # loads torch: not before the command line is known to be right

    added = extension(run, data, plugins.registry, by, experiences, classes)
    request = RunRequest(
        overrides=(f"stream.extensions={json.dumps(added, ensure_ascii=False)}", *overrides),
        device=device,
        dry_run=dry_run,
        tracking=tracking,
        tracking_uri=tracking_uri,
        origin=run,
        json=as_json,
        quiet=quiet,
        command=shlex.join(["clkd", *sys.argv[1:]]),
    )
    carry_out(request, plugins)
