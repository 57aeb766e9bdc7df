"""`clkd compare`: groups of runs beside each other."""

from __future__ import annotations

from pathlib import Path

import click

from clkd.cache import cache_directory
from clkd.cli.common import json_option, print_json, print_table
from clkd.compare import text
from clkd.compare.comparison import Comparison, compare
from clkd.compare.group import Group, grouped
from clkd.compare.select import chosen
from clkd.errors import UserError, writing

PICTURES = (".png", ".pdf", ".svg")


@click.command("compare", short_help="Compare groups of runs over their seeds.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN|GROUP...")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME[:low|:high]",
    help="A column; once for each. By default average_accuracy and forgetting.",
)
@click.option("--against", metavar="RUN|GROUP", help="Test the others against this one, not against the best.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "latex", "csv"]),
    default="table",
    show_default=True,
    help="How the table is printed.",
)
@click.option(
    "--plot", "picture", type=click.Path(path_type=Path), metavar="FILE", help="Draw the first metric over its cost."
)
@json_option
def command(
    runs: tuple[str, ...], metrics: tuple[str, ...], against: str | None, form: str, picture: Path | None, as_json: bool
) -> None:
    """Compare groups of runs: mean ± standard deviation over seeds, the best, and whether the others differ from it.

    RUN is a run's directory (or one that holds runs), its id or 'last'; GROUP a group, a scenario's name or a pattern
    (`clkd runs` lists them). Runs that differ in their seed alone are one line.

    --metric takes what `result.json` holds: metrics by name, compute.training_macs, seconds.total, …
    """
    if picture and picture.suffix not in PICTURES:
        raise UserError(f"--plot {picture}: name a {' or '.join(PICTURES)} file")
    cache = cache_directory()
    groups, notes = grouped(chosen(runs, cache))
    reference = _reference(against, groups, cache) if against else None
    if not groups:
        raise UserError(f"nothing to compare: {'; '.join(notes)}")
    comparison = compare(groups, metrics, reference, notes)
    _print(comparison, form, as_json)
    if picture:
        _draw(comparison, picture)


def _reference(against: str, groups: list[Group], cache: Path) -> Group:
    meant = {run.id for run in chosen([against], cache)}
    found = [group for group in groups if meant & {run.id for run in group.runs}]
    if len(found) != 1:
        which = "none of the groups compared" if not found else "several groups: say which"
        raise UserError(f"--against {against}: {which} ({', '.join(group.name for group in found or groups)})")
    return found[0]


def _print(comparison: Comparison, form: str, as_json: bool) -> None:
    if as_json:
        print_json(text.as_data(comparison))
    elif form == "markdown":
        click.echo(text.markdown(comparison))
    elif form == "latex":
        click.echo(text.latex(comparison))
    else:
        if form == "csv":
            click.echo(text.csv_text(comparison))
        else:
            print_table(*text.rows(comparison))
        for note in text.told(comparison):
            click.echo(note, err=True)


def _draw(comparison: Comparison, picture: Path) -> None:
    from clkd.compare.plot import plot  # loads matplotlib: not for a table

    with writing(picture):
        plot(comparison).savefig(picture, dpi=150)
    click.echo(f"{picture} written", err=True)
