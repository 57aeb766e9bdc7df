"""`clkd runs`: which runs there are."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import click

from clkd.cache import cache_directory
from clkd.cli.common import json_option, print_json, print_table
from clkd.compare.select import all_runs, check_key, chosen, kept, ordered
from clkd.compare.summary import Summary, is_fraction
from clkd.page.words import moment
from clkd.tracking.points import percent


@click.command("runs", short_help="List runs, filtered and sorted.")
@click.argument("wanted", nargs=-1, metavar="[RUN|GROUP]...")
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only such runs; also != < <= > >=, and * in text.",
)
@click.option("--sort", default="created", metavar="KEY", show_default=True, help="-KEY sorts from high to low.")
@click.option("--metric", default="average_accuracy", metavar="NAME", show_default=True, help="The number shown.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N.")
@json_option
def command(
    wanted: tuple[str, ...], conditions: tuple[str, ...], sort: str, metric: str, limit: int | None, as_json: bool
) -> None:
    """List runs, oldest first: those that are named, or all below this folder (of all folders, if it has none).

    KEY is id, name, group, seed, status, data, dataset, version, created, or a number of `result.json`:
    average_accuracy, compute.training_macs, seconds.total, …

    clkd runs --where status=finished --where 'average_accuracy>0.5' --sort -average_accuracy
    """
    cache = cache_directory()
    found = chosen(wanted, cache) if wanted else all_runs(cache)
    check_key(f"--metric {metric}", metric, [run for run in found if run.numbers])
    runs = kept(ordered(found, sort), conditions)[:limit]
    if as_json:
        print_json([_facts(run) for run in runs])
    elif not runs:
        click.echo("no run yet" if not found else f"none of {len(found)} runs", err=True)
    else:
        head = ("ID", "GROUP", "SEED", "STATUS", "DATA", metric.upper(), "SECONDS", "STARTED", "DIRECTORY")
        print_table(head, [_cells(run, metric, is_fraction(metric, runs)) for run in runs])


def _cells(run: Summary, metric: str, fraction: bool) -> tuple[str, ...]:
    value, seconds = run.numbers.get(metric), run.numbers.get("seconds.total")
    return (
        run.id,
        run.group,
        "-" if run.seed is None else str(run.seed),
        run.status,
        run.data or "-",
        percent(value) if value is None or fraction else f"{value:.4g}",
        "-" if seconds is None else f"{seconds:.0f}",
        moment(run.created),
        os.path.relpath(run.path),
    )


def _facts(run: Summary) -> dict[str, Any]:
    return {**asdict(run), "path": str(run.path), "data": run.data}
