"""`clkd reproduce`: a published table beside clkd's own numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from clkd.cli.common import json_option, print_json, print_table, time_left
from clkd.reproduce import expected, report
from clkd.reproduce.results import Line, Place, Result, line
from clkd.reproduce.runner import Plan, Task, run_all
from clkd.reproduce.table import Table, find, names


@click.command("reproduce", short_help="Print a published TABLE beside our numbers.")
@click.argument("table", required=False, metavar="[TABLE]")
@click.option("--row", "rows", multiple=True, metavar="ROW", help="Only this row; may be given several times.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each row.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/reproduce"),
    show_default=True,
    help="Where results are kept.",
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, a thread each.")
@click.option("--dry-run", is_flag=True, help="Make no runs: print what is there.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown"]),
    default="table",
    show_default=True,
    help="How the table is printed.",
)
@click.option(
    "--write",
    "page",
    type=click.Path(path_type=Path),
    metavar="PAGE",
    help="Put the table between its marks there.",
)
@click.option("--expect", is_flag=True, help="Commit the ranges of the means (for those who maintain clkd's tables).")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@json_option
def command(
    table: str | None,
    rows: tuple[str, ...],
    seeds: int,
    out: Path,
    workers: int,
    dry_run: bool,
    form: str,
    page: Path | None,
    expect: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Make the runs of a published TABLE that are missing, and print its numbers beside ours.

    Without a TABLE, list them. Results are kept, one file for each row and seed; a run whose scenario has changed since
    is made again. Exit code 1: a row left the range that is committed for it.
    """
    if table is None:
        _list(as_json)
        return 0
    chosen = find(table)
    if page and rows:
        raise click.UsageError("--write fills in the whole table: leave out --row")
    plan = Plan(chosen, chosen.choose(rows), seeds, Place(out / chosen.name))
    if not dry_run:
        _make(plan, workers, quiet)
    lines = [line(chosen, row, plan.results(row)) for row in plan.rows]
    _print(chosen, lines, form, as_json)
    if page:
        report.fill(page, chosen, lines)
    if expect:
        expected.write(chosen.path, chosen.expected, lines)
        return 0
    return int(any(each.holds is False for each in lines))


def _list(as_json: bool) -> None:
    tables = [find(name) for name in names()]
    if as_json:
        print_json([{"name": t.name, "title": t.options.title, "rows": [row.name for row in t.rows]} for t in tables])
    else:
        print_table(("TABLE", "ROWS", "TITLE"), [(t.name, str(len(t.rows)), t.options.title) for t in tables])


def _make(plan: Plan, workers: int, quiet: bool) -> None:
    plan.write()
    tasks = list(plan.missing())
    started, done = time.perf_counter(), 0

    def told(task: Task, result: Result) -> None:
        nonlocal done
        done += 1
        plan.place.write(task.row, result)
        left = time_left(time.perf_counter() - started, done, len(tasks))
        if not quiet:
            what = f"{task.row}, seed {task.seed}: {result.value:.2f} in {result.seconds:.0f} s"
            click.echo(f"[{done}/{len(tasks)}] {what}{left}", err=True)

    run_all(tasks, workers, told)


def _print(table: Table, lines: Sequence[Line], form: str, as_json: bool) -> None:
    if as_json:
        print_json({"table": table.name, "title": table.options.title, "rows": [asdict(each) for each in lines]})
    elif form == "markdown":
        click.echo(report.markdown(table, lines))
    else:
        print_table(report.HEAD, [report.cells(each) for each in lines])
