"""`clkd report`: a page for each run, or, as text, what was transferred in an experience of one."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import click

from clkd.cache import cache_directory
from clkd.cli.common import json_option, legible, print_json
from clkd.compare.select import chosen
from clkd.engine.directory import RunDirectory, find
from clkd.errors import UserError, did_you_mean, writing
from clkd.page.document import document
from clkd.page.story import Story
from clkd.tracking import reports

FILE = "report.html"


@click.command("report", short_help="Write a page about each RUN, to read in a browser.")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="One page with all runs, there.")
@click.option("--open", "opened", is_flag=True, help="Show it in a browser.")
@click.option("--text", "as_text", is_flag=True, help="Print what was transferred in one experience instead.")
@click.option("--experience", type=click.IntRange(min=0), metavar="N", help="With --text: from 0; else the latest.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    runs: tuple[str, ...],
    out: Path | None,
    opened: bool,
    as_text: bool,
    experience: int | None,
    as_json: bool,
) -> None:
    """Write a page for each RUN, an HTML file that needs nothing beside it: `report.html` in the run's directory.

    RUN is a run's directory, its id, a group, or 'last' (the default); it may still be training. With --out, one page
    holds all of them.

    With --text, print what was transferred in an experience of one RUN (with --json, as JSON). That is known of runs
    that were told to report it:  clkd run SCENARIO --set report=true
    """
    wanted = runs or ("last",)
    if not as_text:
        if experience is not None or as_json:
            raise click.UsageError("--experience and --json go with --text", context)
        _show(_written(wanted, out), opened)
    elif out or opened or len(wanted) > 1:
        raise click.UsageError(
            "--text prints one experience of one RUN: leave out --out, --open and other runs", context
        )
    else:
        _print(find(wanted[0], cache_directory(), "report"), experience, as_json)


def _written(wanted: Sequence[str], out: Path | None) -> list[Path]:
    """The pages' files."""
    stories = [Story.read(run.path) for run in chosen(wanted, cache_directory())]
    pages = {out: stories} if out else {story.path / FILE: [story] for story in stories}
    for path, each in pages.items():
        with writing(path):
            path.write_bytes(document(each).encode("utf-8", "replace"))  # a folder's name need not be UTF-8
    return list(pages)


def _show(pages: Sequence[Path], opened: bool) -> None:
    for path in pages:
        click.echo(legible(os.path.relpath(path)))
        if opened and not webbrowser.open(path.absolute().as_uri()):
            click.echo("no browser here: open the file yourself", err=True)


def _print(directory: RunDirectory, experience: int | None, as_json: bool) -> None:
    report = _report(directory, experience)
    if as_json:
        print_json(report)
    else:
        click.echo(legible(reports.text(report)))


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
