"""`clkd run`: train a scenario."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click

from clkd.cache import cache_directory
from clkd.cli.common import alone, json_option, legible, plugin_options, plugins_from, print_json, set_option
from clkd.cli.seeds import SeedsCommand, seeds_option
from clkd.errors import UserError
from clkd.plugins import Plugins
from clkd.scenario.load import load
from clkd.scenario.model import Scenario
from clkd.scenario.request import RunRequest
from clkd.scenario.settings import Setting
from clkd.tracking import courier

RECORDED = ("mlflow", "required", None)
"""Modes of tracking that MLflow is needed for; who does not say it mostly means the first."""


@click.command("run", cls=SeedsCommand)
@click.argument("scenario", required=False, type=click.Path(path_type=Path))
@set_option
@seeds_option
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
    seeds: tuple[int, ...],
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

    Several seeds, --seed 0 1 2, are one run after another, and one line of `clkd compare`.

    Results go to stdout (with --json exactly one JSON object), progress to stderr.
    """
    if scenario is None and resume is None and origin is None:
        raise click.UsageError(
            "name a SCENARIO file, or go on with a run by --resume RUN, or with a new one by --from RUN", context
        )
    if resume is not None and origin is not None:
        raise click.UsageError("--resume goes on with a run, --from starts a new one: give one of them", context)
    if resume is not None and len(seeds) > 1:
        raise click.UsageError("--resume goes on with one run, which has its seed: leave out --seed", context)
    request = RunRequest(
        scenario=scenario,
        overrides=overrides,
        seed=seeds[0] if len(seeds) == 1 else None,
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
        command=shlex.join(["clkd", *sys.argv[1:]]),
    )
    plugins = plugins_from(plugins_dirs, disabled)
    if len(seeds) > 1:
        _carry_out_each([replace(request, seed=seed) for seed in seeds], plugins)
    else:
        carry_out(request, plugins)


def carry_out(request: RunRequest, plugins: Plugins) -> None:
    """Do it, and print what is asked for."""
    result = _done(request, plugins)
    if not result:  # one of several processes; another one tells
        return
    if request.json:
        print_json(result)
    elif request.dry_run:
        click.echo(legible(preview_text(result)))


def _carry_out_each(requests: Sequence[RunRequest], plugins: Plugins) -> None:
    """One after another; what they have in common is said at the end.

    Raises:
        UserError: the scenario has one place for all of them.
    """
    first = requests[0]
    if _output(first, plugins) is not None:
        raise UserError("output: several seeds are several runs, and this names one place: leave it out")
    if first.origin is not None:  # the first seed's run is `last` when the second one begins
        from clkd.engine.origin import pinned  # loads torch

        origin = pinned(first.origin, cache_directory())
        requests = [replace(request, origin=origin) for request in requests]
    results = [_done(request, plugins, several=True) for request in requests]
    if not all(results):
        return
    if first.json:
        print_json({"runs": results})
    elif first.dry_run:
        told = (f"seed {r.seed}:\n{preview_text(p)}" for r, p in zip(requests, results, strict=True))
        click.echo(legible("\n\n".join(told)))
    elif not first.quiet:
        click.echo(f"mean and spread: clkd compare {' '.join(result['run_id'] for result in results)}", err=True)


def _output(request: RunRequest, plugins: Plugins) -> object:
    """Where the run is told to lie. (Of a run that another one goes on from, the place is its own.)"""
    if request.scenario is not None:
        return load(request.scenario, request.settings, plugins.registry).scenario.output
    said = [setting.value for setting in map(Setting.read, request.settings) if setting.place == ("output",)]
    return said[-1] if said else None


def _done(request: RunRequest, plugins: Plugins, several: bool = False) -> dict[str, Any]:
    scenario = _look_first(request, plugins)
    if alone() and not request.dry_run and (scenario.tracking.mode if scenario else request.tracking) in RECORDED:
        courier.prepare()
    from clkd.cli.uncompiled import leave_out_the_compiler

    leave_out_the_compiler()
    from clkd.engine.execute import execute, make_room  # loads torch: not before the command line is known to be right

    if several:
        make_room()
    return execute(request, plugins)


def _look_first(request: RunRequest, plugins: Plugins) -> Scenario | None:
    """The scenario that is named. A mistake in it is told at once, not after the seconds that loading torch takes. (Of
    several processes one tells it, so they find it together.)"""
    if request.scenario is not None and not request.resume and alone():
        return load(request.scenario, request.settings, plugins.registry).scenario
    return None


def preview_text(preview: dict[str, Any]) -> str:
    """A dry run in words: who takes part, and what each experience holds."""
    width = max(map(len, preview["description"]))
    lines = [f"{name:<{width}}  {text}" for name, text in preview["description"].items()]
    for e in preview["stream"]:
        rows = f"{e['train']:,} training, {e['validation']:,} validation, {e['test']:,} test rows"
        lines.append(f"experience {e['index']}: {e['name']}: {rows}")
    return "\n".join(lines)
