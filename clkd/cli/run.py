"""`clkd run`: train a scenario."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import click

from clkd.cli.common import State, json_option, plugin_options, plugins_from, print_json, set_option
from clkd.plugins import Plugins
from clkd.scenario.request import RunRequest


@click.command("run")
@click.argument("scenario", required=False, type=click.Path(path_type=Path))
@set_option
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the scenario's seed.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--dry-run", is_flag=True, help="Compose everything and list the experiences; train nothing.")
@click.option("--limit-experiences", type=click.IntRange(min=1), metavar="N", help="Stop after N experiences.")
@click.option("--limit-batches", type=click.IntRange(min=1), metavar="N", help="At most N batches an epoch.")
@click.option(
    "--tracking", type=click.Choice(["mlflow", "required", "offline", "off"]), help="Where the run is recorded."
)
@click.option("--tracking-uri", metavar="URI", help="MLflow's tracking URI.")
@click.option("--resume", metavar="RUN", help="Go on with a run: its directory, its id, or 'last'.")
@click.option("--from", "origin", metavar="RUN[@EXPERIENCE]", help="A new run from a finished experience of another.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@json_option
@plugin_options
@click.pass_context
def command(
    context: click.Context,
    scenario: Path | None,
    overrides: tuple[str, ...],
    seed: int | None,
    device: str | None,
    dry_run: bool,
    limit_experiences: int | None,
    limit_batches: int | None,
    tracking: Literal["mlflow", "required", "offline", "off"] | None,
    tracking_uri: str | None,
    resume: str | None,
    origin: str | None,
    quiet: bool,
    as_json: bool,
    plugins_dirs: tuple[Path, ...],
    disabled: tuple[str, ...],
) -> None:
    """Train the student of a SCENARIO on its stream.

    With --from, a new run starts where another one stood after an experience (by default its last finished one), with
    that run's scenario or the SCENARIO named, changed by --set:  clkd run --from RUN@2 --set losses.1.weight=2

    Results go to stdout (with --json exactly one JSON object), progress to stderr.
    """
    if scenario is None and resume is None and origin is None:
        raise click.UsageError(
            "name a SCENARIO file, or go on with a run by --resume RUN, or with a new one by --from RUN", context
        )
    if resume is not None and origin is not None:
        raise click.UsageError("--resume goes on with a run, --from starts a new one: give one of them", context)
    request = RunRequest(
        scenario=scenario,
        overrides=overrides,
        seed=seed,
        device=device,
        dry_run=dry_run,
        limit_experiences=limit_experiences,
        limit_batches=limit_batches,
        tracking=tracking,
        tracking_uri=tracking_uri,
        resume=resume,
        origin=origin,
        json=as_json,
        quiet=quiet,
        verbose=context.ensure_object(State).verbose,
        plugins_dirs=plugins_dirs,
        disabled=disabled,
        command=shlex.join(["clkd", *sys.argv[1:]]),
    )
    carry_out(request, plugins_from(plugins_dirs, disabled))


def carry_out(request: RunRequest, plugins: Plugins) -> None:
    """Do it, and print what is asked for."""
    from clkd.cli.uncompiled import leave_out_the_compiler

    leave_out_the_compiler()
    from clkd.engine.execute import execute  # loads torch: not before the command line is known to be right

    result = execute(request, plugins)
    if not result:  # one of several processes; another one tells
        return
    if request.json:
        print_json(result)
    elif request.dry_run:
        click.echo(preview_text(result))


def preview_text(preview: dict[str, Any]) -> str:
    """A dry run in words: who takes part, and what each experience holds."""
    width = max(map(len, preview["description"]))
    lines = [f"{name:<{width}}  {text}" for name, text in preview["description"].items()]
    for e in preview["stream"]:
        rows = f"{e['train']:,} training, {e['validation']:,} validation, {e['test']:,} test rows"
        lines.append(f"experience {e['index'] + 1}: {e['name']}: {rows}")
    return "\n".join(lines)
