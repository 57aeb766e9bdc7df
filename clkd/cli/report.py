"""`clkd report`: what was transferred in an experience of a run."""

from __future__ import annotations

import click

from clkd.cache import cache_directory
from clkd.cli.common import json_option, print_json
from clkd.engine.directory import RunDirectory, find
from clkd.errors import UserError, did_you_mean
from clkd.tracking import reports


@click.command("report")
@click.argument("run", default="last")
@click.option("--experience", type=click.IntRange(min=0), metavar="N", help="From 0; by default the latest.")
@json_option
def command(run: str, experience: int | None, as_json: bool) -> None:
    """Print what was transferred in the latest experience of RUN: its directory, its id, or 'last' (the default).

    There is a report where the run was told to make them:  clkd run SCENARIO --set report=true
    """
    report = _report(find(run, cache_directory(), "report"), experience)
    if as_json:
        print_json(report)
    else:
        click.echo(reports.text(report))


def _report(directory: RunDirectory, experience: int | None) -> reports.Report:
    """The one of that experience, or the latest.

    Raises:
        UserError: there is none.
    """
    found = {int(path.stem.removeprefix("exp_")): path for path in reports.files(directory.path)}
    if not found:
        raise UserError(f"{directory.path} holds no report: it takes a run with --set report=true")
    wanted = max(found) if experience is None else experience
    if wanted not in found:
        hint = did_you_mean(str(wanted), map(str, found))
        raise UserError(f"{directory.path} holds no report of experience {wanted} ({hint})")
    return reports.read(found[wanted])
